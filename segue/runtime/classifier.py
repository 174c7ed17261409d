"""Which class does a recording or a text belong to? Splitting long inputs, batching, probabilities.

The `ClassifierBackend` is a PyTorch model or an exported one; everything else is the same for both.

Shape letters: B batch, S samples or tokens, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue import metrics
from segue.data import audio, batching, reading
from segue.data.audio import Samples
from segue.data.examples import Labeled
from segue.data.text import TextSection, normalize, seen
from segue.errors import UserError
from segue.recipe import Section
from segue.runtime import json_line

if TYPE_CHECKING:
    from segue.data.tokenizer import Tokenizer
    from segue.runtime.classification_evaluation import ClassificationEvaluator

PositiveInt = Annotated[int, Field(gt=0)]
Scores = NDArray[np.float32]
PADDING = 0
"""Padding token; masked by all models."""


class SoundInput(Section):
    """Input of a model for sounds."""

    kind: Literal["sound"] = "sound"
    """Sound."""
    sample_rate_hz: PositiveInt
    """Sample rate."""


class TextInput(Section):
    """Input of a model for texts."""

    kind: Literal["text"] = "text"
    """Text."""
    rule: TextSection
    """Text normalization."""
    longest_tokens: PositiveInt
    """Longer texts are classified in parts."""


class ClassifierMetadata(Section):
    """What a runtime needs to know about a classifier."""

    task: Literal["classification"] = "classification"
    """The task."""
    input: Annotated[SoundInput | TextInput, Field(discriminator="kind")]
    """Its input."""
    classes: tuple[str, ...]
    """The classes, in the order of the scores."""
    metric: metrics.ClassMetric
    """Metric of the model."""
    parameters: PositiveInt
    """Number of parameters."""


class ClassifierBackend(Protocol):
    """A model in some runtime."""

    def scores(self, inputs: NDArray[Any], lengths: NDArray[np.int64]) -> Scores:
        """(B, S) waveforms or tokens, (B) lengths -> (B, C) scores. A row does not depend on the others."""
        ...


class Classification(NamedTuple):
    """The result for a recording or text."""

    source: str
    """The recording's path, or the text."""
    ranked: list[tuple[str, float]]
    """All classes with their probabilities, most likely first; empty for a blank text."""

    @property
    def label(self) -> str | None:
        """The most likely class."""
        return self.ranked[0][0] if self.ranked else None

    @property
    def probability(self) -> float | None:
        """Probability of the most likely class."""
        return self.ranked[0][1] if self.ranked else None

    def written(self, form: Literal["text", "json"], key: Literal["audio", "text"], top: int = 1) -> str:
        """One line: the class; with `top` above 1 the most likely ones with probabilities, separated by tabs. In JSON,
        `key` is the key of the source."""
        shown = [(label, round(probability, 4)) for label, probability in self.ranked[:top]]
        if form == "text":
            if top == 1:
                return self.label or ""
            return "\t".join(f"{label}\t{probability:.4f}" for label, probability in shown)
        best = [{"label": label, "probability": probability} for label, probability in shown]
        first = best[0] if best else {"label": None, "probability": None}
        return json_line.written({key: self.source, **first, **({"top": best} if top > 1 else {})}, self.source)


