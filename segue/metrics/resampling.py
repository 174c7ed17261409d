"""Confidence intervals of scores, and of differences between models, by bootstrap over examples or speakers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from segue.metrics.measures import Measure, References, Statistics
from segue.metrics.names import Metric

NUM_RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
FEW_SPEAKERS = 10
UNKNOWN_SPEAKER = "(unknown)"


class Scored:
    """Statistics of the outputs in one language."""

    def __init__(
        self,
        measures: Sequence[Measure],
        references: References,
        hypotheses: Sequence[str],
        language: str | None = None,
    ) -> None:
        """The first of `measures` is the metric that selects models."""
        assert len(references) == len(hypotheses) > 0
        self.language = language
        self._take(measures, [measure.statistics(references, hypotheses) for measure in measures])
        signatures = {measure.metric.name: measure.signature(references) for measure in measures}
        self.signatures = {f"{name}_signature": text for name, text in signatures.items() if text is not None}

    @classmethod
    def of_statistics(cls, measures: Sequence[Measure], statistics: Sequence[Statistics]) -> Self:
        """The same from the (N, K) statistics of each measure."""
        found = cls.__new__(cls)
        found.language, found.signatures = None, {}
        found._take(measures, statistics)
        return found

    def _take(self, measures: Sequence[Measure], statistics: Sequence[Statistics]) -> None:
        self.measures, self.size = measures, len(statistics[0])
        self._statistics = statistics

    def scores(self, rows: NDArray[np.intp] | None = None) -> dict[str, float]:
        """Scores by name, and the counts of the first measure, of all examples or of those in `rows`."""
        sums = [(each if rows is None else each[rows]).sum(axis=0) for each in self._statistics]
        found = {measure.metric.name: measure.score(each) for measure, each in zip(self.measures, sums, strict=True)}
        return found | self.measures[0].counts(sums[0])

    def scores_of_one(self, row: int) -> dict[str, float]:
        """Scores of a single example, by name."""
        pairs = zip(self.measures, self._statistics, strict=True)
        return {measure.metric.name: measure.score_of_one(each[row]) for measure, each in pairs}

    def resampled(self, blocks: NDArray[np.intp] | None = None) -> dict[str, Statistics]:
        """(NUM_RESAMPLES) bootstrap scores, by name. Each resample draws as many blocks as there are, with replacement.

        `blocks` (N) are the block numbers of the examples; by default, each example is a block (Bisani and Ney 2004).
        Errors of one speaker are correlated, so that resampling single examples would give intervals that are too
        narrow (Liu and Peng 2020, "Statistical Testing on ASR Performance via Blockwise Bootstrap"). The draws are
        deterministic. With a single block the result is empty.
        """
        added = np.concatenate(self._statistics, axis=1)  # (N, K of all measures)
        if blocks is not None:
            added = np.stack([np.bincount(blocks, weights=column) for column in added.T], axis=1)
        num_blocks = len(added)
        if num_blocks < 2:
            return {}
        ends = np.cumsum([each.shape[1] for each in self._statistics])[:-1]
        draw = np.random.default_rng(0)
        found = np.empty((NUM_RESAMPLES, len(self.measures)))
        for row in found:
            times = np.bincount(draw.integers(num_blocks, size=num_blocks), minlength=num_blocks)
            sums = np.split(times.astype(np.float64) @ added, ends)
            row[:] = [measure.score(each) for measure, each in zip(self.measures, sums, strict=True)]
        return {measure.metric.name: column for measure, column in zip(self.measures, found.T, strict=True)}


Interval = tuple[float, float]


def intervals(parts: Sequence[Scored], blocks: NDArray[np.intp] | None = None) -> dict[str, Interval]:
    """95 % intervals of the parts' mean scores, by name. Empty if a part is a single block (`Scored.resampled`). Scores
    that are equal in all resamples have none: an error rate of 0 on a few examples is not known to be 0."""
    resampled = [part.resampled(blocks) for part in parts]
    found = {}
    for name in common(resampled):
        low, high = np.percentile(np.mean([each[name] for each in resampled], axis=0), PERCENTILES)
        if high > low:
            found[name] = (float(low), float(high))
    return found


def common(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that occur in all parts, in order."""
    return [name for name in parts[0] if all(name in part for part in parts)]


