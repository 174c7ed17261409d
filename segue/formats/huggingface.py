"""How is a translator exported to Hugging Face's transformers? As a MarianMTModel, which is the paper's Transformer.

`AutoModelForSeq2SeqLM` and `AutoTokenizer` of transformers 4 and 5 load the result without Segue. The scores are the
same, with these differences:

- The longest output is `LONGEST_OUTPUT` tokens: a generation config cannot limit it relative to the source.
- With several target languages, the user writes the language token before the source, as in "<2de> A dog runs." It is
  an added token; other special tokens are never recognized in a text, as in Segue (except by a word tokenizer).
- Text normalization is part of the tokenizer. It lowercases letter by letter: a word-final capital sigma becomes σ, not
  ς.
- If source and target are cut into tokens differently, as in an imported model, the tokenizer is that of the source.
- The probability of forbidden n-grams is redistributed to other tokens, also in scores.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf
import torch
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from segue import card
from segue.data.text import BLANK, ELISIONS, LEFT_OUT, NUMBERS, RAISED, STRONG, WEAK, TextSection, unfolded
from segue.data.tokenizer import UNKNOWN, WORD_MARK
from segue.data.vocabularies import BEGIN, END, PADDING, TO_LANGUAGE, Vocabularies
from segue.decoding.search import Hypothesis, SearchSection
from segue.engine.state.checkpoint import write_tensors
from segue.errors import UserError
from segue.formats.exporter import Exporter
from segue.models.transformer import Transformer, TransformerSection
from segue.tasks.translation import Trained
from segue.tasks.translation.pairs import padded

LONGEST_SOURCE = 1024
"""Maximum number of source tokens: the size of the table of sinusoids in transformers, which equal Segue's."""
LONGEST_OUTPUT = 512
"""Default maximum of output tokens, including begin and end; `max_length` can change it, up to `LONGEST_SOURCE`."""
NAMES = {
    "encoder": "model.encoder.layers",
    "decoder": "model.decoder.layers",
    "source_embedding": "model.encoder.embed_tokens",
    "target_embedding": "model.decoder.embed_tokens",
    "head": "lm_head",
    "attention": "self_attn",
    "attention_norm": "self_attn_layer_norm",
    "cross_attention": "encoder_attn",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "out_proj",
    "feed_forward": "",
    "feed_forward_norm": "final_layer_norm",
    "up": "fc1",
    "down": "fc2",
}
"""Part of a parameter name in Segue -> in Marian."""
SHARED = "model.shared"
"""The embedding in Marian, if there is only one."""
OUTPUT_BIAS, LOGITS_BIAS = "output_bias.weight", "final_logits_bias"
"""The bias of the output in Segue, (V, 1), and in Marian, (1, V), where every model has one."""


def write(
    model: Transformer,
    section: TransformerSection,
    vocabularies: Vocabularies,
    search: SearchSection,
    folder: Path,
    text: TextSection | None = None,
) -> None:
    """Writes the model to `folder`. Without `text` the tokenizer does not normalize texts.

    Raises a UserError that names every setting that Marian does not support.
    """
    check(section, vocabularies, text)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", weights(model), {"format": "pt"})
    _write_json(folder / "config.json", config(section, vocabularies))
    _write_json(folder / "generation_config.json", _generation(vocabularies, search))
    named = {"bos_token": BEGIN, "eos_token": END, "pad_token": PADDING, "unk_token": UNKNOWN}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "split_special_tokens": True,  # "</s>" in a text is ordinary text
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": LONGEST_SOURCE,
        "padding_side": "right",
    }
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", named)
    _write_json(folder / "tokenizer.json", _tokenizer(vocabularies, text))


