"""How sure is a score, and a difference of two? Intervals by bootstrap, over sentences or whole speakers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.metrics.measures import Measure, References, Statistics
from segue.metrics.names import Metric

NUM_RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
FEW_SPEAKERS = 10
UNKNOWN_SPEAKER = "(unknown)"


class Scored:
    """Outputs of one language beside their references."""

    def __init__(
        self,
        measures: Sequence[Measure],
        references: References,
        hypotheses: Sequence[str],
        language: str | None = None,
    ) -> None:
        """The first of `measures` is what chooses a model."""
        assert len(references) == len(hypotheses) > 0
        self.measures, self.language, self.size = measures, language, len(hypotheses)
        self._statistics = [measure.statistics(references, hypotheses) for measure in measures]
        signatures = {measure.metric.name: measure.signature(references) for measure in measures}
        self.signatures = {f"{name}_signature": text for name, text in signatures.items() if text is not None}

    def scores(self, rows: NDArray[np.intp] | None = None) -> dict[str, float]:
        """By name, with the counts behind the first; of all examples, or of those in `rows`."""
        sums = [(each if rows is None else each[rows]).sum(axis=0) for each in self._statistics]
        found = {measure.metric.name: measure.score(each) for measure, each in zip(self.measures, sums, strict=True)}
        return found | self.measures[0].counts(sums[0])

    def scores_of_one(self, row: int) -> dict[str, float]:
        """By name."""
        pairs = zip(self.measures, self._statistics, strict=True)
        return {measure.metric.name: measure.score_of_one(each[row]) for measure, each in pairs}

    def resampled(self, blocks: NDArray[np.intp] | None = None) -> dict[str, Statistics]:
        """(resamples) scores by name, each of as many blocks as there are, drawn with replacement; the same every time.

        `blocks` (N) says which examples belong together; without it each is its own (Bisani and Ney 2004). Examples of
        one speaker have their errors in common: drawn one by one, they would promise more than is known (Liu and Peng
        2020, "Statistical Testing on ASR Performance via Blockwise Bootstrap"). Nothing comes of one block.
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
    """95 % intervals of the parts' mean scores, by name; none where a part is a single block (`Scored.resampled`), nor
    of a score that no draw changed: an error rate of 0 on a few examples is not known to be 0."""
    resampled = [part.resampled(blocks) for part in parts]
    found = {}
    for name in common(resampled):
        low, high = np.percentile(np.mean([each[name] for each in resampled], axis=0), PERCENTILES)
        if high > low:
            found[name] = (float(low), float(high))
    return found


def common(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that all parts have, in order."""
    return [name for name in parts[0] if all(name in part for part in parts)]


class Difference(NamedTuple):
    """Between two models' scores, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def blocks_of(speakers: Sequence[str | None]) -> NDArray[np.intp]:
    """(N) which examples are of one speaker; who is not named is alone."""
    names = [(each is None, number if each is None else each) for number, each in enumerate(speakers)]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([number_of[name] for name in names])


class Resampling(NamedTuple):
    """How far scores would vary, and what was drawn to know it."""

    intervals: dict[str, Interval]
    note: str


class Scores(NamedTuple):
    """Outputs beside their references, language by language."""

    parts: Sequence[Scored]
    rows: Sequence[NDArray[np.intp]]
    """Of each part, which examples it has."""

    @property
    def chosen(self) -> Metric:
        """What chooses a model."""
        return self.parts[0].measures[0].metric

    def overall(self) -> dict[str, float]:
        """By name: the mean over languages, so that one with longer texts or smaller tokens counts no more than others;
        with counts where there is one language."""
        each = [part.scores() for part in self.parts]
        if len(each) == 1:
            return each[0]
        names = [measure.metric.name for measure in self.parts[0].measures]
        return {name: float(np.mean([part[name] for part in each])) for name in common(each) if name in names}

    def signatures(self) -> dict[str, str]:
        """By name; of each language where they differ."""
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
        """95 % intervals, by speaker where two or more are known; `unit` names the examples."""
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
                drawn = f"{len(known):,} speakers" + (f" and {num_alone:,} {unit} without one" if num_alone else "")
                hint = "; few speakers: rough" if len(known) < FEW_SPEAKERS else ""
            else:
                hint = "; " + ("all of one speaker" if known else "speakers are not known") + ": other voices vary more"
        found = intervals(self.parts, blocks)
        if not found:
            hint += "; every draw has the same scores, so there are none"
        return Resampling(found, f"95 % intervals: bootstrap, {NUM_RESAMPLES:,} draws of {drawn}{hint}")

    def difference(self, other: "Scores", speakers: Sequence[str | None] | None = None) -> dict[str, Difference]:
        """What the other model's scores are above these, of the same examples: by paired bootstrap (Koehn 2004).

        Each draw takes the same examples, or speakers where two or more are known, for both models.
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
        """Each speaker's examples and scores, worst first; nothing where no speaker is known."""
        assert len(self.parts) == 1
        rows: dict[str | None, list[int]] = {}
        for row, speaker in enumerate(speakers):
            rows.setdefault(speaker, []).append(row)
        found = {
            speaker or UNKNOWN_SPEAKER: {"utterances": len(each), **self.parts[0].scores(np.array(each))}
            for speaker, each in rows.items()
        }
        sign = -1 if self.chosen.direction == "min" else 1
        ordered = dict(sorted(found.items(), key=lambda each: (sign * each[1][self.chosen.name], each[0])))
        return ordered if set(speakers) != {None} else {}

    def by_language(self, unit: str) -> dict[str, dict[str, Any]]:
        """Each language's examples, scores, signatures and intervals; nothing where there is one language."""
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


# --- which scores there are ---
