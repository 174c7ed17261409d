"""Is an exported model the same model? Its own runtime against PyTorch, on real examples, in one alternating run."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue import metrics
from segue.data.audio import Samples
from segue.data.examples import Pair, Utterance
from segue.data.manifest import Manifest
from segue.data.text import normalize
from segue.progress import progress
from segue.runtime.recogniser import Heard, Recogniser
from segue.runtime.translator import Translated, Translator

NUM_EXAMPLES = 500
"""Examples at the most, evenly spaced over the manifests."""
WORST_DIFFERENCE = 1e-2
"""Bound on scores of models in full precision, in nats."""
LEAST_IDENTICAL = {"speech_recognition": 0.99, "translation": 0.98}
"""Bounds on the share of identical outputs of models in full precision; searches may end by other rules."""
NUM_SHOWN = 10

Scores = list[NDArray[np.float32]]
Hear = Callable[[Sequence[Samples]], tuple[list[str], Callable[[], Scores]]]
"""Waveforms (S) -> what a runtime heard in each, and what gives the log-probabilities (T, V) behind it."""


class Size(NamedTuple):
    """Of the files, in bytes."""

    before: int
    after: int


class Least(NamedTuple):
    """What the runtime says when it is told to use the fewest instructions that it can."""

    name: str
    after: float
    """The metric."""
    identical: float
    """Share of outputs that are the same as with all instructions."""


@dataclass(frozen=True)
class Parity:
    """What was found. Points are of WER or CER in per cent, of BLEU or of chrF."""

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

    def problems(self, is_exact: bool, max_loss: float) -> list[str]:
        """Why the export must not be used; nothing where it may. Rounded weights have to keep the metric only."""
        found = []
        least = LEAST_IDENTICAL[self.task]
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
        is_rate = self.metric.endswith("_rate")

        def points(value: float) -> str:
            return f"{value:.2%}" if is_rate else f"{value:.2f}"

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


def of_speech(
    model: Recogniser,
    hear: Hear,
    utterances: Manifest[Utterance],
    *,
    runtime: str,
    instructions: str,
    threads: int,
    size: Size,
) -> Parity:
    """A recogniser in PyTorch beside what another runtime hears."""
    thin_out(utterances)
    before: list[Heard] = []
    after: list[Heard] = []
    clock = _Clock()
    worst, total, count = 0.0, 0.0, 0
    sounds = progress(model.sounds(utterances), "compares", len(utterances), "utterances", lambda each: len(each[0]))
    for group, waveforms in sounds:
        if not before:  # to warm up
            model.hear(waveforms), hear(waveforms)
        (texts, scores), (texts_after, scores_after) = clock.both(model.hear, hear, waveforms)
        for ours, theirs in zip(scores, scores_after(), strict=True):
            difference = np.abs(ours - theirs)
            worst = float(np.maximum(worst, difference.max(initial=0.0)))  # unlike Python's max, keeps NaN
            total, count = total + float(difference.sum()), count + ours.size
        for heard, found in ((before, texts), (after, texts_after)):
            for utterance, text in zip(group, found, strict=True):
                reference = normalize(utterance.text, model.facts.text, utterance.language)
                heard.append(Heard(utterance.id, reference, text, utterance.seconds))
    differing = [
        {"id": ours.id, "reference": ours.reference, "before": ours.hypothesis, "after": theirs.hypothesis}
        for ours, theirs in zip(before, after, strict=True)
        if ours.hypothesis != theirs.hypothesis
    ]
    gate = _gate([model.score(heard) for heard in (before, after)])
    return Parity(
        task=model.facts.task,
        runtime=runtime,
        instructions=instructions,
        threads=threads,
        examples=[str(path) for path in utterances.paths],
        count=len(before),
        worst_difference=worst,
        mean_difference=total / max(1, count),
        identical=1 - len(differing) / len(before),
        **gate,
        bytes_before=size.before,
        bytes_after=size.after,
        speed=clock.ratio,
        differing=differing[:NUM_SHOWN],
    )


def of_translation(
    model: Translator,
    other: Translator,
    pairs: Manifest[Pair],
    *,
    runtime: str,
    instructions: str,
    threads: int,
    size: Size,
    least: tuple[str, Translator] | None = None,
) -> Parity:
    """A translator in PyTorch beside the same one in another runtime, and there on the `least` instructions.

    The loss is the larger of the two.
    """
    thin_out(pairs)
    before = sorted(model.usable(pairs), key=lambda each: (each.target_language or "", len(each.source)))
    after: list[Translated] = []
    after_least: list[Translated] = []
    differences: list[float] = []
    differing: list[dict[str, Any]] = []
    clock = _Clock()
    decode = model.vocabularies.target.decode
    groups = progress(_groups(before), "compares", len(before), "texts", lambda each: each[1] - each[0])
    for start, end in groups:
        group, language = before[start:end], before[start].target_language
        sources = [each.source for each in group]
        if start == 0:  # to warm up
            model.search(sources, language), other.search(sources, language)
        found, found_after = clock.both(model.search, other.search, sources, language)
        if least is not None:
            texts_least = (decode(best.tokens) for best, *_ in least[1].search(sources, language))
            after_least += (each._replace(hypothesis=text) for each, text in zip(group, texts_least, strict=True))
        for number, ([ours, *_], [theirs, *_]) in enumerate(zip(found, found_after, strict=True), start):
            texts = decode(ours.tokens), decode(theirs.tokens)
            before[number], after_it = (before[number]._replace(hypothesis=text) for text in texts)
            after.append(after_it)
            if ours.tokens == theirs.tokens:
                differences.append(abs(ours.log_probability - theirs.log_probability))
            else:
                said = {"id": after_it.id, "source": after_it.source, "before": texts[0], "after": texts[1]}
                differing.append({**said, "score_before": ours.score, "score_after": theirs.score})
    scores = [model.score(outputs) for outputs in (before, after, after_least) if outputs]
    gate = _gate(scores)
    return Parity(
        task=model.facts.task,
        runtime=runtime,
        instructions=instructions,
        threads=threads,
        examples=[str(path) for path in pairs.paths],
        count=len(before),
        worst_difference=float(np.max(differences or [0.0])),
        mean_difference=float(np.mean(differences or [0.0])),
        identical=len(differences) / len(before),
        **gate,
        bytes_before=size.before,
        bytes_after=size.after,
        speed=clock.ratio,
        differing=differing[:NUM_SHOWN],
        least=None
        if least is None
        else Least(least[0], scores[2].overall()[gate["metric"]], _share_same(after, after_least)),
    )


def _gate(scores: Sequence[metrics.Scores]) -> dict[str, Any]:
    """What the metric that chooses a model says of outputs before and after; it counts what did worst after."""
    name, is_lower_better = scores[0].chosen.name, scores[0].chosen.direction == "min"
    before, *after = (each.overall()[name] for each in scores)
    losses = [100 * (value - before) if is_lower_better else before - value for value in after]
    return {
        "metric": name,
        "before": before,
        "after": after[0],
        "loss": float(np.max(losses)),  # unlike Python's, keeps NaN
        "signature": scores[0].signatures().get(f"{name}_signature", ""),
    }


def _share_same(outputs: Sequence[Translated], others: Sequence[Translated]) -> float:
    return float(np.mean([one.hypothesis == other.hypothesis for one, other in zip(outputs, others, strict=True)]))


def thin_out(manifest: Manifest[Any], most: int = NUM_EXAMPLES) -> None:
    """Leaves so many examples at the most, evenly spaced."""
    kept = np.linspace(0, len(manifest) - 1, min(most, len(manifest)), dtype=np.int64)
    manifest.without(np.setdiff1d(np.arange(len(manifest)), kept).tolist())


def _groups(rows: Sequence[Translated]) -> list[tuple[int, int]]:
    """Starts and ends of batches that hold one language each."""
    changes = [n for n in range(1, len(rows)) if rows[n].target_language != rows[n - 1].target_language]
    return [
        (first, min(first + Translator.BATCH, end))
        for start, end in zip([0, *changes], [*changes, len(rows)], strict=True)
        for first in range(start, end, Translator.BATCH)
    ]


class _Clock:
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