def weights(model: Transformer) -> dict[str, Tensor]:
    """The model's parameters under Marian's names; biases that only Marian has are 0."""
    tensors = dict(model.state_dict())
    bias = tensors.pop(OUTPUT_BIAS, torch.zeros(model.target_embedding.num_embeddings, 1))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is None and module is not model.head:
            tensors[f"{name}.bias"] = module.weight.new_zeros(len(module.weight))
    found = {marian_name(name, model): tensor for name, tensor in tensors.items()} | {LOGITS_BIAS: bias.T}
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def marian_name(name: str, model: Transformer) -> str:
    """Marian's name of a parameter of the model, except for the bias of the output."""
    names = NAMES if model.source_embedding is not None else NAMES | {"target_embedding": SHARED}
    return ".".join(word for part in name.split(".") if (word := names.get(part, part)))


def config(section: TransformerSection, vocabularies: Vocabularies) -> dict[str, Any]:
    """The content of `config.json`."""
    size = len(vocabularies.target)
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("attention_heads", section.heads), ("ffn_dim", section.feed_forward), ("layerdrop", 0.0))
    }
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "vocab_size": size,
        "decoder_vocab_size": size,
        "d_model": section.width,
        "encoder_layers": section.encoder_layers,
        "decoder_layers": section.decoder_layers,
        **sides,
        "activation_function": section.activation,
        "dropout": section.dropout,
        "attention_dropout": section.attention_dropout,
        "activation_dropout": section.feed_forward_dropout,
        "max_position_embeddings": LONGEST_SOURCE,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": section.tied == "all",
        "tie_word_embeddings": section.tied != "none",
        **_ends(vocabularies),
        "forced_eos_token_id": None,  # Marian's default is token 0
        "torch_dtype": "float32",  # transformers 4
        "dtype": "float32",  # transformers 5
    }


def check(section: TransformerSection, vocabularies: Vocabularies, text: TextSection | None) -> None:
    """Raises a UserError that names what prevents the export."""
    permitted: dict[str, tuple[object, tuple[object, ...]]] = {
        "model.norm": (section.norm, ("post",)),
        "model.positions": (section.positions, ("sinusoidal",)),
        "model.activation": (section.activation, ("relu", "gelu", "swish")),
        "model.key_value_heads": (section.key_value_heads or section.heads, (section.heads,)),
        "text.case": (text.case if text else "keep", ("keep", "lower")),
    }
    wrong = [
        f"{key} = {json.dumps(value)} would have to be {' or '.join(map(json.dumps, wanted))}"
        for key, (value, wanted) in permitted.items()
        if value not in wanted
    ]
    if vocabularies.source.tokens != vocabularies.target.tokens:
        wrong.append("source_tokenizer would have to be left out: one tokenizer serves both sides")
    if wrong:
        raise UserError(
            f"not for Hugging Face, whose MarianMTModel is the paper's Transformer: {'; '.join(wrong)}; "
            "export to ctranslate2 or onnx instead"
        )


def _ends(vocabularies: Vocabularies) -> dict[str, int]:
    return {
        "pad_token_id": vocabularies.padding,
        "bos_token_id": vocabularies.begin,
        "eos_token_id": vocabularies.end,
        "decoder_start_token_id": vocabularies.begin,
    }


def _generation(vocabularies: Vocabularies, search: SearchSection) -> dict[str, Any]:
    """The content of `generation_config.json`: the settings of the search."""
    special = vocabularies.target.special
    settings = {
        **_ends(vocabularies),
        "max_length": LONGEST_OUTPUT,
        "num_beams": search.beams,
        # Never generated; their probability is redistributed to the other tokens.
        "suppress_tokens": sorted(number for token, number in special.items() if token != END),
        "renormalize_logits": True,
    }
    if search.beams > 1:  # False: stop when no live hypothesis scores better at its current length
        settings |= {"length_penalty": search.alpha, "early_stopping": False}
    if search.no_repeat_ngram:
        settings["no_repeat_ngram_size"] = search.no_repeat_ngram
    return settings


