"""Do development and test data say what they should? Examples, sounds and speakers that several splits share."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data.examples import Labeled, Pair, Utterance
from segue.diagnosis import NUM_SAMPLES, Sample, Symptom
from segue.doctor.audio import SoundCheck
from segue.doctor.looking import Split, names, text_of
from segue.doctor.texts import TextCheck
from segue.errors import count_of

SHARED_TEXTS = 0.01
"""Share of a split's texts that are also in the training data from which it is a warning."""
FEW_TEXTS = 2
"""So few shared texts are chance; and so are three deviations (of a Poisson distribution) more than expected."""
REPEATED = 0.05
"""Share of repeated training examples from which it is a warning."""
MOST_SPEAKERS = 100_000

Hashes = NDArray[np.uint64]


class SpeakerCheck:
    """Counts the speakers of all splits."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}

    def look(self, indices: Sequence[int], examples: Sequence[Any]) -> Counter[str]:
        """Examples by speaker."""
        del indices
        speakers = (getattr(each, "speaker", None) for each in examples)
        return Counter(each for each in speakers if each is not None)

    def gather(self, split: Split, seen: Counter[str]) -> None:
        """Adds what was seen in a chunk."""
        counts = self.counts.setdefault(split.name, Counter())
        if len(counts) < MOST_SPEAKERS:
            counts.update(seen)

    def symptoms(self) -> Iterator[Symptom]:
        """Speakers who are in the training data and in others."""
        train = self.counts.get("train", Counter())
        for split, counts in self.counts.items():
            shared = {name: count for name, count in counts.items() if name in train}
            if split == "train" or not shared:
                continue
            is_all = len(shared) == len(counts)
            who = "all speakers" if is_all else f"{len(shared)} of {count_of(len(counts), 'speaker')}"
            yield Symptom(
                "note" if is_all else "warning",
                "splits",
                f"{who} in {split} are also in train: {names(shared)}",
                f"scores on {split} are those of known voices"
                + ("" if is_all else "; move these speakers to one side, if new voices should be recognized"),
                sum(shared.values()),
                counts.total(),
            )


def symptoms(splits: Sequence[Split], texts: TextCheck, sounds: SoundCheck) -> Iterator[Symptom]:
    """Duplicates inside of splits, and what several splits share."""
    by_name = {split.name: split for split in splits}
    for split in splits:
        yield from _repeated(split, texts.of(split.name), sounds)
    train = by_name.get("train", splits[0])
    for split in splits:
        if split is not train:
            yield from _shared_sounds(train, split, sounds)
            yield from _shared_texts(train, split, texts)
    tests = [split for split in splits if split.name not in (train.name, "dev")]  # these may share examples
    for split in tests if "dev" in by_name else ():
        yield from _shared_sounds(by_name["dev"], split, sounds)


def _places(all_of: Hashes, wanted: Hashes) -> list[int]:
    """Place of the first row with each wanted hash."""
    order = np.argsort(all_of, kind="stable")
    found = np.searchsorted(all_of, wanted, sorter=order)
    return [int(place) for place in order[found]]


def _shared_sounds(first: Split, second: Split, sounds: SoundCheck) -> Iterator[Symptom]:
    a, b = sounds.of(first.name), sounds.of(second.name)
    is_shared = np.isin(b["sound"], a["sound"])
    if not is_shared.any():
        return
    shown = b[is_shared][:NUM_SAMPLES]
    twins = a[_places(a["sound"], shown["sound"])]
    samples = []
    for twin, row in zip(twins, shown, strict=True):
        example = second.examples[int(row["index"])]
        samples.append(Sample(example.origin, f"as {first.examples[int(twin['index'])].origin}: {text_of(example)}"))
    yield Symptom(
        "error",
        "splits",
        f"the same recordings are in {first.name} and {second.name}: scores on {second.name} are too good",
        f"remove them from {first.name} or {second.name}; `segue prepare` keeps speakers and files apart",
        int(is_shared.sum()),
        len(b),
        samples,
    )


def _shared_texts(train: Split, split: Split, texts: TextCheck) -> Iterator[Symptom]:
    """Texts that are also in the training data, unless texts repeat as often inside of these: digits, commands."""
    a, b = texts.of(train.name), texts.of(split.name)
    if _is_of_sound_alone(split):
        return
    is_shared = np.isin(b[:, 0], a[:, 0])
    count = int(is_shared.sum())
    if not count:
        return
    _, times = np.unique(a[:, 0], return_counts=True)
    usual = float(times[times > 1].sum()) / len(a)
    share = count / len(b)
    expected = usual * len(b)
    is_strange = share >= SHARED_TEXTS and count > expected + 3 * math.sqrt(expected) + FEW_TEXTS
    side = "sources" if isinstance(split.examples[0], Pair) else "texts"
    shown = np.flatnonzero(is_shared)[:NUM_SAMPLES].tolist()
    twins = _places(a[:, 0], b[shown, 0])
    samples = []
    for twin, place in zip(twins, shown, strict=True):
        example = split.examples[place]
        samples.append(Sample(example.origin, f"as {train.examples[twin].origin}: {text_of(example)}"))
    yield Symptom(
        "warning" if is_strange else "note",
        "splits",
        f"{share:.1%} of the {side} in {split.name} are also in {train.name}"
        + ("" if is_strange else f", where {usual:.1%} occur more than once"),
        f"remove them from {train.name}, or scores on {split.name} are too good" if is_strange else "",
        count,
        len(b),
        samples if is_strange else (),
    )


def _is_of_sound_alone(split: Split) -> bool:
    first = split.examples[0]
    return isinstance(first, Labeled) and first.sound is not None


def _repeated(split: Split, rows: Hashes, sounds: SoundCheck) -> Iterator[Symptom]:
    """Examples of a split that are there more than once, or contradict each other."""
    first = split.examples[0]
    table = sounds.of(split.name)
    if len(table):
        groups = [table["index"][places].tolist() for places in _equal(table["sound"])]
        yield from _twice(split, "recordings", groups, len(table))
    if isinstance(first, Utterance) or _is_of_sound_alone(split):
        return
    # Pairs of the same source and another target are alternatives; texts of two classes contradict each other.
    keys = rows[:, 0] if isinstance(first, Labeled) else rows[:, 0] ^ (rows[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    noun = "pairs" if isinstance(first, Pair) else "texts"
    yield from _twice(split, noun, [places.tolist() for places in _equal(keys)], len(rows))


def _equal(keys: Hashes) -> Iterator[NDArray[np.int64]]:
    """The places of each key that is there more than once."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)))
    sizes = np.diff(starts, append=len(keys))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


