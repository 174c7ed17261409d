"""Which examples are for development and test, if a corpus does not define it?"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated
from zlib import crc32

from pydantic import Field

from segue.data.corpora import Example, Found
from segue.data.examples import Labeled, Pair, Utterance, sound_of
from segue.errors import UserError, count_of, note, warn
from segue.progress import progress
from segue.recipe import Section

SPLITS = ("train", "dev", "test")
NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Name of a split in a table -> the split."""


def named(name: str, where: str) -> str:
    """The split by its name in a table or line. Raises a UserError, prefixed by `where`, for other names."""
    if name.strip().lower() not in NAMES:
        raise UserError(f"{where}: train, dev or test wanted, got {name!r}")
    return NAMES[name.strip().lower()]


Share = Annotated[float, Field(ge=0, lt=0.5)]


class SplitOptions(Section):
    """How one list of examples is divided; SOURCE may instead be a folder that contains train, dev and test."""

    dev_share: Share = 0.1
    """Fraction of the examples for development."""
    test_share: Share = 0.1
    """Fraction of the examples for test."""


def sources(source: Path, suffix: str) -> dict[str, Path]:
    """The sources of the splits: `source` itself as "", or train, dev and test in that folder."""
    paths = {split: source / f"{split}{suffix}" for split in SPLITS}
    found = {split: unpacked_or_packed(path) for split, path in paths.items()}
    return {split: path for split, path in found.items() if path is not None} or {"": source}


def unpacked_or_packed(path: Path) -> Path | None:
    """The path itself if it exists, else the same with .gz appended if that is a file, else None."""
    packed = path.with_name(path.name + ".gz")
    return path if path.exists() else packed if packed.is_file() else None


def divide(
    examples: Iterable[Example],
    options: SplitOptions,
    *,
    is_said: bool = True,
    remedy: str | None = None,
    most: float = 2.0,
) -> Iterator[Example]:
    """Assigns a split to examples that have none (""); at least one goes to train.

    If speakers are known and there are enough of them, so that whole speakers are at most `most` times a share, each
    speaker is in one split only. Otherwise a hash decides,
    which is reproducible and does not depend on the folder: of a recording's file name and offset, or of a text (a
    pair's source), so that examples with the same text are in one split. Each class is divided separately.

    With `is_said`, messages report how speakers were treated, and if there are too few what helps: `remedy`, or larger
    shares.
    """
    read: list[Found] = []
    for split, example in progress(examples, "reads", unit="examples"):
        if split or isinstance(example, UserError):
            yield split, example
        else:
            read.append(example)
    order = sorted(range(len(read)), key=lambda place: _place(read[place]))
    undivided = [read[place] for place in order]
    sounds = [sound for each in undivided if (sound := sound_of(each)) is not None]
    split_of = _by_speaker(sounds, options, warn if is_said else _unsaid, remedy, most)
    if split_of is not None and not _all_are_learned(undivided, split_of):
        split_of = None
        if is_said:
            warn("some classes have only one or two speakers: too few to keep apart, so all are in train too")
    if split_of is not None:
        counts = Counter(split_of.values())
        if is_said:
            note("divided by speaker: " + ", ".join(f"{counts[split]} in {split}" for split in SPLITS if counts[split]))
        for split in ("test", "dev", "train"):
            for example in undivided:
                if split == split_of.get(_speaker(example), "train"):
                    yield split, example
        return
    if undivided and isinstance(undivided[0], Pair):
        # They stay in the order of their files, in which `segue doctor` sees whether lines were moved.
        split_at = [""] * len(read)
        for place, (split, _) in zip(order, _divided(undivided, options, "", is_said=is_said), strict=True):
            split_at[place] = split
        yield from zip(split_at, read, strict=True)
        return
    of_class: dict[str, list[Found]] = {}
    for example in undivided:
        of_class.setdefault(example.label if isinstance(example, Labeled) else "", []).append(example)
    for label, members in of_class.items():
        yield from _divided(members, options, f" of class {label!r}" * bool(label), is_said=is_said)