class Difference(NamedTuple):
    """The difference between two models' scores, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def blocks_of(speakers: Sequence[str | None]) -> NDArray[np.intp]:
    """(N) block numbers: examples of one speaker are one block; an example without a speaker is its own block."""
    names = [(each is None, number if each is None else each) for number, each in enumerate(speakers)]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([number_of[name] for name in names])


class Resampling(NamedTuple):
    """Intervals of scores, and a note on how they were computed."""

    intervals: dict[str, Interval]
    note: str


class Scores(NamedTuple):
    """Scores of outputs, in parts by language."""

    parts: Sequence[Scored]
    rows: Sequence[NDArray[np.intp]]
    """Indices of the examples of each part."""

    @property
    def chosen(self) -> Metric:
        """The metric that selects models."""
        return self.parts[0].measures[0].metric

    def overall(self) -> dict[str, float]:
        """Scores by name, averaged over languages, so that longer texts or smaller tokens do not give a language more
        weight. With counts if there is one language."""
        each = [part.scores() for part in self.parts]
        if len(each) == 1:
            return each[0]
        names = [measure.metric.name for measure in self.parts[0].measures]
        return {name: float(np.mean([part[name] for part in each])) for name in common(each) if name in names}

    def signatures(self) -> dict[str, str]:
        """Signatures by name; one per language if they differ."""
        each = [part.signatures for part in self.parts]
        found = {}
        for name in common(each):
            texts = {part.language: signatures[name] for part, signatures in zip(self.parts, each, strict=True)}
            first, is_same = next(iter(texts.values())), len(set(texts.values())) == 1
            found[name] = first if is_same else "; ".join(f"{language} {text}" for language, text in texts.items())
        return found

    def of_each(self) -> list[dict[str, float]]:
        """The scores of each example, in order."""
        found: list[dict[str, float]] = [{}] * sum(map(len, self.rows))
        for part, rows in zip(self.parts, self.rows, strict=True):
            for row, index in enumerate(rows.tolist()):
                found[index] = part.scores_of_one(row)
        return found

    def resampling(self, unit: str, speakers: Sequence[str | None] | None = None) -> Resampling:
        """95 % intervals, with speakers as blocks if two or more are known; `unit` names the examples in the note."""
        num_examples = sum(map(len, self.rows))
        drawn, hint, blocks = f"{num_examples:,} {unit}", "", None
        if min(map(len, self.rows)) < 2:
            return Resampling(
                {}, f"no 95 % intervals: they need two {unit} or more" + " of each language" * self._is_mean
            )
        if speakers is not None:
            known = set(speakers) - {None}
            if len(known) > 1:
                blocks = blocks_of(speakers)
                num_alone = sum(each is None for each in speakers)
                alone = f" and {num_alone:,} of {num_examples:,} {unit} without one" if num_alone else ""
                drawn = f"{len(known):,} speakers{alone}"
                hint = "; few speakers: rough" if len(known) < FEW_SPEAKERS else ""
            else:
                hint = "; " + ("all of one speaker" if known else "speakers are not known") + ": other voices vary more"
        found = intervals(self.parts, blocks)
        if not found:
            hint += "; every draw has the same scores, so there are none"
        return Resampling(found, f"95 % intervals: bootstrap, {NUM_RESAMPLES:,} draws of {drawn}{hint}")

    def difference(self, other: "Scores", speakers: Sequence[str | None] | None = None) -> dict[str, Difference]:
        """The other model's scores minus these, on the same examples, by paired bootstrap (Koehn 2004).

        Each resample has the same examples, or speakers if two or more are known, for both models.
        """
        assert [rows.tolist() for rows in self.rows] == [rows.tolist() for rows in other.rows]
        blocks = None if speakers is None or len(set(speakers) - {None}) < 2 else blocks_of(speakers)
        both = [[part.resampled(blocks) for part in each.parts] for each in (self, other)]
        own, others = self.overall(), other.overall()
        found = {}
        for name in common([*both[0], *both[1]]):
            ours, theirs = (np.mean([each[name] for each in resampled], axis=0) for resampled in both)
            low, high = np.percentile(theirs - ours, PERCENTILES)
            found[name] = Difference(others[name] - own[name], float(low), float(high))
        return found

    def by_speaker(self, speakers: Sequence[str | None]) -> dict[str, dict[str, float]]:
        """Number of utterances and scores of each speaker, worst first; empty if no speaker is known."""
        if set(speakers) == {None}:
            return {}
        found = self.by_group([speaker or UNKNOWN_SPEAKER for speaker in speakers])
        sign = -1 if self.chosen.direction == "min" else 1
        return dict(sorted(found.items(), key=lambda each: (sign * each[1][self.chosen.name], each[0])))

    def by_group(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Number of utterances and scores of each group, by the name of each example's group."""
        assert len(self.parts) == 1
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        return {name: {"utterances": len(each), **self.parts[0].scores(np.array(each))} for name, each in rows.items()}

    def by_language(self, unit: str) -> dict[str, dict[str, Any]]:
        """Number of examples, scores, signatures and intervals of each language; empty if there is only one."""
        if not self._is_mean:
            return {}
        return {
            part.language or "": {
                unit: part.size,
                **part.scores(),
                **part.signatures,
                "intervals": {name: list(each) for name, each in intervals([part]).items()},
            }
            for part in self.parts
        }

    @property
    def _is_mean(self) -> bool:
        return len(self.parts) > 1
