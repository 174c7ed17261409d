"""Which examples are for development and test, where a corpus does not say?"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated
from zlib import crc32

from pydantic import Field

from segue.data.corpora import Example
from segue.data.examples import Pair, Utterance
from segue.errors import UserError
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
    paths = {split: source / f"{split}{suffix}" for split in SPLITS}
    found = {split: unpacked_or_packed(path) for split, path in paths.items()}
    return {split: path for split, path in found.items() if path is not None} or {"": source}


def unpacked_or_packed(path: Path) -> Path | None:
    """The file itself, or where it is not there the one with .gz behind its name."""
    packed = path.with_name(path.name + ".gz")
    return path if path.exists() else packed if packed.is_file() else None


def divide(examples: Iterable[Example], options: SplitOptions) -> Iterator[Example]:
    """Gives examples with no split one, by a hash: the same at every call, and for every copy.

    It is of an utterance's file name and offset, and of a pair's source text: pairs of one source stay together.
    """
    undivided: list[Utterance | Pair] = []
    for split, example in examples:
        if split or isinstance(example, UserError):
            yield split, example
        else:
            undivided.append(example)
    undivided.sort(key=_place)
    test_end = _end(options.test_share, undivided, 0)
    dev_end = _end(options.dev_share, undivided, test_end)
    for number, example in enumerate(undivided):
        yield "test" if number < test_end else "dev" if number < dev_end else "train", example


def _place(example: Utterance | Pair) -> tuple[int, str]:
    """What `divide` sorts by: a hash, and for pairs the text that equal hashes may not share."""
    if isinstance(example, Utterance):
        return crc32(f"{example.audio.name} {example.offset_seconds}".encode()), ""
    return crc32(example.source.encode()), example.source


def _end(share: float, examples: Sequence[Utterance | Pair], start: int) -> int:
    """Where a share from `start` on ends: at least one example later where a share was asked for."""
    if not share:
        return start
    end = min(start + max(1, round(share * len(examples))), len(examples))
    while end < len(examples) and _is_one_source(examples[end - 1], examples[end]):
        end += 1
    return end


def _is_one_source(one: Utterance | Pair, other: Utterance | Pair) -> bool:
    return isinstance(one, Pair) and isinstance(other, Pair) and one.source == other.source