def _tokenizer(vocabularies: Vocabularies, rule: TextSection | None) -> dict[str, Any]:
    """The content of `tokenizer.json`: the model's tokenizer, plus text normalization and the end token."""
    inner = hf.Tokenizer.from_str(vocabularies.source.to_json())  # its tokens are those of the target
    if rule is not None:
        own = [] if inner.normalizer is None else [inner.normalizer]
        inner.normalizer = normalizers.Sequence([_normalizer(rule), *own]) if own else _normalizer(rule)
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, vocabularies.end)]
    )
    edges = decoders.Replace(hf.Regex(r"\A +| +\z"), "")  # the package's Strip panics on empty results
    if isinstance(inner.pre_tokenizer, pre_tokenizers.ByteLevel):
        inner.decoder = decoders.Sequence([decoders.ByteLevel(), edges])
    elif not isinstance(inner.pre_tokenizer, pre_tokenizers.WhitespaceSplit):  # words are joined by spaces anyway
        inner.decoder = decoders.Sequence([decoders.Replace(WORD_MARK, " "), decoders.Fuse(), edges])
    state: dict[str, Any] = json.loads(inner.to_str())
    languages = {TO_LANGUAGE.format(language) for language in vocabularies.languages}
    for token in state["added_tokens"]:
        if token["content"] in languages:  # recognized in a text, with the space after it
            token |= {"special": False, "rstrip": True}
    return state


_HIDDEN = 0xF0000  # first character of a private use area
_EDGE, _OPENING = "\ufdd1", "\ufdd2"  # noncharacters


def _quotes() -> list[Any]:
    """Removes apostrophes only in pairs around words, as `data.text` does."""
    inside, outside = r"(?<=[\p{L}\p{M}\p{N}])", r"(?<![\p{L}\p{M}\p{N}])"
    before, not_before = r"(?=[\p{L}\p{M}\p{N}])", r"(?![\p{L}\p{M}\p{N}])"
    elision = rf"(?=(?i:{'|'.join(ELISIONS.split())})(?!\w))"
    any_edge = f"['{_EDGE}]"
    between = f"(?:[^'{_EDGE}{_OPENING}]|{inside}'{before}|{outside}{any_edge}{elision})*+"
    closing = f"{any_edge}{not_before}"
    return [
        _replace(f"{inside}{_EDGE}{before}", "'"),
        _replace(f"{any_edge}{{2,}}", " "),
        _replace(f"{outside}{any_edge}(?!{elision}){before}(?={between}{closing})", _OPENING),
        _replace(rf"{_OPENING}{between}\K{closing}", " "),
        normalizers.Replace(_OPENING, " "),
        _replace(f"{outside}{any_edge}{not_before}", " "),
        _replace(f"{outside}{_EDGE}{elision}", "'"),
        normalizers.Replace(_EDGE, " "),
    ]


def _normalizer(rule: TextSection) -> Any:
    """`data.text.normalize` as normalizers of the tokenizers package, except for joiners, flags and nested quotes."""
    steps: list[Any] = [_replace(f"[{LEFT_OUT}]", ""), _replace(f"[{BLANK}]", " ")]
    removes, has_apostrophes = rule.punctuation == "remove", "'" in rule.keep_characters
    if removes and has_apostrophes:
        steps += [_replace(f"[{STRONG}]", "'"), _replace(f"[{WEAK}]", _EDGE)]
    steps += _folding(rule)
    if rule.case == "lower":
        steps += [normalizers.Lowercase(), normalizers.Replace("i\u0307", "i"), *_folding(rule)]
    if removes:
        kept = "".join(f"\\x{{{ord(character):x}}}" for character in rule.keep_characters)
        steps += [
            _replace(rf"[\p{{P}}\p{{S}}&&[^{kept}]]" if kept else r"[\p{P}\p{S}]", " "),
            _replace("[\u20d0-\u20ff\ufe00-\ufe0f]", ""),
        ]
        if has_apostrophes:
            steps += _quotes()
    spaces = "".join(character for character in map(chr, range(0x3001)) if character.isspace())
    steps += [_replace(f"[{spaces}]+", " "), normalizers.Strip()]
    return normalizers.Sequence(steps)


def _replace(pattern: str, content: str) -> Any:
    return normalizers.Replace(hf.Regex(pattern), content)


