"""How does a model run in shared batches? A backend around its own one, which submits each input to a `Batcher`.

Everything above a backend (windows, words, sentences) stays as it is, and knows nothing of other requests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.decoding.generation import Steps
from segue.decoding.search import Hypothesis, SearchSection
from segue.runtime.classifier import ClassifierBackend, Scores
from segue.runtime.language_model import LanguageBackend
from segue.runtime.recognizer import Backend, Recognized
from segue.runtime.translator import TranslationBackend
from segue.serve import batching
from segue.serve.batching import Batcher


class BatchedRecognizerBackend:
    """A recognizer's backend, as `runtime.recognizer.Backend`."""

    def __init__(self, batcher: Batcher[Samples, Recognized]) -> None:
        self._batcher = batcher

    @staticmethod
    def run(backend: Backend, waveforms: list[Samples], key: object) -> list[Recognized]:
        """Runs a batch."""
        del key
        return backend.recognize(waveforms)

    def recognize(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        """Recognizes waveforms (S)."""
        return self._batcher.submit(waveforms, [len(each) for each in waveforms])


_Row = tuple[Sequence[int], Sequence[int] | None]
"""A row of source tokens, and the prefix of its output."""


class BatchedTranslationBackend:
    """A translator's backend, as `runtime.translator.TranslationBackend`."""

    def __init__(self, batcher: Batcher[_Row, list[Hypothesis]], backend: TranslationBackend) -> None:
        self._batcher, self._backend = batcher, backend

    @staticmethod
    def run(
        backend: TranslationBackend, rows: list[_Row], key: tuple[SearchSection, int, bool]
    ) -> list[list[Hypothesis]]:
        """Runs a batch."""
        section, num_best, has_prefixes = key
        return backend.search(
            [row for row, _ in rows],
            section,
            num_best=num_best,
            prefixes=[prefix or () for _, prefix in rows] if has_prefixes else None,
        )

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `num_best` best outputs for each row of source tokens."""
        items = [(row, None if prefixes is None else prefixes[number]) for number, row in enumerate(rows)]
        return self._batcher.submit(items, [len(row) for row in rows], (section, num_best, prefixes is not None))

    def attention(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32] | None:
        """Cross-attention weights; not batched."""
        return self._backend.attention(source, target)


class BatchedClassifierBackend:
    """A classifier's backend, as `runtime.classifier.ClassifierBackend`."""

    def __init__(self, batcher: Batcher[NDArray[Any], NDArray[np.float32]]) -> None:
        self._batcher = batcher

    @staticmethod
    def run(backend: ClassifierBackend, rows: list[NDArray[Any]], key: object) -> list[NDArray[np.float32]]:
        """Runs a batch."""
        del key
        lengths = np.array([len(row) for row in rows], np.int64)
        inputs = np.zeros((len(rows), lengths.max()), rows[0].dtype)
        for place, row in zip(inputs, rows, strict=True):
            place[: len(row)] = row
        return list(backend.scores(inputs, lengths))

    def scores(self, inputs: NDArray[Any], lengths: NDArray[np.int64]) -> Scores:
        """(B, S) waveforms or tokens, (B) lengths -> (B, C) scores."""
        rows = [row[:length] for row, length in zip(inputs, lengths.tolist(), strict=True)]
        return np.stack(self._batcher.submit(rows, lengths.tolist()))


class LeavingLanguageBackend:
    """A language model's backend, as `runtime.language_model.LanguageBackend`: a generation ends when its request is
    canceled. Generations are not batched with each other."""

    def __init__(self, backend: LanguageBackend) -> None:
        self._backend = backend

    def steps(self) -> Steps:
        """A new generation."""
        return _LeavingSteps(self._backend.steps(), batching.current())

    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods."""
        return self._backend.losses(inputs, targets)


class _LeavingSteps:
    def __init__(self, steps: Steps, ticket: batching.Ticket) -> None:
        self._steps, self._ticket = steps, ticket

    def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> NDArray[np.float32]:
        return self._steps.begin(rows, capacity)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self._ticket.check()
        return self._steps.step(tokens)

    def select(self, rows: NDArray[np.int64]) -> None:
        self._steps.select(rows)
