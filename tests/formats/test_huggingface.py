"""Translators in Hugging Face's layout: what transformers loads reads, scores and writes as ours do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianMTModel, PreTrainedTokenizerFast

from segue.data import tokenizer
from segue.data.text import TextSection, normalize
from segue.data.tokenizer import (
    UNKNOWN,
    BPESection,
    BytesSection,
    CharactersSection,
    TokenizerSection,
    UnigramSection,
    WordsSection,
)
from segue.data.vocabularies import BEGIN, END, PADDING, Vocabularies
from segue.decoding.search import SearchSection
from segue.errors import UserError
from segue.formats.huggingface import LONGEST_OUTPUT, write
from segue.models.transformer import Transformer, TransformerSection
from segue.tasks.translation.search import TorchBackend

SPECIAL = [PADDING, BEGIN, END, UNKNOWN]
LANGUAGES = ["<2de>", "<2fr>"]
TEXTS = [
    "two men in blue shirts are standing at a street corner, and they are talking to each other.",
    "a little girl in a pink dress is climbing the wooden stairs of her playhouse.",
    "zwei männer in blauen hemden stehen an einer straßenecke und unterhalten sich.",
    "Ein kleines Mädchen in einem rosa Kleid klettert die hölzerne Treppe ihres Spielhauses hinauf.",
]
STRANGE = ["“quoted” isn\u2019t  ﬁne　x\u00a0y\x1cz ", "a▁b ▁ 🙂 $5+3=8 e\u0301 [a-b] ^", "", "a dog </s> <pad> <unk>s"]
KINDS: dict[str, TokenizerSection] = {
    "characters": CharactersSection(kind="characters"),
    "words": WordsSection(kind="words"),
    "bytes": BytesSection(kind="bytes"),
    "bpe": BPESection(kind="bpe", size=120),
    "unigram": UnigramSection(kind="unigram", size=120),
}
RULES = {
    "translation": TextSection(case="keep", punctuation="keep", unicode_form="NFC"),
    "speech": TextSection(),
    "brackets": TextSection(keep_characters="-]^", unicode_form="NFC"),
    "no punctuation": TextSection(keep_characters=""),
}
PAPER = TransformerSection.model_validate(
    {
        "kind": "transformer",
        "norm": "post",
        "width": 32,
        "feed_forward": 48,
        "heads": 4,
        "encoder_layers": 1,
        "decoder_layers": 2,
    }
)
GREEDY = SearchSection(beams=1)


def changed(**settings: Any) -> TransformerSection:
    return PAPER.model_copy(update=settings)


def joint(kind: str, rule: TextSection, special: list[str] = SPECIAL) -> Vocabularies:
    vocabulary = tokenizer.build(KINDS[kind], [normalize(text, rule) for text in TEXTS], special)
    return Vocabularies(vocabulary, vocabulary)


def random_model(section: TransformerSection, vocabularies: Vocabularies) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(section, len(vocabularies.source), len(vocabularies.target)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    if model.output_bias is not None:
        torch.nn.init.normal_(model.output_bias.weight)
    return model


@pytest.fixture(scope="module")
def bpe() -> Vocabularies:
    return joint("bpe", RULES["translation"])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_texts_are_ours(kind: str, rule: TextSection, tmp_path: Path) -> None:
    vocabularies = joint(kind, rule)
    write(random_model(PAPER, vocabularies), PAPER, vocabularies, GREEDY, tmp_path, rule)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    for text in TEXTS + STRANGE[: 3 if kind == "words" else 4]:
        tokens = vocabularies.source.encode(normalize(text, rule))
        assert theirs(text)["input_ids"] == vocabularies.source_tokens(tokens, None)
        assert theirs(text_target=text)["input_ids"] == [*tokens, vocabularies.end]
        written = [vocabularies.begin, *tokens, vocabularies.end, vocabularies.padding]
        assert theirs.decode(written, skip_special_tokens=True) == vocabularies.target.decode(tokens)
        spaced = [token for token in tokens if not vocabularies.target.pieces[token].strip()]
        assert theirs.decode(spaced, skip_special_tokens=True) == ""
    assert set(theirs(TEXTS)) == {"input_ids", "attention_mask"}
    assert (theirs.pad_token, theirs.bos_token, theirs.eos_token, theirs.unk_token) == (PADDING, BEGIN, END, UNKNOWN)


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_is_written_before_the_source(kind: str, tmp_path: Path) -> None:
    rule = TextSection()
    vocabularies = joint(kind, rule, SPECIAL + LANGUAGES)
    write(random_model(PAPER, vocabularies), PAPER, vocabularies, GREEDY, tmp_path, rule)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        tokens = vocabularies.source.encode(normalize(text, rule))
        for language in ("de", "fr"):
            for given in (f"<2{language}> {text}", f"<2{language}>{text}"):
                assert theirs(given)["input_ids"] == vocabularies.source_tokens(tokens, language)


@pytest.mark.parametrize(
    "section",
    [
        PAPER,
        changed(activation="gelu", tied="target"),
        changed(activation="swish", has_output_bias=True),
        changed(tied="none"),
        changed(tied="none", has_biases=False),
    ],
)
@torch.inference_mode()
def test_scores_are_ours(section: TransformerSection, bpe: Vocabularies, tmp_path: Path) -> None:
    model = random_model(section, bpe)
    write(model, section, bpe, GREEDY, tmp_path)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert isinstance(theirs, MarianMTModel)
    rows = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, return_tensors="pt", padding=True)
    target = torch.randint(len(bpe.target), (4, 70), generator=torch.Generator().manual_seed(0))
    wanted = model(rows["input_ids"], rows["attention_mask"].sum(dim=1), target, torch.arange(4 * 70))
    torch.testing.assert_close(theirs(**rows, decoder_input_ids=target).logits.flatten(0, 1), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("search", [GREEDY, SearchSection(beams=1, no_repeat_ngram=2)], ids=["free", "n-grams"])
def test_what_generate_writes_is_ours(search: SearchSection, bpe: Vocabularies, tmp_path: Path) -> None:
    """Beams, and outputs that end, are tested in `tests/test_marian.py`, with a model that has learned something."""
    model = random_model(PAPER, bpe)
    write(model, PAPER, bpe, search, tmp_path)
    read, theirs = AutoTokenizer.from_pretrained(tmp_path), AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    rows = read(TEXTS + STRANGE, return_tensors="pt", padding=True)
    written = theirs.generate(**rows, max_new_tokens=30)
    tokens = [bpe.source_tokens(bpe.source.encode(text), None) for text in TEXTS + STRANGE]
    limits = {"longest_factor": 1e-9, "longest_extra": 30}
    ours = TorchBackend(model, bpe, torch.device("cpu")).search(tokens, search.model_copy(update=limits))
    assert read.batch_decode(written, skip_special_tokens=True) == [bpe.target.decode(best[0].tokens) for best in ours]
    assert len({tuple(best[0].tokens) for best in ours}) > 3


def test_special_tokens_are_never_written(bpe: Vocabularies, tmp_path: Path) -> None:
    model = random_model(PAPER, bpe)
    special = [number for token, number in bpe.target.special.items() if token != END]
    model.target_embedding.weight.data[special] *= 20  # which it would like to write
    write(model, PAPER, bpe, SearchSection(beams=3), tmp_path)
    rows = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, return_tensors="pt", padding=True)
    written = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).generate(**rows, max_new_tokens=20)
    assert not set(written[:, 1:].flatten().tolist()) & set(special)


def test_files_hold_our_search_and_no_pickle(bpe: Vocabularies, tmp_path: Path) -> None:
    write(random_model(PAPER, bpe), PAPER, bpe, SearchSection(beams=6, alpha=0.6, no_repeat_ngram=3), tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    wanted = {"num_beams": 6, "length_penalty": 0.6, "no_repeat_ngram_size": 3, "max_length": LONGEST_OUTPUT}
    assert generation.items() >= wanted.items()
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize(
    ("settings", "rule", "named"),
    [
        ({"norm": "pre"}, None, ['model.norm = "pre" would have to be "post"']),
        ({"key_value_heads": 2}, None, ["model.key_value_heads = 2 would have to be 4"]),
        (
            {"positions": "rotary", "activation": "swiglu"},
            TextSection(case="upper"),
            [
                'model.positions = "rotary" would have to be "sinusoidal"',
                'model.activation = "swiglu" would have to be "relu" or "gelu" or "swish"',
                'text.case = "upper" would have to be "keep" or "lower"',
            ],
        ),
    ],
)
def test_all_unsupported_settings_are_in_one_line(
    settings: dict[str, Any], rule: TextSection | None, named: list[str], bpe: Vocabularies, tmp_path: Path
) -> None:
    section = changed(**settings)
    with pytest.raises(UserError) as raised:
        write(random_model(section, bpe), section, bpe, GREEDY, tmp_path / "out", rule)
    said = str(raised.value)
    assert "\n" not in said
    assert said.count("would have to be") == len(named)
    assert all(each in said for each in named)
    assert not (tmp_path / "out").exists()


def test_two_tokenizers_are_refused(bpe: Vocabularies, tmp_path: Path) -> None:
    section = changed(tied="target")
    vocabularies = Vocabularies(joint("words", TextSection()).source, bpe.target)
    with pytest.raises(UserError, match="source_tokenizer would have to be left out"):
        write(random_model(section, vocabularies), section, vocabularies, GREEDY, tmp_path)
