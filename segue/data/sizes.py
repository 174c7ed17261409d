"""How large will a tokenizer be that is not learnt yet? As its section says, as its words are, or as is assumed."""

from collections.abc import Sequence
from pathlib import Path

from segue.data.examples import Example
from segue.data.manifest import Manifest, ManifestsSection
from segue.data.text import TextSection, normalize
from segue.data.tokenizer import BPESection, CharactersSection, TokenizerSection, UnigramSection, WordsSection

ASSUMED_WORDS = 10_000
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
    """The section of a tokenizer as large, of which nothing has to be learnt; and what was assumed.

    Only for a tokenizer of words are training manifests read, if they are there: `sides` are the texts of an example,
    normalised by `rule`. `num_special` tokens come on top of the section's.
    """
    notes: tuple[str, ...] = ()
    match section:
        case BPESection() | UnigramSection():
            size = section.size - num_special
        case WordsSection():
            paths = [Path(data.root) / name for name in data.train]
            missing = [path for path in paths if not path.is_file()]
            if missing:
                size, notes = ASSUMED_WORDS, (f"{ASSUMED_WORDS:,} words: {missing[0]}, to count them in, is not there",)
            else:
                texts = (getattr(example, side) for example in Manifest(kind, paths) for side in sides)
                size = len({word for text in texts for word in normalize(text, rule).split()})
        case _:
            return section, notes
    return CharactersSection(kind="characters", alphabet="".join(map(chr, range(_FIRST, _FIRST + size)))), notes
