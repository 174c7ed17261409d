"""Which examples are for development and test, where a corpus does not say?"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated
from zlib import crc32

from pydantic import Field

from segue.data.corpora import Example
from segue.data.examples import Pair, Utterance
from segue.errors import UserError, note, warn
from segue.progress import progress
from segue.recipe import Section

SPLITS = ("train", "dev", "test")
NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a column of splits may say -> the split."""


def named(name: str, where: str) -> str:
    """The split of which a table or a line says the name; `where` is in the UserError about another word."""
    if name.strip().lower() not in NAMES:
        raise UserError(f"{where}: train, dev or test wanted, got {name!r}")
    return NAMES[name.strip().lower()]


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


def divide(
    examples: Iterable[Example], options: SplitOptions, *, is_said: bool = True, remedy: str | None = None
) -> Iterator[Example]:
    """Gives examples with no split one; at least one goes to train.

    Where `is_said`, it says what it did about speakers, and where they are too few what helps: `remedy`, or larger
    shares.

    Where speakers are known, and enough, each is in one split only. Elsewhere a hash decides, the same at every call
    and for every copy: of an utterance's file name and offset, and of a pair's source text, so that pairs of one source
    stay together.
    """
    undivided: list[Utterance | Pair] = []
    for split, example in progress(examples, "reads", unit="examples"):
        if split or isinstance(example, UserError):
            yield split, example
        else:
            undivided.append(example)
    undivided.sort(key=_place)
    utterances = [each for each in undivided if isinstance(each, Utterance)]
    split_of = _by_speaker(utterances, options, warn if is_said else _unsaid, remedy)
    if split_of is not None:
        counts = Counter(split_of.values())
        if is_said:
            note("divided by speaker: " + ", ".join(f"{counts[split]} in {split}" for split in SPLITS if counts[split]))
        for split in ("test", "dev", "train"):
            for example in undivided:
                speaker = example.speaker if isinstance(example, Utterance) else None
                if split == split_of.get(speaker or "", "train"):
                    yield split, example
        return
    starts = [0, *(place for place, two in enumerate(pairwise(undivided), 1) if not _is_one_source(*two))]
    test_end = _end(options.test_share, undivided, 0, starts, 2 if options.dev_share else 1)
    dev_end = _end(options.dev_share, undivided, test_end, starts, 1)
    for name, share, size in (
        ("test", options.test_share, test_end),
        ("development", options.dev_share, dev_end - test_end),
    ):
        if is_said and undivided and share and not size:
            warn(f"{len(undivided)} examples are too few to keep one for {name}")
    for number, example in enumerate(undivided):
        yield "test" if number < test_end else "dev" if number < dev_end else "train", example


def _place(example: Utterance | Pair) -> tuple[int, str]:
    """What `divide` sorts by: a hash, and for pairs the text that equal hashes may not share."""
    if isinstance(example, Utterance):
        return crc32(f"{example.audio.name} {example.offset_seconds}".encode(errors="surrogateescape")), ""
    return crc32(example.source.encode()), example.source


def _end(share: float, examples: Sequence[Utterance | Pair], start: int, starts: Sequence[int], num_left: int) -> int:
    """Where a share from `start` on ends: at least one example later where a share was asked for.

    But `num_left` groups of one source, which begin at `starts`, are left.
    """
    if not share or num_left > len(starts):
        return start
    end = min(start + max(1, round(share * len(examples))), len(examples))
    while end < len(examples) and _is_one_source(examples[end - 1], examples[end]):
        end += 1
    return max(start, min(end, starts[-num_left]))


def _is_one_source(one: Utterance | Pair, other: Utterance | Pair) -> bool:
    return isinstance(one, Pair) and isinstance(other, Pair) and one.source == other.source


def _unsaid(message: str) -> None:
    """Nothing is said."""


def _by_speaker(
    utterances: Sequence[Utterance], options: SplitOptions, say: Callable[[str], None], remedy: str | None
) -> dict[str, str] | None:
    """The split of each speaker; None where speakers are not known or too few, which is said.

    A share is made of whole speakers, in the order of a hash of their names: a quarter of it at the least, twice as
    much at the most. Utterances without a speaker are for training.
    """
    counts = Counter(utterance.speaker for utterance in utterances if utterance.speaker)
    shares = [(split, share) for split, share in (("test", options.test_share), ("dev", options.dev_share)) if share]
    if not counts or not shares:
        return None
    split_of: dict[str, str] = {}
    names = sorted(counts, key=lambda name: (crc32(name.encode()), name))
    wanted = {split: max(1, round(share * len(utterances))) for split, share in shares}
    sizes = dict.fromkeys(wanted, 0)
    for name in names:
        room = [
            split for split, size in sizes.items() if size < wanted[split] and size + counts[name] <= 2 * wanted[split]
        ]
        if room:  # the emptier one: small speakers are for all
            split = min(room, key=lambda each: sizes[each] / wanted[each])
            split_of[name] = split
            sizes[split] += counts[name]
    if any(4 * size < wanted[split] for split, size in sizes.items()) or len(split_of) == len(names):
        who = "one speaker" if len(names) == 1 else f"{len(names)} speakers"
        held = " and ".join(split for split, _ in reversed(shares))
        if remedy is None and len(names) > len(shares):
            remedy = "larger dev_share and test_share can hold whole speakers"
        helps = f"; {remedy}" if remedy else ""
        say(f"{who}: too few to keep apart, so those of {held} are in train too{helps}")
        return None
    num_unknown = len(utterances) - counts.total()
    if num_unknown:
        say(f"{num_unknown} utterances without a speaker are for training")
    return {name: split_of.get(name, "train") for name in names}