def _divided(
    undivided: Sequence[Found], options: SplitOptions, which: str, *, is_said: bool
) -> Iterator[tuple[str, Found]]:
    """Assigns splits to examples sorted by hash; `which` describes them in messages."""
    starts = [0, *(place for place, two in enumerate(pairwise(undivided), 1) if not _is_one_source(*two))]
    test_end = _end(options.test_share, undivided, 0, starts, 2 if options.dev_share else 1)
    dev_end = _end(options.dev_share, undivided, test_end, starts, 1)
    for name, share, size in (
        ("test", options.test_share, test_end),
        ("development", options.dev_share, dev_end - test_end),
    ):
        if is_said and undivided and share and not size:
            said = count_of(len(undivided), f"example{which} is", f"examples{which} are")
            warn(f"{said} too few to reserve one for {name}")
    for number, example in enumerate(undivided):
        yield "test" if number < test_end else "dev" if number < dev_end else "train", example


def _place(example: Found) -> tuple[int, str]:
    """Sort key of `divide`: a hash, and for texts the text itself, in case of equal hashes."""
    sound, text = sound_of(example), _text(example)
    if sound is not None:
        return crc32(f"{sound.audio.name} {sound.offset_seconds}".encode(errors="surrogateescape")), ""
    return crc32(text.encode()), text


def _text(example: Found) -> str:
    """The input text of an example without a recording: examples with the same text stay together."""
    return example.source if isinstance(example, Pair) else example.text


def _speaker(example: Found) -> str:
    sound = sound_of(example)
    return "" if sound is None or sound.speaker is None else sound.speaker


def _all_are_learned(examples: Iterable[Found], split_of: dict[str, str]) -> bool:
    """Whether each class has a training example."""
    labels: dict[bool, set[str]] = {True: set(), False: set()}
    for each in examples:
        if isinstance(each, Labeled):
            labels[split_of.get(_speaker(each), "train") == "train"].add(each.label)
    return labels[False] <= labels[True]


def _end(share: float, examples: Sequence[Found], start: int, starts: Sequence[int], num_left: int) -> int:
    """End of a share that begins at `start`: at least one example if the share is above 0.

    At least `num_left` groups of examples with the same source, which begin at `starts`, are left after it.
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
    """Discards a message."""


def _by_speaker(
    utterances: Sequence[Utterance], options: SplitOptions, say: Callable[[str], None], remedy: str | None, most: float
) -> dict[str, str] | None:
    """The split of each speaker; None if speakers are unknown, or too few, which is reported with `say`.

    A split consists of whole speakers, in the order of a hash of their names, with a quarter to `most` times its share
    of the utterances. Utterances without a speaker are for training.
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
            split
            for split, size in sizes.items()
            if size < wanted[split] and size + counts[name] <= most * wanted[split]
        ]
        if room:  # the emptier split, so that speakers with few utterances are distributed over all
            split = min(room, key=lambda each: sizes[each] / wanted[each])
            split_of[name] = split
            sizes[split] += counts[name]
    if any(4 * size < wanted[split] for split, size in sizes.items()) or len(split_of) == len(names):
        who = count_of(len(names), "speaker")
        kept = " and ".join(split for split, _ in reversed(shares))
        if remedy is None and len(names) > len(shares):
            remedy = "larger dev_share and test_share leave room for whole speakers"
        helps = f"; {remedy}" if remedy else ""
        say(f"{who}: too few to keep apart, so those of {kept} are in train too{helps}")
        return None
    num_unknown = len(utterances) - counts.total()
    if num_unknown:
        said = count_of(num_unknown, "utterance without a speaker is", "utterances without a speaker are")
        say(f"{said} for training")
    return {name: split_of.get(name, "train") for name in names}
