"""The results of an evaluation, as plain data: tasks create it, reports show it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_WORST, NUM_MEDIAN, NUM_BEST = 20, 10, 5
"""Number of examples in a report."""
NUM_MAPS = 5
"""Number of attention maps in a report."""

Direction = Literal["min", "max"]


class Example(NamedTuple):
    """One evaluated example."""

    id: str
    reference: str
    hypothesis: str
    score: float
    """Of this example: an error rate (1.0 is 100 %) or a score such as chrF (0 to 100)."""
    source: str | None = None
    """Source text of a translation."""
    alternatives: tuple[str, ...] = ()
    """Further references."""
    length: float = 0.0
    """Length, in the unit `Evaluation.length_name`; reports show scores by length."""
    audio: bytes | None = None
    """Content of a wav, flac, ogg or mp3 file to play; only needed for the examples that `chosen` returns."""
    extra: str = ""
    """A short note that is shown with the example."""
    scores: Mapping[str, float] = MappingProxyType({})
    """All scores of this example, by name."""
    pieces: Sequence[tuple[str, float]] = ()
    """Pieces of the text with their losses in nats, of language models: shown instead of reference and hypothesis."""
    details: Mapping[str, str] = MappingProxyType({})
    """Further properties, such as "speaker" and "language"."""


class AttentionMap(NamedTuple):
    """Attention weights of a decoder over the source, for one sentence."""

    id: str
    rows: Sequence[str]
    """Target tokens."""
    columns: Sequence[str]
    """Source tokens."""
    weights: NDArray[np.float32]
    """(rows, columns); or (heads or layers, rows, columns), which is averaged over the first dimension."""


class Evaluation(NamedTuple):
    """An evaluation of one model on one set of examples."""

    title: str
    scores: Mapping[str, float | str]
    """Scores of the whole set, in order. Those with names that end in "rate" are shown in percent, strings as they
    are."""
    examples: Sequence[Example]
    score_name: str
    """Name of `Example.score`, such as "word error rate" or "chrF"."""
    direction: Direction
    """Whether lower or higher scores are better."""
    length_name: str
    """Unit of `Example.length`, such as "seconds" or "source tokens"."""
    facts: Mapping[str, str]
    """What was evaluated, and when: shown as a table."""
    attention: Sequence[AttentionMap] = ()
    intervals: Mapping[str, tuple[float, float]] = MappingProxyType({})
    """95 % confidence intervals of some of the scores, by name."""
    interval_note: str = ""
    """How the intervals were computed, or why there are none."""
    measured: Any = None
    """The `metrics.Scores` of these examples, to compare two models."""
    classes: Sequence[str] = ()
    """Names of the classes; empty if references and hypotheses are texts."""
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """Scores by kind of group, group and name of the score, as in `groups["speakers"]["ann"]["word_error_rate"]`."""
    confusions: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({})
    """The most frequent "substitutions", "insertions" and "deletions" of words: reference, hypothesis, count."""

    def as_json(self) -> dict[str, Any]:
        """Scores, their intervals, and the scores of groups."""
        intervals = {name: list(each) for name, each in self.intervals.items()}
        found = {**self.scores, "intervals": intervals, "interval_note": self.interval_note, **self.groups}
        return {**found, "confusions": dict(self.confusions)} if self.confusions else found

    def outputs(self) -> Iterator[dict[str, Any]]:
        """Each example with its hypothesis and scores: one line of `--outputs` each."""
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
    """Indices of the examples that a report shows; only these need `audio`."""
    return [index for indices in shown(examples, direction).values() for index in indices]


def shown(examples: Sequence[Example], direction: Direction) -> dict[str, list[int]]:
    """Indices by group: "worst" (worst first), "median" (around the median) and "best" (best first).

    If there are fewer examples than a report shows, the groups shrink in proportion. No example is in two groups, and
    one that equals a reference is never among the worst.
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


def length_groups(lengths: NDArray[np.float64], most: int) -> list[NDArray[np.intp]]:
    """Indices of at most `most` groups of about equal size, shortest first. Equal lengths are in the same group."""
    num_groups = max(2, min(most, len(lengths) // 5))
    starts = np.unique(np.sort(lengths)[len(lengths) * np.arange(num_groups) // num_groups])
    group = np.searchsorted(starts, lengths, side="right") - 1
    return [np.flatnonzero(group == number) for number in range(len(starts))]


def is_flawless(example: Example) -> bool:
    """Whether the hypothesis has the same words as one of the references; a language model has no hypotheses."""
    return not example.pieces and any(
        example.hypothesis.split() == right.split() for right in (example.reference, *example.alternatives)
    )
