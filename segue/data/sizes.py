"""How large will a tokenizer or model be that is not learned yet? As its section, the data or an assumption says."""

from collections.abc import Callable, Sequence
from typing import Any

from segue.data import automatic, manifests
from segue.data import tokenizer as tokenizers
from segue.data.examples import Example
from segue.data.manifest import Manifest, ManifestsSection
from segue.data.text import TextSection, normalize
from segue.data.tokenizer import BPESection, CharactersSection, TokenizerSection, UnigramSection, WordsSection
from segue.recipe import AUTO

ASSUMED_WORDS = 10_000
ASSUMED_CHARACTERS = 30
ASSUMED_SUBWORDS = 8_000
"""Where there are no texts to count in."""
_FIRST = 0x10000  # of a million characters


def stand_in(
    section: TokenizerSection,
    data: ManifestsSection,
    rule: TextSection,
    kind: type[Example],
    sides: Sequence[str],
    num_special: int = 0,
) -> tuple[TokenizerSection, tuple[str, ...]]:
    """The section of a tokenizer as large, of which nothing has to be learned; and what was assumed.

    Only where the training texts decide are their manifests read, if they are there: `sides` are the texts of an
    example, normalized by `rule`. `num_special` tokens come on top of the section's.
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
        notes = (f"{size:,} {noun}: {manifests.training_paths(data)[0]}, to count them in, is not there",)
    return CharactersSection(kind="characters", alphabet="".join(map(chr, range(_FIRST, _FIRST + size)))), notes


def stand_in_model(
    section: Any, data: ManifestsSection, kind: type[Example], amount: Callable[[Manifest[Any]], float], much: float
) -> tuple[Any, tuple[str, ...]]:
    """The section of a model with its `width_multiplier`, which the `amount` of data decides; and what was assumed.

    From `much` on it is wider.
    """
    if section.width_multiplier != AUTO:
        return section, ()
    train = _train(data, kind)
    if train is not None:
        return automatic.widened(section, amount(train), much), ()
    note = f"model.width_multiplier of 1: {manifests.training_paths(data)[0]}, which decides, is not there"
    return automatic.widened(section, 0.0, much), (note,)


def _waits(section: TokenizerSection) -> bool:
    """Whether only the training texts can tell its size."""
    match section:
        case CharactersSection():
            return section.alphabet == AUTO
        case BPESection() | UnigramSection():
            return section.size == AUTO
    return isinstance(section, WordsSection)


def _train(data: ManifestsSection, kind: type[Example]) -> Manifest[Any] | None:
    """The training examples; None where a manifest is not there."""
    paths = manifests.training_paths(data)
    return Manifest(kind, paths) if all(path.is_file() for path in paths) else None
