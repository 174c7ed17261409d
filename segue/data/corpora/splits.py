"""Which examples are for development and test, where a corpus does not say?"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated
from zlib import crc32

from pydantic import Field

from segue.data.corpora import Example
from segue.data.manifest import Utterance
from segue.recipe import Section

SPLITS = ("train", "dev", "test")
Share = Annotated[float, Field(ge=0, lt=0.5)]


class SplitOptions(Section):
    """How one list of examples is divided; SOURCE may instead be a folder that holds train, dev and test."""

    dev_share: Share = 0.1
    """Share of the examples for development."""
    test_share: Share = 0.1
    """Share of the examples for test."""


def sources(source: Path, suffix: str) -> dict[str, Path]:
    """The sources of the splits: `source` itself as "", or train, dev and test in that folder."""
    found = {split: source / f"{split}{suffix}" for split in SPLITS}
    found = {split: path for split, path in found.items() if path.exists()}
    return found or {"": source}


def divide(examples: Iterable[Example], options: SplitOptions) -> Iterator[Example]:
    """Gives examples with no split one, by a hash of their audio's path: the same at every call, and for every copy."""
    undivided: list[Utterance] = []
    for split, example in examples:
        if split or not isinstance(example, Utterance):
            yield split, example
        else:
            undivided.append(example)
    undivided.sort(key=lambda example: crc32(f"{example.audio.name} {example.offset_seconds}".encode()))
    num_test = _count(options.test_share, len(undivided))
    num_dev = _count(options.dev_share, len(undivided))
    for number, example in enumerate(undivided):
        yield "test" if number < num_test else "dev" if number < num_test + num_dev else "train", example


def _count(share: float, total: int) -> int:
    """At least one where a share was asked for."""
    return max(1, round(share * total)) if share else 0
