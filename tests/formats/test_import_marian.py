"""MarianMTModel directories, imported: random models that transformers saves, with tokenizers written here."""

import json
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel

import segue
from segue import tasks
from segue.cli import main
from segue.data.vocabularies import BEGIN
from segue.layers.mask import length_mask
from segue.tasks.translation import Trained

NUMBERS = [f"{word}{number}" for word in ("one", "two", "three") for number in range(4)]
SOURCE = {"▁": -3.0, **{f"▁{word}": -4.0 for word in NUMBERS}, **dict.fromkeys("abcdefghinorstuvw0123.,", -6.0)}
TARGET = {"▁": -3.0, **{f"▁{word[::-1]}": -4.0 for word in NUMBERS}, **dict.fromkeys("abcehnortwxyz0123.!", -5.5)}
LANGUAGES = [">>deu<<", ">>fra<<"]
SIZES: dict[str, Any] = {
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 48))},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    "d_model": 32,
    "max_position_embeddings": 64,
    "scale_embedding": True,
    "activation_function": "swish",
    "dropout": 0.0,
}
LINES = ["one1 two2 three3.", "two0 two1, one3 one3 one3", "three1", "go to one2 at 3."]


def varint(number: int) -> bytes:
    low = number & 0x7F
    return bytes([low]) if number < 0x80 else bytes([low | 0x80]) + varint(number >> 7)


