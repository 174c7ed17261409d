"""How large will a tokenizer or model be before it is learned? From its section, the data, or an assumption."""

from collections.abc import Callable, Sequence
from typing import Any

from segue.data import automatic, manifests
from segue.data import tokenizer as tokenizers
from segue.data.examples import Example
from segue.data.manifest import Manifest, ManifestsSection
from segue.data.text import TextSection, normalize
from segue.data.tokenizer import (
    NUM_BYTES,
    BPESection,
    ByteBPESection,
    BytesSection,
    CharactersSection,
    LosslessSection,
    TokenizerSection,
    UnigramSection,
    WordsSection,
)
from segue.recipe import AUTO

ASSUMED_WORDS = 10_000
ASSUMED_CHARACTERS = 30
ASSUMED_SUBWORDS = 8_000
"""Sizes that are assumed without texts."""
_FIRST = 0x10000  # the first of a million characters that serve as stand-ins


def stand_in(
    section: TokenizerSection,
    data: ManifestsSection,
    rule: TextSection,
    kind: type[Example],
    sides: Sequence[str],
    num_special: int = 0,
) -> tuple[TokenizerSection, tuple[str, ...]]:
    """The section of a tokenizer of the same size that needs no learning, and notes about assumptions.

    Manifests are read only if the size depends on the training texts, and if they exist: `sides` are the attributes of
    an example with texts, normalized by `rule`. `num_special` is the number of special tokens.
    """
    train = _train(data, kind) if _waits(section) else None
    texts = [normalize(getattr(each, side), rule) for each in train or () for side in sides]
    notes: tuple[str, ...] = ()
    if train is not None:
        section = tokenizers.resolved(section, texts, num_special)
    match section:
        case BPESection() | UnigramSection():
            size = section.size if isinstance(section.size, int) else ASSUMED_SUBWORDS
            noun, size = "subwords", size - num_special
        case WordsSection():
            size = len({word for text in texts for word in text.split()}) if train is not None else ASSUMED_WORDS
            noun = "words"
        case CharactersSection(alphabet="auto"):
            size, noun = ASSUMED_CHARACTERS, "characters"
        case _:
            return section, notes
    if train is None and _waits(section):
        notes = (f"{size:,} {noun}, since {manifests.training_paths(data)[0]} does not exist",)
    return of_size(size), notes


def of_size(size: int) -> CharactersSection:
    """A tokenizer of so many tokens, besides special ones."""
    return CharactersSection(kind="characters", alphabet="".join(map(chr, range(_FIRST, _FIRST + size))))


def size_of(section: LosslessSection) -> tuple[int, tuple[str, ...]]:
    """The number of tokens of a language model, special ones included, and notes about assumptions."""
    match section:
        case BytesSection():
            return NUM_BYTES + 1, ()
        case ByteBPESection() if isinstance(section.size, int):
            return section.size, ()
        case CharactersSection() if section.alphabet != AUTO:
            return len(section.alphabet) + 1, ()
    assumed = {"characters": ASSUMED_CHARACTERS, "words": ASSUMED_WORDS}.get(section.kind, ASSUMED_SUBWORDS)
    return assumed + 1, (f"{assumed:,} tokens, since the tokenizer is not learned yet",)


def stand_in_model(
    section: Any, data: ManifestsSection, kind: type[Example], amount: Callable[[Manifest[Any]], float], much: float
) -> tuple[Any, tuple[str, ...]]:
    """A model's section with `width_multiplier` resolved from the `amount` of data, and notes about assumptions.

    From an amount of `much` on the model is wider.
    """
    if section.width_multiplier != AUTO:
        return section, ()
    train = _train(data, kind)
    if train is not None:
        return automatic.widened(section, amount(train), much), ()
    note = f"model.width_multiplier of 1, since {manifests.training_paths(data)[0]} does not exist"
    return automatic.widened(section, 0.0, much), (note,)


def _waits(section: TokenizerSection) -> bool:
    """Whether its size depends on the training texts."""
    match section:
        case CharactersSection():
            return section.alphabet == AUTO
        case BPESection() | UnigramSection():
            return section.size == AUTO
    return isinstance(section, WordsSection)


def _train(data: ManifestsSection, kind: type[Example]) -> Manifest[Any] | None:
    """The training examples; None if a manifest does not exist."""
    paths = manifests.training_paths(data)
    return Manifest(kind, paths) if all(path.is_file() for path in paths) else None