def _answer(example: Any) -> str:
    """What a model should answer."""
    answer = example.label if isinstance(example, Labeled) else example.text if isinstance(example, Utterance) else ""
    return " ".join(answer.casefold().split())


def _twice(split: Split, noun: str, groups: Sequence[Sequence[int]], total: int) -> Iterator[Symptom]:
    """Groups of equal examples: those with different answers, and the others."""
    examples = split.examples
    different = [group for group in groups if len({_answer(examples[place]) for place in group}) > 1]
    same = [group for group in groups if len({_answer(examples[place]) for place in group}) == 1]
    for found, is_different in ((different, True), (same, False)):
        if not found:
            continue
        count = sum(len(group) - (not is_different) for group in found)
        what = (
            f"equal {noun} in {split.name} with different {'classes' if isinstance(examples[0], Labeled) else 'texts'}"
            if is_different
            else f"{noun} in {split.name} that repeat an earlier one"
        )
        samples = [
            Sample(
                examples[first].origin,
                f"{text_of(examples[first])}; {examples[second].origin}: {text_of(examples[second])}",
            )
            for first, second in (group[:2] for group in found[:NUM_SAMPLES])
        ]
        is_usual = not is_different and (split.name != "train" or count < REPEATED * total)
        yield Symptom(
            "note" if is_usual else "warning",
            "splits",
            what,
            "correct or remove one of each" if is_different else "harmless if they are few; else remove them",
            count,
            total,
            samples,
        )