def field(number: int, content: bytes | str | float) -> bytes:
    """A field of a message of protobuf: text, bytes, a number of four bytes or an integer."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    if isinstance(content, float):
        return varint(number << 3 | 5) + struct.pack("<f", content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def pieces(scores: Mapping[str, float], trainer: bytes = b"", more: bytes = b"") -> bytes:
    """A model of SentencePiece: unknown, control and normal pieces."""
    rows = [field(1, "<unk>") + field(2, 0.0) + field(3, 2), field(1, "</s>") + field(2, 0.0) + field(3, 3)]
    rows += [field(1, piece) + field(2, score) for piece, score in scores.items()]
    return (
        b"".join(field(1, row) for row in rows)
        + more
        + field(2, field(3, 1) + trainer)
        + field(3, field(1, "identity"))
    )


def numbered(*scores: Mapping[str, float], languages: Sequence[str] = ()) -> dict[str, int]:
    """vocab.json: in another order than that of the pieces."""
    known = sorted({piece for each in scores for piece in each}, key=lambda piece: piece[::-1])
    return {token: number for number, token in enumerate(["</s>", "<unk>", *known, *languages, "<pad>"])}


def teach(model: MarianMTModel, source: Mapping[str, int], target: Mapping[str, int]) -> None:
    """Words to words written backwards, a few steps: outputs then end, and are not all the same."""
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        words = torch.randint(len(NUMBERS), (32, 2), generator=draw).tolist()
        rows = [[*(source[f"▁{NUMBERS[word]}"] for word in row), 0] for row in words]
        labels = [[*(target[f"▁{NUMBERS[word][::-1]}"] for word in row), 0] for row in words]
        loss = model(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def directory(folder: Path, languages: Sequence[str] = (), *, is_taught: bool = False, **settings: Any) -> Path:
    """What transformers saves of a random model, and the files of its tokenizer."""
    separate = settings.get("share_encoder_decoder_embeddings") is False
    vocabulary = numbered(*((SOURCE,) if separate else (SOURCE, TARGET)), languages=languages)
    target = numbered(TARGET) if separate else vocabulary
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.spm").write_bytes(pieces(SOURCE))
    (folder / "target.spm").write_bytes(pieces(TARGET))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    if separate:
        (folder / "target_vocab.json").write_text(json.dumps(target, ensure_ascii=False))
    ends: dict[str, Any] = {"pad_token_id": vocabulary["<pad>"], "eos_token_id": 0, "forced_eos_token_id": 0}
    if separate:
        ends["pad_token_id"] = target["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary),
        decoder_vocab_size=len(target),
        decoder_start_token_id=ends["pad_token_id"],
        **ends,
        **SIZES | settings,
    )
    torch.manual_seed(0)
    model: Any = MarianMTModel(config)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name or "shared" in name or "lm_head" in name:
                parameter.normal_(std=0.25)
            elif "norm" in name:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.1)
            elif "position" not in name:
                parameter.normal_(std=0.2)
        model.final_logits_bias.normal_()
    if is_taught:
        teach(model, vocabulary, target)
    model.generation_config.num_beams = 3
    model.generation_config.bad_words_ids = [[ends["pad_token_id"]]]
    model.generation_config.length_penalty = 0.8
    model.save_pretrained(folder)
    return folder


def marian(folder: Path) -> Any:
    """The model as transformers loads it."""
    model: Any = MarianMTModel.from_pretrained(folder)
    return model.eval()


def imported(source: Path, out: Path) -> Trained:
    assert main(["import", str(source), str(out)]) == 0
    trained = tasks.restore(out)
    assert isinstance(trained, Trained)
    return trained


CASES: dict[str, dict[str, Any]] = {
    "opus-mt": {},
    "relu, deeper encoder": {"activation_function": "relu", "encoder_layers": 3},
    "two vocabularies": {"share_encoder_decoder_embeddings": False},
    "nothing tied": {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_scores_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    source = directory(tmp_path / "marian", **CASES[name])
    theirs = marian(source)
    trained = imported(source, tmp_path / "model")
    rows = [trained.vocabularies.source_tokens(trained.vocabularies.source.encode(line), None) for line in LINES]
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    written = torch.randint(
        2, theirs.config.decoder_vocab_size - 1, (len(rows), 9), generator=torch.Generator().manual_seed(1)
    )
    start = theirs.config.decoder_start_token_id
    given = torch.cat([torch.full((len(rows), 1), start), written], dim=1)
    mask = length_mask(lengths, tokens.shape[1]).squeeze(1)
    wanted = theirs(input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=given).logits
    given[:, 0] = trained.vocabularies.begin
    found = trained.model(tokens, lengths, given, torch.arange(given.numel())).view(*given.shape, -1)
    size = wanted.shape[2]
    torch.testing.assert_close(found[..., :size], wanted, atol=1e-4, rtol=0)
    assert len(trained.vocabularies.target) == size + 1
    torch.testing.assert_close(found[..., size], wanted[..., start], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "opus-mt" else pytest.mark.slow) for name in CASES],
)
def test_translations_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    source = directory(tmp_path / "marian", is_taught=True, **CASES[name])
    theirs = marian(source)
    trained = imported(source, tmp_path / "model")
    both = trained.vocabularies
    translator = segue.load(tmp_path / "model", device="cpu")
    assert translator.metadata.search.beams == 3
    assert translator.metadata.search.alpha == 0.8
    seen = set()
    for line in [*LINES[:3], *(" ".join(NUMBERS[first : first + 2]) for first in range(8))]:
        row = both.source_tokens(both.source.encode(line), None)
        with torch.inference_mode():
            found = theirs.generate(
                torch.tensor([row]),
                max_length=2 * len(row) + 10 + 2,
                suppress_tokens=[1, theirs.config.pad_token_id],
                renormalize_logits=True,
            )
        wanted = found[0].tolist()[1:]
        wanted = wanted[: wanted.index(0)]
        assert translator.translate([line]) == [both.target.decode(wanted)]
        seen.add(tuple(wanted))
    assert len(seen) > 5


def test_tokens_have_the_numbers_of_vocab_json(tmp_path: Path) -> None:
    source = directory(tmp_path / "marian", LANGUAGES)
    both = imported(source, tmp_path / "model").vocabularies
    numbers = json.loads((source / "vocab.json").read_text())
    assert both.source is not both.target
    assert both.source.tokens == both.target.tokens
    wanted = ["▁one1", "▁", "w", "o", "w", "."]
    assert both.source.encode("one1 wow.") == [numbers[piece] for piece in wanted]
    # Pieces of the other side are not used, where there are own ones.
    assert both.target.encode("1eno one1")[0] == numbers["▁1eno"]
    assert both.target.encode("1eno one1")[1:] == [numbers[piece] for piece in ("▁", "o", "n", "e", "1")]
    assert both.source.encode("漢") == [numbers["▁"], numbers["<unk>"]]
    assert both.languages == ["deu", "fra"]
    assert both.source_tokens([5], "fra") == [numbers[">>fra<<"], 5, 0]
    assert both.source.decode([numbers[">>fra<<"], numbers["▁one1"]]) == "one1"
    assert both.begin == len(numbers) == both.source.special[BEGIN]


def test_tokens_are_those_of_sentencepiece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece, of segue[dev], is not installed")
    from transformers import MarianTokenizer

    texts = [
        "Guten Morgen, wie geht\u2019s? ½ \ufb01n \uff11\uff12",
        "ein  Café",
        "Ein kleines Mädchen klettert.",
        "Das ist gut!",
    ]
    source = directory(tmp_path / "marian")
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts * 20 + (["ein Hund läuft schnell"] * 9 if side == "target" else [])),
            model_prefix=str(source / side),
            vocab_size=70,
            hard_vocab_limit=False,
            model_type="unigram",
        )
        (source / f"{side}.model").rename(source / f"{side}.spm")
    vocabularies = [
        dict.fromkeys(set(source.joinpath(f"{side}.vocab").read_text().split()[::2]) - {"<s>", "</s>", "<unk>"}, 0.0)
        for side in ("source", "target")
    ]
    numbers = numbered(*vocabularies)
    (source / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False))
    config = json.loads((source / "config.json").read_text())
    ends = dict.fromkeys(("pad_token_id", "decoder_start_token_id"), numbers["<pad>"])
    sizes = dict.fromkeys(("vocab_size", "decoder_vocab_size"), len(numbers))
    MarianMTModel(MarianConfig(**{**config, **sizes, **ends})).save_pretrained(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without sacremoses it does not normalize punctuation: neither do we
        theirs: Any = MarianTokenizer(
            str(source / "source.spm"), str(source / "target.spm"), str(source / "vocab.json")
        )
    both = imported(source, tmp_path / "model").vocabularies
    for text in [*texts, "Mädchen gehen wie gut", "  ein \uff23afé ", "Gut½en"]:
        assert both.source_tokens(both.source.encode(text.strip()), None) == theirs(text).input_ids
        assert [*both.target.encode(text.strip()), 0] == theirs(text_target=text).input_ids
        assert both.target.decode(both.target.encode(text.strip())) == theirs.decode(
            theirs(text_target=text).input_ids, skip_special_tokens=True
        )


@pytest.mark.slow
def test_imported_translators_are_ordinary_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated, fine-tuned, exported: each export is compared with it."""
    lines = [{"source": line, "target": line[::-1], "target_language": "deu"} for line in LINES * 4]
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({**line, "id": f"{name}{number}"}) + "\n" for number, line in enumerate(lines))
        )
    model, run = tmp_path / "model", tmp_path / "run"
    imported(directory(tmp_path / "marian", LANGUAGES, is_taught=True), model)
    card = (model / "README.md").read_text()
    assert "\n- deu\n- fra\n" in card
    assert main(["evaluate", str(model), str(tmp_path / "test.jsonl")]) == 0
    fast = ["engine.steps=2", "engine.threads=1", "engine.evaluate_every=2", "engine.save_every=2"]
    assert main(["train", "--from", str(model), f"data.root={tmp_path}", "--out", str(run), *fast]) == 0
    told = json.loads((run / "start.json").read_text())["tensors"]
    assert {each["fate"] for each in told} == {"loaded"}
    for each in (model, run):
        for target in ("ctranslate2", "huggingface"):
            out = tmp_path / f"{each.name}_{target}"
            words = ["export", str(each), target, str(out), "--examples", str(tmp_path / "test.jsonl")]
            assert main(words) == 0, capsys.readouterr().err
    # What transformers loads reads texts as we do.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model_huggingface")
    both = tasks.restore(model).vocabularies
    assert tokenizer("<2fra> two1 one3.").input_ids == both.source_tokens(both.source.encode("two1 one3."), "fra")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model_huggingface")
    size = len(both.target) - 1
    first = MarianMTModel.from_pretrained(tmp_path / "marian")
    torch.testing.assert_close(again.final_logits_bias[:, :size], first.final_logits_bias)