def _folding(rule: TextSection) -> list[Any]:
    """The Unicode normal form, except for characters that `data.text.folded` leaves unchanged."""
    if rule.unicode_form == "NFC":
        return [normalizers.NFC()]
    symbols = unfolded()
    one = f"[{NUMBERS}&&[^{RAISED}]]"
    meet = rf"(?<=\d)(?=[{NUMBERS}])|(?<=[{NUMBERS}])(?=\d|{one})|(?<={one})(?=[{NUMBERS}])"
    apart = [_replace(meet, " ")]
    if rule.punctuation == "remove":
        return [*apart, _replace(f"[{''.join(symbols)}]", " "), normalizers.NFKC()]
    hidden = [(symbol, chr(_HIDDEN + number)) for number, symbol in enumerate(symbols)]
    away = [normalizers.Replace(symbol, other) for symbol, other in hidden]
    return [*apart, *away, normalizers.NFKC(), *(normalizers.Replace(other, symbol) for symbol, other in hidden)]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


# --- Exporter ---


def loaded(kind: str, folder: Path) -> Any:
    """A model of a class of transformers, for the comparison; without its progress bars, which would stay in logs."""
    import transformers

    transformers.logging.disable_progress_bar()
    return getattr(transformers, kind).from_pretrained(folder).eval()


class TransformersBackend:
    """Runs an export with the search of transformers."""

    def __init__(self, folder: Path, end: int) -> None:
        self.model = loaded("AutoModelForSeq2SeqLM", folder)
        self._end = end

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs for each row of source tokens; does not support prefixes."""
        assert prefixes is None
        padding = self.model.config.pad_token_id
        source, lengths = padded(rows, padding)
        if source.shape[1] > LONGEST_SOURCE:
            raise UserError(f"a source of {source.shape[1]} tokens: Marian models read {LONGEST_SOURCE} at most")
        longest = int(int(lengths.max()) * section.longest_factor + section.longest_extra)
        beams = max(section.beams, num_best)
        with torch.inference_mode():
            found = self.model.generate(
                input_ids=source,
                attention_mask=(source != padding).long(),
                max_length=min(longest + 2, LONGEST_SOURCE),  # including begin and end
                num_beams=beams,
                num_return_sequences=num_best,
                length_penalty=section.alpha,
                no_repeat_ngram_size=section.no_repeat_ngram,
                output_scores=True,
                return_dict_in_generate=True,
            )
            # transformers returns no scores of greedy outputs.
            steps = self.model.compute_transition_scores(
                found.sequences, found.scores, getattr(found, "beam_indices", None), normalize_logits=beams == 1
            )
        hypotheses = []
        for row, scores in zip(found.sequences.tolist(), steps.tolist(), strict=True):
            written = row[1:]
            length = written.index(self._end) + 1 if self._end in written else len(written)
            is_complete = self._end in written
            total = sum(scores[:length])
            tokens = written[: length - is_complete]
            hypotheses.append(Hypothesis(tokens, total / max(1, length) ** section.alpha, total, is_complete))
        return [hypotheses[start : start + num_best] for start in range(0, len(hypotheses), num_best)]

    def attention(self, source: Sequence[int], target: Sequence[int]) -> None:
        """None: not needed for exports."""
        del source, target


def _write(trained: Trained, folder: Path, kind: str) -> None:
    del kind
    section = trained.recipe
    write(trained.model, section.model, trained.vocabularies, section.search, folder, section.text)


def _use(trained: Trained, folder: str) -> str:
    languages = trained.vocabularies.languages
    language = f"{TO_LANGUAGE.format(languages[0])} " if len(languages) > 1 else ""
    code = f"""from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForSeq2SeqLM.from_pretrained("{folder}")
batch = tokenizer(["{language}a line of text"], return_tensors="pt", padding=True)
print(tokenizer.decode(model.generate(**batch)[0], skip_special_tokens=True))"""
    return f"With transformers, version 4 or 5:\n\n{card.python(code)}"


TEXT = Exporter(
    packages=("transformers",),
    write=_write,
    run=lambda trained, folder, threads: TransformersBackend(folder, trained.vocabularies.end),  # noqa: ARG005
    use=_use,
    quantizations=(),
)
