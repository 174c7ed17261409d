"""Comparison of an exported model, in its own runtime, with PyTorch: outputs, scores and speed on real examples."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from segue import metrics
from segue.data.manifest import Manifest
from segue.errors import count_of

NUM_EXAMPLES = 500
"""Maximum number of examples, evenly spaced over the manifests."""
WORST_DIFFERENCE = 1e-2
"""Bound on differences of scores, in nats, for models in full precision."""
NUM_SHOWN = 10


class Circumstances(NamedTuple):
    """Environment and sizes of a comparison."""

    runtime: str
    """Name and version."""
    instructions: str
    """Instruction sets of the processor, on which the results of 8-bit arithmetic depend."""
    threads: int
    bytes_before: int
    """Size of the weights in PyTorch."""
    bytes_after: int
    """Size of the exported files."""


class Least(NamedTuple):
    """Results when the runtime is restricted to the smallest instruction set that it supports."""

    name: str
    after: float
    """The metric of the exported model."""
    identical: float
    """Share of outputs that are the same as with all instruction sets."""


@dataclass(frozen=True)
class Parity:
    """The result of a comparison.

    Points are percentage points of WER, CER, accuracy or macro F1, points of BLEU or chrF, or hundredths of a nat per
    token, which are percents of perplexity.
    """

    task: str
    runtime: str
    """Name and version."""
    instructions: str
    """Instruction sets of the processor, on which the results of 8-bit arithmetic depend."""
    threads: int
    examples: list[str]
    """Manifests."""
    count: int
    """Number of their examples that were used."""
    worst_difference: float
    """Largest absolute difference of scores, in nats. Scores are all log-probabilities of a speech recognizer; for
    translation, those of the translations that are identical; for language models, those of the texts' tokens."""
    mean_difference: float
    identical: float
    """Share of outputs that are identical."""
    metric: str
    before: float
    after: float
    loss: float
    """Points lost from `before` to `after`; negative if the score improved."""
    signature: str
    """How the metric was computed, such as sacrebleu's signature; may be empty."""
    bytes_before: int
    bytes_after: int
    speed: float
    """Speed relative to PyTorch with the same number of threads; 2.0 is twice as fast."""
    differing: list[dict[str, Any]] = field(default_factory=list)
    """The first outputs that differ."""
    least: Least | None = None
    """The results with the smallest instruction set that the runtime supports, if that was tried."""

    def problems(self, is_exact: bool, max_loss: float, least: float) -> list[str]:
        """The reasons why the export must not be used; empty if it may.

        The metric may lose `max_loss` points. If the weights are not rounded (`is_exact`), scores must agree within
        WORST_DIFFERENCE, too, and at least a share of `least` of the outputs must be identical.
        """
        found = []
        if not math.isfinite(self.worst_difference):
            found.append("some scores are not numbers")
        elif is_exact and not self.worst_difference <= WORST_DIFFERENCE:
            found.append(f"scores differ by up to {self.worst_difference:.3g} (bound {WORST_DIFFERENCE})")
        if is_exact and self.identical < least:
            found.append(f"only {self.identical:.1%} of outputs are identical (bound {least:.0%})")
        if not self.loss <= max_loss:
            name = self.metric.replace("_", " ")
            found.append(f"{name}: {self.loss:.2f} points lost (--max-metric-loss {max_loss:g})")
        return found

    def save(self, path: Path, **more: Any) -> None:
        """Writes the comparison, and `more`, as one JSON object."""
        least = None if self.least is None else self.least._asdict()
        path.write_text(
            json.dumps({**vars(self), "least": least, **more}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def rows(self) -> dict[str, str]:
        """The rows of a table for the terminal, by label."""
        metric = metrics.describe(self.metric)
        is_share, unit = metric.is_share, metric.unit

        def points(value: float) -> str:
            return f"{value:.2%}" if is_share else f"{value:.4f}" if unit == "nats" else f"{value:.2f}"

        least = self.least
        others = (
            {}
            if least is None
            else {
                "on the least": f"{least.name}: {points(least.after)} after, {least.identical:.1%} of outputs the same"
            }
        )
        threads = count_of(self.threads, "thread")
        return {
            "runtime": self.runtime,
            "instructions": self.instructions,
            "examples": f"{self.count} of {', '.join(self.examples)}",
            "scores differ": f"{self.worst_difference:.2g} at most, {self.mean_difference:.2g} on average",
            "identical outputs": f"{self.identical:.1%}",
            self.metric.replace("_", " "): f"{points(self.before)} before, {points(self.after)} after",
            **others,
            **({f"{self.metric} signature": self.signature} if self.signature else {}),
            "size": f"{self.bytes_before / 1e6:.1f} MB before, {self.bytes_after / 1e6:.1f} MB after",
            "speed": f"{self.speed:.2f} times PyTorch ({threads})",
        }


def gate(scores: Sequence[metrics.Scores]) -> dict[str, Any]:
    """The metric that selects models, of the outputs before (the first of `scores`) and after (the others).

    "loss" is that of the worst of the others, in points: of a loss in nats, a point is a hundredth, too.
    """
    chosen, name = scores[0].chosen, scores[0].chosen.name
    before, *after = (each.overall()[name] for each in scores)
    points = 100 if chosen.is_share or chosen.unit == "nats" else 1
    losses = [points * (value - before if chosen.direction == "min" else before - value) for value in after]
    return {
        "metric": name,
        "before": before,
        "after": after[0],
        "loss": float(np.max(losses)),  # unlike Python's, keeps NaN
        "signature": scores[0].signatures().get(f"{name}_signature", ""),
    }


def thin_out(manifest: Manifest[Any], most: int = NUM_EXAMPLES) -> None:
    """Reduces the manifest to at most `most` examples, evenly spaced."""
    kept = np.linspace(0, len(manifest) - 1, min(most, len(manifest)), dtype=np.int64)
    manifest.without(np.setdiff1d(np.arange(len(manifest)), kept).tolist())


class Clock:
    """Measures two functions in alternation, so that disturbances affect both alike."""

    def __init__(self) -> None:
        self._seconds = np.zeros(2)

    def both(self, ours: Callable[..., Any], theirs: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        """Calls both with `arguments`; returns both results."""
        start = perf_counter()
        answer = ours(*arguments)
        middle = perf_counter()
        other = theirs(*arguments)
        self._seconds += middle - start, perf_counter() - middle
        return answer, other

    @property
    def ratio(self) -> float:
        """Time of `ours` / time of `theirs`: above 1 if `theirs` is faster."""
        return float(self._seconds[0] / self._seconds[1])
