"""Is an exported model the same model? Its own runtime against PyTorch, on real examples, in one alternating run."""

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

NUM_EXAMPLES = 500
"""Examples at the most, evenly spaced over the manifests."""
WORST_DIFFERENCE = 1e-2
"""Bound on scores of models in full precision, in nats."""
NUM_SHOWN = 10


class Circumstances(NamedTuple):
    """Of a comparison."""

    runtime: str
    """Name and version."""
    instructions: str
    """Of the processor that it ran on: eight bits are computed otherwise on others."""
    threads: int
    bytes_before: int
    """Of the weights in PyTorch."""
    bytes_after: int
    """Of what was written."""


class Least(NamedTuple):
    """What the runtime says when it is told to use the fewest instructions that it can."""

    name: str
    after: float
    """The metric."""
    identical: float
    """Share of outputs that are the same as with all instructions."""


@dataclass(frozen=True)
class Parity:
    """What was found. Points are of WER, CER, accuracy or macro F1 in per cent, of BLEU or of chrF."""

    task: str
    runtime: str
    """Name and version."""
    instructions: str
    """Of the processor that it ran on: eight bits are computed otherwise on others."""
    threads: int
    examples: list[str]
    """Manifests."""
    count: int
    """Examples of them that were used."""
    worst_difference: float
    """Of scores, in nats: all log-probabilities of speech; of translations that are the same, their own."""
    mean_difference: float
    identical: float
    """Share of outputs."""
    metric: str
    before: float
    after: float
    loss: float
    """Points lost from before to after; below 0 where it got better."""
    signature: str
    """How the metric was counted, where that needs to be said."""
    bytes_before: int
    bytes_after: int
    speed: float
    """Times as fast as PyTorch on as many threads."""
    differing: list[dict[str, Any]] = field(default_factory=list)
    """The first outputs that differ."""
    least: Least | None = None
    """The same on the least processor that the runtime serves, where it was tried."""

    def problems(self, is_exact: bool, max_loss: float, least: float) -> list[str]:
        """Why the export must not be used; nothing where it may. Rounded weights have to keep the metric only, others
        also a share of `least` of the outputs."""
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
        """As one JSON object."""
        least = None if self.least is None else self.least._asdict()
        path.write_text(
            json.dumps({**vars(self), "least": least, **more}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def rows(self) -> dict[str, str]:
        """What people read."""
        is_share = metrics.describe(self.metric).is_share

        def points(value: float) -> str:
            return f"{value:.2%}" if is_share else f"{value:.2f}"

        least = self.least
        others = (
            {}
            if least is None
            else {
                "on the least": f"{least.name}: {points(least.after)} after, {least.identical:.1%} of outputs the same"
            }
        )
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
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
    """What the metric that chooses a model says of outputs before and after; it counts what did worst after."""
    chosen, name = scores[0].chosen, scores[0].chosen.name
    before, *after = (each.overall()[name] for each in scores)
    points = 100 if chosen.is_share else 1
    losses = [points * (value - before if chosen.direction == "min" else before - value) for value in after]
    return {
        "metric": name,
        "before": before,
        "after": after[0],
        "loss": float(np.max(losses)),  # unlike Python's, keeps NaN
        "signature": scores[0].signatures().get(f"{name}_signature", ""),
    }


def thin_out(manifest: Manifest[Any], most: int = NUM_EXAMPLES) -> None:
    """Leaves so many examples at the most, evenly spaced."""
    kept = np.linspace(0, len(manifest) - 1, min(most, len(manifest)), dtype=np.int64)
    manifest.without(np.setdiff1d(np.arange(len(manifest)), kept).tolist())


class Clock:
    """The time that each side took, turn by turn: what disturbs one disturbs the other."""

    def __init__(self) -> None:
        self._seconds = np.zeros(2)

    def both(self, ours: Callable[..., Any], theirs: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        """The answers of both."""
        start = perf_counter()
        answer = ours(*arguments)
        middle = perf_counter()
        other = theirs(*arguments)
        self._seconds += middle - start, perf_counter() - middle
        return answer, other

    @property
    def ratio(self) -> float:
        """Times as fast as ours the other side was."""
        return float(self._seconds[0] / self._seconds[1])