class Classifier:
    """A trained model for recordings or texts of any length. It has no state between calls and is thread-safe."""

    BATCH = 32  # texts per batch
    WINDOW = 1024  # lines read at once: limits memory, and lets texts of similar length be batched

    def __init__(
        self, metadata: ClassifierMetadata, backend: ClassifierBackend, tokenizer: "Tokenizer | None" = None
    ) -> None:
        """A model for texts needs a tokenizer."""
        self.metadata, self.backend, self._tokenizer = metadata, backend, tokenizer

    @property
    def is_of_sounds(self) -> bool:
        """Whether it classifies recordings rather than texts."""
        return isinstance(self.metadata.input, SoundInput)

    def classify(
        self,
        given: str | Path | NDArray[Any],
        sample_rate_hz: int | None = None,
        channel: int | str | None = None,
    ) -> Classification:
        """The class of a recording, or of a text if the model is for texts.

        A recording is a file or samples, with their rate and optionally a channel, as in `reading.opened`. It is
        processed in windows whose scores are averaged; windows of digital silence are left out. A blank text has no
        class. Raises a UserError if the input cannot be read, is silent, or is of the wrong kind.
        """
        if not self.is_of_sounds:
            if not isinstance(given, str) or sample_rate_hz is not None or channel is not None:
                raise UserError("classify: a text wanted: this model classifies texts")
            [found] = self.classify_lines([given])
            return found
        name, blocks = reading.opened(given, self.sample_rate_hz, sample_rate_hz, channel)
        total, num_used = np.zeros(len(self.metadata.classes)), 0
        for window in self._windows(blocks):
            if window.any():
                total += len(window) * self.of_sounds([window])[0]
                num_used += len(window)
        if not num_used:
            raise UserError(f"{name or 'samples'}: silent: every sample is 0")
        return self._ranked(name, total / num_used)

    def classify_lines(self, lines: Iterable[str], window: int = WINDOW) -> Iterator[Classification]:
        """The class of each text, in order, in bounded memory."""
        lines = iter(lines)
        while block := list(islice(lines, window)):
            filled = [bool(self.normalized(text)) for text in block]
            rows = iter(self.of_texts([text for text, is_filled in zip(block, filled, strict=True) if is_filled]))
            for text, is_filled in zip(block, filled, strict=True):
                yield self._ranked(text, next(rows)) if is_filled else Classification(text, [])

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of a model for sounds."""
        assert isinstance(self.metadata.input, SoundInput)
        return self.metadata.input.sample_rate_hz

    @staticmethod
    def rate_of(path: Path) -> int:
        """Sample rate of a recording."""
        return audio.properties(path).sample_rate_hz

    def of_sounds(self, waveforms: Sequence[Samples]) -> Scores:
        """Waveforms (S), not divided into windows -> (B, C) log-probabilities."""
        return _normalized(self.backend.scores(*audio.padded(waveforms)))

    def of_texts(self, texts: Sequence[str]) -> Scores:
        """Texts that are not empty after normalization -> (B, C) log-probabilities; for long texts the mean over their
        parts, weighted by length."""
        parts: list[list[int]] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            for part in self._parts(self.normalized(text)):
                parts.append(part)
                owners.append(number)
        totals, weights = np.zeros((len(texts), len(self.metadata.classes))), np.zeros(len(texts))
        order = sorted(range(len(parts)), key=lambda number: len(parts[number]))  # similar lengths together
        for start in range(0, len(order), self.BATCH):
            numbers = order[start : start + self.BATCH]
            tokens, lengths = batching.padded([parts[number] for number in numbers], PADDING)
            found = _normalized(self.backend.scores(tokens, lengths))
            for number, row, length in zip(numbers, found, lengths.tolist(), strict=True):
                totals[owners[number]] += length * row
                weights[owners[number]] += length
        return _normalized(totals / weights[:, None])

    def normalized(self, text: str) -> str:
        """The normalized text; "" if nothing visible is left."""
        assert isinstance(self.metadata.input, TextInput)
        found = normalize(text, self.metadata.input.rule)
        return found if seen(found) else ""

    def evaluate(self, manifest: Path, skip_bad: bool = False) -> dict[str, Any]:
        """Scores on a manifest with confidence intervals, scores by class, and the number of bad examples left out."""
        return self.evaluator.explain(manifest, skip_bad, has_media=False).as_json()

    @property
    def evaluator(self) -> "ClassificationEvaluator":
        """An evaluator of this model."""
        from segue.runtime.classification_evaluation import ClassificationEvaluator  # imports this module

        return ClassificationEvaluator(self)

    def _parts(self, text: str) -> list[list[int]]:
        """The tokens of a text, in parts of nearly equal length that do not exceed the training limit."""
        assert isinstance(self.metadata.input, TextInput)
        assert self._tokenizer is not None
        tokens = self._tokenizer.encode(text)
        count = max(1, -(-len(tokens) // self.metadata.input.longest_tokens))
        return [tokens[len(tokens) * n // count : len(tokens) * (n + 1) // count] for n in range(count)]

    def _windows(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        size = round(reading.WINDOW_SECONDS * self.sample_rate_hz)
        pending = np.zeros(0, np.float32)
        for block in blocks:
            pending = np.concatenate([pending, block])
            while len(pending) > size:
                yield pending[:size]
                pending = pending[size:]
        yield pending

    def _ranked(self, source: str, row: NDArray[Any]) -> Classification:
        probabilities = np.exp(_normalized(row))
        order = np.argsort(-probabilities, kind="stable").tolist()
        return Classification(source, [(self.metadata.classes[n], float(probabilities[n])) for n in order])


def _normalized(rows: NDArray[Any]) -> Scores:
    """(..., C) scores -> log-probabilities; means of log-probabilities need it again."""
    largest = rows.max(axis=-1, keepdims=True)
    shifted = rows - largest
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def problem(example: Labeled, classes: Sequence[str], *, is_of_sounds: bool) -> str | None:
    """Why an example is unusable for a model of sounds (`is_of_sounds`) or texts; None if it is usable."""
    if is_of_sounds != (example.sound is not None):
        what = ("a recording", "a text") if is_of_sounds else ("a text", "a recording")
        key = "audio_filepath" if is_of_sounds else "text"
        return f"{example.origin}: {key}: {what[0]} wanted, but this is {what[1]}"
    if example.label not in classes:
        known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        return f"{example.origin}: label: {example.label!r} is not a class of the model (classes: {known})"
    return None
