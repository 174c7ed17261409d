"""Can the classes be learned? Their counts, rare and missing ones, names that differ only in case or spaces."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from segue.data.examples import Labeled
from segue.diagnosis import Sample, Symptom
from segue.doctor.looking import Split, names
from segue.errors import count_of

FEW = 5
"""A class with fewer training examples is hardly learned."""
MISSED = 5.0
"""Expected examples in a split from which the absence of a class is strange."""
_SEPARATORS = re.compile(r"[\W_]+")


class ClassCheck:
    """Counts the labels of all splits."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self._first: dict[str, str] = {}

    def look(self, indices: Sequence[int], examples: Sequence[Labeled]) -> tuple[Counter[str], dict[str, str]]:
        """Counts, and the first place of each label."""
        del indices
        first = dict[str, str]()
        for each in examples:
            first.setdefault(each.label, each.origin)
        return Counter(each.label for each in examples), first

    def gather(self, split: Split, seen: tuple[Counter[str], dict[str, str]]) -> None:
        """Adds what was seen in a chunk."""
        counts, first = seen
        self.counts.setdefault(split.name, Counter()).update(counts)
        self._first = first | self._first

    def symptoms(self) -> Iterator[Symptom]:
        """The findings."""
        for split, counts in self.counts.items():
            yield Symptom("note", "classes", f"{split}: {count_of(len(counts), 'class', 'classes')}: {names(counts)}")
        every = sum(self.counts.values(), Counter[str]())
        alike: dict[str, list[str]] = {}
        for label in every:
            alike.setdefault(_SEPARATORS.sub(" ", label).strip().casefold(), []).append(label)
        for same in alike.values():
            if len(same) > 1:
                yield Symptom(
                    "warning",
                    "classes",
                    f"classes that differ only in case, spaces or punctuation: {', '.join(map(repr, same))}",
                    "write them alike, unless they are meant to be different",
                    sum(every[label] for label in same),
                    every.total(),
                    [Sample(self._first[label], label) for label in same],
                )
        train = self.counts.get("train")
        if train is None:
            return
        rare = {label: count for label, count in train.items() if count < FEW}
        if rare:
            yield Symptom(
                "warning",
                "classes",
                f"classes with fewer than {FEW} training examples: {names(rare)}",
                "collect more, or leave these classes out",
                sum(rare.values()),
                train.total(),
                [Sample(self._first[label], label) for label in rare][:FEW],
            )
        for split, counts in self.counts.items():
            new = {label: count for label, count in counts.items() if label not in train}
            if new:
                yield Symptom(
                    "warning",
                    "classes",
                    f"classes in {split} without a training example: {names(new)}",
                    "a model cannot learn them; add training examples, or correct the labels",
                    sum(new.values()),
                    counts.total(),
                )
            missed = {
                label: count
                for label, count in train.items()
                if label not in counts and count / train.total() * counts.total() >= MISSED
            }
            if missed:
                yield Symptom(
                    "warning",
                    "classes",
                    f"classes that are missing in {split}: {names(missed)}",
                    f"{split} does not say how well these are recognized",
                    sum(missed.values()),
                    train.total(),
                )
