"""How is a MarianMTModel of Hugging Face imported? Every translator of opus-mt is one.

Names of weights are those of the export (`huggingface.py`), read in the other direction. vocab.json gives pieces their
numbers; source.spm and target.spm only cut texts into pieces. The tokens `>>xx<<`, which choose the target language,
become Segue's tokens for it, as for `segue translate --to xx`. Differences from transformers:

- `<unk>` is never generated, as in Marian itself, and the probability of impossible tokens goes to the others.
- The decoder begins with a token of its own, whose weights are a copy of those of the padding.
- Punctuation is not normalized as by Moses, which transformers does where sacremoses is installed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segue import recipe
from segue.data.tokenizer import UNKNOWN
from segue.data.vocabularies import BEGIN, END, PADDING, TO_LANGUAGE, Vocabularies
from segue.engine.distributed.materialize import blueprint
from segue.errors import UserError, warn
from segue.formats import sentencepiece_model, weights
from segue.formats.huggingface import LOGITS_BIAS, OUTPUT_BIAS, SHARED, marian_name
from segue.formats.imported import Imported, license_of
from segue.formats.settings import Settings, load_json, read_json, shown
from segue.layers.positions import sinusoids
from segue.models.transformer import Transformer
from segue.tasks import translation
from segue.tasks.translation import Recipe, build_model

CONFIG, GENERATION = "config.json", "generation_config.json"
FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights, in the order in which they are preferred."""
KNOWN = "marian"
ACTIVATIONS = {"swish": "swish", "silu": "swish", "relu": "relu", "gelu": "gelu"}
LEARNING_RATE = 3e-4
"""Marian's, with which opus-mt was trained (github.com/Helsinki-NLP/Opus-MT-train, learn-rate)."""
LONGEST_TOKENS = 256
_EMBEDDINGS = {
    "target_embedding.weight": ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    "source_embedding.weight": ("model.encoder.embed_tokens.weight",),
}
_POSITIONS = tuple(f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder"))
_LANGUAGE = re.compile(r">>(.+)<<")


class Side(NamedTuple):
    """Source or target."""

    tokens: list[str]
    """By number, with Segue's names of the special ones."""
    size: int
    """Tokens in the file: the one with which outputs begin may be added."""
    first: int
    """Number in the file of the token whose weights that one gets."""

    special: list[str]
    """The tokens that are no text."""

    def extended(self, rows: Tensor) -> Tensor:
        """(V, ...) -> (V', ...): a row for each of the tokens."""
        begin = self.tokens.index(BEGIN)
        rows = torch.cat([rows, rows[self.first :][:1]]) if len(self.tokens) > self.size else rows.clone()
        rows[begin] = rows[self.first]
        return rows


def read(folder: Path) -> Imported:
    """The model in a directory. Raises a UserError if it is of another kind, not complete, or cannot be imported."""
    settings = read_json(folder / CONFIG)
    kind = settings.get("model_type", str)
    if kind != KNOWN:
        raise settings.error("model_type", f"{shown(kind)} cannot be imported, only {shown(KNOWN)} (opus-mt)")
    source, target = _sides(folder, settings)
    vocabularies = _vocabularies(folder, source, target)
    section = _recipe(folder, settings, vocabularies)
    model = blueprint(lambda: build_model(section, vocabularies))
    file, tensors = weights.of_folder(folder, FILES)
    languages = vocabularies.languages
    return Imported(
        section,
        _weights(model, tensors, source, target, file),
        file,
        vocabularies.save,
        title="Translation model",
        kind="translation",
        facts=(
            "A MarianMTModel of Hugging Face.",
            *([f"Target languages: {', '.join(languages)}."] if languages else []),
        ),
        use=lambda name: translation.use(name, languages),
        languages=languages,
    )


def _sides(folder: Path, settings: Settings) -> tuple[Side, Side]:
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else settings
    size = settings.get("vocab_size", int)
    padding = settings.get("pad_token_id", int, size - 1)
    first = settings.get("decoder_start_token_id", int, generation.get("decoder_start_token_id", int, padding))
    target_size = settings.get("decoder_vocab_size", int, size)
    ends = {END: settings.get("eos_token_id", int, 0)}
    if (folder / "target_vocab.json").is_file():
        if settings.get("share_encoder_decoder_embeddings", bool, True):
            raise settings.error("share_encoder_decoder_embeddings", "true, but there are two vocabularies")
        # The padding has a number of its own on each side, of which the configuration has one.
        return (
            _side(folder / "vocab.json", size, {}, None),
            _side(folder / "target_vocab.json", target_size, ends, first),
        )
    if target_size != size:
        raise settings.error("decoder_vocab_size", f"{target_size}, but there is no target_vocab.json")
    joint = _side(folder / "vocab.json", size, {**ends, PADDING: padding}, first)
    return joint, joint


def _side(path: Path, size: int, named: Mapping[str, int], first: int | None) -> Side:
    """A vocabulary; `named` are numbers that the configuration says. Without `first`, that is the padding."""
    numbers = load_json(path)
    if not isinstance(numbers, dict) or sorted(map(repr, numbers.values())) != sorted(map(repr, range(size))):
        raise UserError(f"{path}: numbers from 0 to {size - 1} are wanted, each once (vocab_size in {CONFIG}: {size})")
    tokens = sorted(numbers, key=numbers.__getitem__)
    for token in (END, PADDING, UNKNOWN):
        if token not in numbers:
            raise UserError(f"{path}: {token} is missing")
        if numbers[token] != named.get(token, numbers[token]):
            raise UserError(f"{path}: {token} has the number {numbers[token]}, {CONFIG} says {named[token]}")
    first = numbers[PADDING] if first is None else first
    if not 0 <= first < size:
        raise UserError(f"{path.with_name(CONFIG)}: decoder_start_token_id: {first}: no such token")
    languages = {token: TO_LANGUAGE.format(found[1]) for token in tokens if (found := _LANGUAGE.fullmatch(token))}
    tokens = [languages.get(token, token) for token in tokens]
    if len(set(tokens)) < size:
        raise UserError(f"{path}: a token is named {TO_LANGUAGE.format('xx')}, as Segue names a language")
    special = [PADDING, BEGIN, END, UNKNOWN, *languages.values()]
    return Side(tokens if BEGIN in numbers else [*tokens, BEGIN], size, first, special)


def _vocabularies(folder: Path, source: Side, target: Side) -> Vocabularies:
    pieces = [sentencepiece_model.read(folder / f"{side}.spm") for side in ("source", "target")]
    tokenizers = [
        sentencepiece_model.tokenizer(found, side.tokens, side.special)
        for found, side in zip(pieces, (source, target), strict=True)
    ]
    is_one = source is target and pieces[0] == pieces[1]
    found = Vocabularies(tokenizers[1] if is_one else tokenizers[0], tokenizers[1])
    if len(found.languages) == 1:
        [language] = found.languages
        warn(f"{folder / 'vocab.json'}: only one language token, >>{language}<<: it is not written before sources")
    return found


def _recipe(folder: Path, settings: Settings, vocabularies: Vocabularies) -> Recipe:
    """The recipe of the model; what concerns its training is from `your_translation`."""
    draft = recipe.read(recipe.shipped()["your_translation"], [f"optimizer.learning_rate={LEARNING_RATE}"])
    values = {key: value for key, value in draft.values.items() if key != "subwords"}
    values |= {
        "license": license_of(folder),
        "data": values["data"]
        | {"longest_tokens": min(LONGEST_TOKENS, settings.get("max_position_embeddings", int, 512) - 1)},
        "tokenizer": {"kind": "unigram", "size": len(vocabularies.target)},
        "model": _model(settings),
        "search": _search(folder, settings),
    }
    if vocabularies.source is not vocabularies.target:
        values["source_tokenizer"] = {"kind": "unigram", "size": len(vocabularies.source)}
    return recipe.validate(recipe.Draft(values, {}, settings.origin), Recipe)


def _model(settings: Settings) -> dict[str, Any]:
    """The table `model`. The file is checked for everything that our Transformer cannot be."""
    feed_forward, heads = (settings.get(f"encoder_{name}", int) for name in ("ffn_dim", "attention_heads"))
    settings.require(
        {
            "decoder_ffn_dim": (feed_forward,),
            "decoder_attention_heads": (heads,),
            "activation_function": tuple(ACTIVATIONS),
            "scale_embedding": (True,),
            "normalize_before": (False,),
            "normalize_embedding": (False,),
            "add_final_layer_norm": (False,),
            "static_position_embeddings": (True,),
        }
    )
    for key in ("activation_function", "scale_embedding"):  # whose defaults in transformers are others
        if not settings.has(key):
            raise settings.error(key, "missing")
    is_joint = settings.get("share_encoder_decoder_embeddings", bool, True)
    is_tied = settings.get("tie_word_embeddings", bool, True)
    if is_joint and not is_tied:
        raise settings.error("tie_word_embeddings", "false with share_encoder_decoder_embeddings: cannot be imported")
    return {
        "kind": "transformer",
        "norm": "post",
        "activation": ACTIVATIONS[settings.get("activation_function", str)],
        "width": settings.get("d_model", int),
        "feed_forward": feed_forward,
        "heads": heads,
        "encoder_layers": settings.get("encoder_layers", int),
        "decoder_layers": settings.get("decoder_layers", int),
        "tied": "all" if is_joint else "target" if is_tied else "none",
        "has_output_bias": True,
        "dropout": settings.get("dropout", float, 0.1),
        "attention_dropout": settings.get("attention_dropout", float, 0.0),
        "feed_forward_dropout": settings.get("activation_dropout", float, 0.0),
    }


def _search(folder: Path, settings: Settings) -> dict[str, Any]:
    """The table `search`: since 2022, settings of the search are in a file of their own."""
    found = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else settings
    impossible = found.get("bad_words_ids", list, [])
    if any(each != [settings.get("pad_token_id", int, -1)] for each in impossible):
        warn(f"{found.origin}: bad_words_ids: only that of the padding is imported, not {shown(impossible)}")
    return {
        "beams": found.get("num_beams", int, 1),
        "alpha": found.get("length_penalty", float, 1.0),
        "no_repeat_ngram": found.get("no_repeat_ngram_size", int, 0),
    }


def _weights(
    model: Transformer, tensors: Mapping[str, Tensor], source: Side, target: Side, file: Path
) -> dict[str, Tensor]:
    """The weights by the names of our model, in which they have as many rows as there are tokens."""
    blank = model.state_dict()
    is_joint = model.source_embedding is None
    names: dict[str, str] = {}
    for name in blank:
        known = _EMBEDDINGS.get(name, (marian_name(name, model),))
        if is_joint and name in _EMBEDDINGS:
            known = (f"{SHARED}.weight", *(each for names_of in _EMBEDDINGS.values() for each in names_of))
        names[name] = next((each for each in known if each in tensors), known[0])
    names[OUTPUT_BIAS] = LOGITS_BIAS
    # transformers takes it for zeros if it is missing.
    tensors = {LOGITS_BIAS: torch.zeros(1, target.size), **tensors}
    sides = {"source_embedding.weight": source, "target_embedding.weight": target, "head.weight": target}
    shapes = {
        names[name]: (sides[name].size, *tensor.shape[1:]) if name in sides else tuple(tensor.shape)
        for name, tensor in blank.items()
    } | {LOGITS_BIAS: (1, target.size)}
    weights.check(tensors, shapes, str(file), CONFIG)
    _check_others(tensors, shapes, file)
    found = {name: tensors[theirs].float() for name, theirs in names.items()}
    found[OUTPUT_BIAS] = target.extended(found[OUTPUT_BIAS].T)
    return {name: sides[name].extended(tensor) if name in sides else tensor for name, tensor in found.items()}


def _check_others(tensors: Mapping[str, Tensor], used: Iterable[str], file: Path) -> None:
    """Raises a UserError if the file has weights that our model has not: only copies and sinusoids are left out."""
    copies: Sequence[str] = [f"{SHARED}.weight", *(each for names in _EMBEDDINGS.values() for each in names)]
    unknown = [name for name in tensors if name not in {*used, *copies, *_POSITIONS}]
    if unknown:
        raise UserError(f"{file}: {', '.join(unknown[:3])}: Segue's Transformer has no such weights")
    for name in _POSITIONS:
        if name in tensors:
            table = tensors[name].float()
            if not torch.allclose(table, sinusoids(torch.arange(len(table)), table.shape[1]), atol=1e-3):
                raise UserError(f"{file}: {name}: other positions than sinusoids cannot be imported")