def test_the_card_keeps_the_license(tmp_path: Path) -> None:
    source = directory(tmp_path / "marian")
    (source / "README.md").write_text(
        "---\nlanguage:\n- en\nlicense: cc-by-4.0\ntags: []\n---\n# A model\nlicense: mit\n"
    )
    assert imported(source, tmp_path / "model").recipe.license == "cc-by-4.0"
    assert "license: cc-by-4.0" in (tmp_path / "model" / "README.md").read_text()


def test_weights_may_be_in_torch_s_format(tmp_path: Path) -> None:
    """Also in that of torch before 1.6, in which the first opus-mt models are."""
    source = directory(tmp_path / "marian")
    whole = imported(source, tmp_path / "whole").model.state_dict()
    state = MarianMTModel.from_pretrained(source).state_dict()
    (source / "model.safetensors").unlink()
    for number, is_new in enumerate((True, False)):
        torch.save(state, source / "pytorch_model.bin", _use_new_zipfile_serialization=is_new)
        again = imported(source, tmp_path / str(number)).model.state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def changed(folder: Path, name: str, **settings: Any) -> None:
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**values, **settings}))


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: changed(d, "config.json", model_type="t5"),
            "config.json: model_type: 't5' cannot be imported, only",
        ),
        (lambda d: changed(d, "config.json", scale_embedding=False), "scale_embedding: false cannot be imported, only"),
        (lambda d: changed(d, "config.json", activation_function="tanh"), "activation_function: 'tanh' cannot be"),
        (lambda d: changed(d, "config.json", decoder_ffn_dim=64), "decoder_ffn_dim: 64 cannot be imported, only 48"),
        (lambda d: changed(d, "config.json", d_model="32"), "config.json: d_model: a whole number is wanted, not '32'"),
        (lambda d: changed(d, "config.json", encoder_layers=3), "model.encoder.layers.2.self_attn.query"),
        (lambda d: changed(d, "config.json", encoder_layers=1), "Segue's Transformer has no such weights"),
        (
            lambda d: changed(d, "config.json", vocab_size=9, decoder_vocab_size=9),
            "vocab.json: numbers from 0 to 8 are wanted, each once",
        ),
        (lambda d: changed(d, "config.json", eos_token_id=3), "vocab.json: </s> has the number 0, config.json says 3"),
        (lambda d: without(d, "source.spm"), "source.spm: No such file or directory"),
        (lambda d: without(d, "config.json"), "no config.json in it, as a Hugging Face directory has"),
        (lambda d: without(d, "vocab.json"), "vocab.json: No such file or directory"),
        (lambda d: without(d, "model.safetensors"), "neither model.safetensors nor pytorch_model.bin is in it"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not JSON: "),
        (lambda d: (d / "model.safetensors").write_bytes(b"12"), "model.safetensors: not a safetensors file"),
        (lambda d: (d / "target.spm").write_bytes(b"\x0a\xff"), "target.spm: not a model of SentencePiece, or cut off"),
        (lambda d: (d / "target.spm").write_bytes(b""), "target.spm: not a model of SentencePiece, or cut off"),
        (lambda d: (d / "target.spm").write_bytes(pieces(TARGET, field(3, 2))), "model_type bpe cannot be imported"),
        (
            lambda d: (d / "target.spm").write_bytes(pieces(TARGET, more=field(1, field(1, "x") + field(3, 4)))),
            "the piece 'x' is user-defined or a byte",
        ),
    ],
)
def test_what_cannot_be_imported_is_named(
    spoil: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = directory(tmp_path / "marian")
    spoil(source)
    capsys.readouterr()
    assert main(["import", str(source), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message.replace(".query", ".") in said
    assert said.startswith("segue: ")
    assert not (tmp_path / "out").exists()


def test_one_language_token_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(directory(tmp_path / "marian", [">>deu<<"]), tmp_path / "model")
    assert "only one language token, >>deu<<: it is not written before sources" in capsys.readouterr().err


def test_nemo_version_is_only_for_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import", str(directory(tmp_path / "marian")), str(tmp_path / "out"), "--nemo-version", "2.0"]
    assert main(words) == 2
    assert "is a Hugging Face directory, not a .nemo archive" in capsys.readouterr().err
