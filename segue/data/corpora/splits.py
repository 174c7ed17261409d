"""Which examples are for development and test, where a corpus does not say?"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated
from zlib import crc32

from pydantic import Field

from segue.data.corpora import Example, Found
from segue.data.examples import Labeled, Pair, Utterance, sound_of
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
    and for every copy: of a recording's file name and offset, and of a text, a pair's source, so that those of one text
    stay together. Each class is divided by itself.
    """
    undivided: list[Found] = []
    for split, example in progress(examples, "reads", unit="examples"):
        if split or isinstance(example, UserError):
            yield split, example
        else:
            undivided.append(example)
    undivided.sort(key=_place)
    sounds = [sound for each in undivided if (sound := sound_of(each)) is not None]
    split_of = _by_speaker(sounds, options, warn if is_said else _unsaid, remedy)
    if split_of is not None and not _all_are_learned(undivided, split_of):
        split_of = None
        if is_said:
            warn("some classes are of one speaker or two: too few to keep apart, so all are in train too")
    if split_of is not None:
        counts = Counter(split_of.values())
        if is_said:
            note("divided by speaker: " + ", ".join(f"{counts[split]} in {split}" for split in SPLITS if counts[split]))
        for split in ("test", "dev", "train"):
            for example in undivided:
                if split == split_of.get(_speaker(example), "train"):
                    yield split, example
        return
    of_class: dict[str, list[Found]] = {}
    for example in undivided:
        of_class.setdefault(example.label if isinstance(example, Labeled) else "", []).append(example)
    for label, members in of_class.items():
        yield from _divided(members, options, f" of class {label!r}" * bool(label), is_said=is_said)


def _divided(
    undivided: Sequence[Found], options: SplitOptions, which: str, *, is_said: bool
) -> Iterator[tuple[str, Found]]:
    """Gives examples, in the order of a hash, a split; `which` says in messages what they are."""
    starts = [0, *(place for place, two in enumerate(pairwise(undivided), 1) if not _is_one_source(*two))]
    test_end = _end(options.test_share, undivided, 0, starts, 2 if options.dev_share else 1)
    dev_end = _end(options.dev_share, undivided, test_end, starts, 1)
    for name, share, size in (
        ("test", options.test_share, test_end),
        ("development", options.dev_share, dev_end - test_end),
    ):
        if is_said and undivided and share and not size:
            warn(f"{len(undivided)} examples{which} are too few to keep one for {name}")
    for number, example in enumerate(undivided):
        yield "test" if number < test_end else "dev" if number < dev_end else "train", example


def _place(example: Found) -> tuple[int, str]:
    """What `divide` sorts by: a hash, and for texts the one that equal hashes may not share."""
    sound, text = sound_of(example), _text(example)
    if sound is not None:
        return crc32(f"{sound.audio.name} {sound.offset_seconds}".encode(errors="surrogateescape")), ""
    return crc32(text.encode()), text


def _text(example: Found) -> str:
    """What is read, of what is no recording: examples that share it stay together."""
    return example.source if isinstance(example, Pair) else example.text


def _speaker(example: Found) -> str:
    sound = sound_of(example)
    return "" if sound is None or sound.speaker is None else sound.speaker


def _all_are_learned(examples: Iterable[Found], split_of: dict[str, str]) -> bool:
    """Whether each class has an example for training."""
    labels: dict[bool, set[str]] = {True: set(), False: set()}
    for each in examples:
        if isinstance(each, Labeled):
            labels[split_of.get(_speaker(each), "train") == "train"].add(each.label)
    return labels[False] <= labels[True]


def _end(share: float, examples: Sequence[Found], start: int, starts: Sequence[int], num_left: int) -> int:
    """Where a share from `start` on ends: at least one example later where a share was asked for.

    But `num_left` groups of one source, which begin at `starts`, are left.
    """
    if not share or num_left > len(starts):
        return start
    end = min(start + max(1, round(share * len(examples))), len(examples))
    while end < len(examples) and _is_one_source(examples[end - 1], examples[end]):
        end += 1
    return max(start, min(end, starts[-num_left]))


def _is_one_source(one: Found, other: Found) -> bool:
    return sound_of(one) is None and _text(one) == _text(other)


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
        kept = " and ".join(split for split, _ in reversed(shares))
        if remedy is None and len(names) > len(shares):
            remedy = "larger dev_share and test_share can hold whole speakers"
        helps = f"; {remedy}" if remedy else ""
        say(f"{who}: too few to keep apart, so those of {kept} are in train too{helps}")
        return None
    num_unknown = len(utterances) - counts.total()
    if num_unknown:
        say(f"{num_unknown} utterances without a speaker are for training")
    return {name: split_of.get(name, "train") for name in names}
