"""What did an evaluation find? Plain data: tasks make it, reports draw it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_WORST, NUM_MEDIAN, NUM_BEST = 20, 10, 5
"""Examples of a report."""
NUM_MAPS = 5
"""Attention maps of a report."""

Direction = Literal["min", "max"]


class Example(NamedTuple):
    """One evaluated example."""

    id: str
    reference: str
    hypothesis: str
    score: float
    """Of this example alone: an error rate (1.0 is 100 %) or a score such as chrF (0 to 100)."""
    source: str | None = None
    """The text that was translated."""
    alternatives: tuple[str, ...] = ()
    """Other right references."""
    length: float = 0.0
    """What scores are grouped by."""
    audio: bytes | None = None
    """A wav, flac, ogg or mp3 file to play; needed for those that `chosen` names, and for no others."""
    extra: str = ""
    """A short note."""
    scores: Mapping[str, float] = MappingProxyType({})
    """All scores of this example alone, by name."""
    details: Mapping[str, str] = MappingProxyType({})
    """What else is known of it: "speaker", "language"."""


class AttentionMap(NamedTuple):
    """Where a model looked while it wrote a sentence."""

    id: str
    rows: Sequence[str]
    """Target tokens."""
    columns: Sequence[str]
    """Source tokens."""
    weights: NDArray[np.float32]
    """(rows, columns), or (heads or layers, rows, columns), of which the mean is drawn."""


class Evaluation(NamedTuple):
    """What a report shows."""

    title: str
    scores: Mapping[str, float | str]
    """Of the whole set, in order. Names that end in "rate" are shown in per cent, strings as they are."""
    examples: Sequence[Example]
    score_name: str
    """What an example's score is: "word error rate", "chrF"."""
    direction: Direction
    """Which score is better."""
    length_name: str
    """What an example's length counts: "seconds", "source tokens"."""
    facts: Mapping[str, str]
    """What was evaluated, and when."""
    attention: Sequence[AttentionMap] = ()
    intervals: Mapping[str, tuple[float, float]] = MappingProxyType({})
    """95 % intervals of some of the scores, by name."""
    interval_note: str = ""
    """What was drawn to get them, or why there are none."""
    measured: Any = None
    """The `metrics.Scores` behind the scores: what tells two models apart."""
    classes: Sequence[str] = ()
    """What references and hypotheses are chosen from, where they are classes and no texts."""
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """Scores by name, of each group of each kind: `groups["speakers"]["ann"]`."""

    def as_json(self) -> dict[str, Any]:
        """The scores, their intervals, and those of the groups."""
        intervals = {name: list(each) for name, each in self.intervals.items()}
        return {**self.scores, "intervals": intervals, "interval_note": self.interval_note, **self.groups}

    def outputs(self) -> Iterator[dict[str, Any]]:
        """What became of each example, with its own scores: a line of `--outputs` each."""
        unit = self.length_name.replace(" ", "_")
        for each in self.examples:
            yield {
                "id": each.id,
                **({} if each.source is None else {"source": each.source}),
                "reference": each.reference,
                **({"alternatives": list(each.alternatives)} if each.alternatives else {}),
                "hypothesis": each.hypothesis,
                **each.scores,
                unit: each.length,
                **each.details,
            }


def chosen(examples: Sequence[Example], direction: Direction) -> list[int]:
    """The indices of the examples that a report shows: only these need their audio."""
    return [index for indices in shown(examples, direction).values() for index in indices]


def shown(examples: Sequence[Example], direction: Direction) -> dict[str, list[int]]:
    """Indices of the worst (worst first), of those around the median, and of the best (best first).

    Fewer examples than would be shown are shared out alike. None is twice among them, and what has no difference from
    a reference is not among the worst.
    """
    sign = -1 if direction == "min" else 1
    order = sorted(range(len(examples)), key=lambda index: sign * examples[index].score)
    num_shown = NUM_WORST + NUM_MEDIAN + NUM_BEST
    share = min(1, len(order) / num_shown)
    num_worst, num_median = math.ceil(NUM_WORST * share), math.ceil(NUM_MEDIAN * share)
    num_best = max(0, min(num_shown, len(order)) - num_worst - num_median)
    rest, best = order[: len(order) - num_best], order[len(order) - num_best :]
    worst = [index for index in rest[:num_worst] if not is_flawless(examples[index])]
    rest = [index for index in rest if index not in worst]
    start = max(0, min(len(order) // 2 - num_median // 2 - len(worst), len(rest) - num_median))
    return {"worst": worst, "median": rest[start : start + num_median], "best": best[::-1]}


def is_flawless(example: Example) -> bool:
    """Whether the output is a reference, word for word."""
    return any(example.hypothesis.split() == right.split() for right in (example.reference, *example.alternatives))
