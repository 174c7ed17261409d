"""CMUdict: North American pronunciations of 126,052 English words (github.com/cmusphinx/cmudict, BSD license).

SOURCE is cmudict.dict or its folder. The source of a pair is a word, the target its phonemes, separated by spaces;
other pronunciations of the word are alternatives.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, read_lines
from segue.data.corpora.splits import Share, SplitOptions, divide
from segue.data.examples import Pair
from segue.errors import UserError

ENTRY = re.compile(r"(\S+?)(?:\(\d+\))?((?: +[A-Z]+[012]?)+) *(?:#.*)?")


class Options(SplitOptions):
    """CMUdict."""

    keep_stress: bool = False
    """Keep the stress digits of vowels: 1 primary, 2 secondary, 0 none."""
    dev_share: Share = 0.05
    """Fraction of the words for development."""
    test_share: Share = 0.05
    """Fraction of the words for test."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """In train a pair for each pronunciation of a word, so that all are learned; in dev and test one for each word."""
    del out
    for split, found in divide(_words(source / "cmudict.dict" if source.is_dir() else source, options), options):
        yield split, found
        if split == "train" and isinstance(found, Pair):
            pronunciations = (found.target, *found.alternatives)
            for number, pronunciation in enumerate(found.alternatives, 1):
                others = pronunciations[:number] + pronunciations[number + 1 :]
                yield split, Pair(found.id, found.source, pronunciation, others, origin=found.origin)


def _words(path: Path, options: Options) -> Iterator[Example]:
    """Each word with its first pronunciation as the target."""
    words: dict[str, tuple[str, list[str]]] = {}
    for origin, line in read_lines(path):
        entry = ENTRY.fullmatch(line)
        if entry is None:
            yield "", UserError(f"{origin}: a word and its phonemes wanted, as in: record R EH1 K ER0 D")
            continue
        phonemes = entry[2].split()
        if not options.keep_stress:
            phonemes = [phoneme.rstrip("012") for phoneme in phonemes]
        pronunciation = " ".join(phonemes)
        _, pronunciations = words.setdefault(entry[1], (origin, []))
        if pronunciation not in pronunciations:
            pronunciations.append(pronunciation)
    for word, (origin, pronunciations) in words.items():
        yield "", Pair(word, word, pronunciations[0], tuple(pronunciations[1:]), origin=origin)
