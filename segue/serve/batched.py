"""How does a model run in shared batches? A backend around its own one, which submits each input to a `Batcher`.

Everything above a backend (windows, words, sentences) stays as it is, and knows nothing of other requests.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.decoding.generation import Limits, Prompted, generate_together
from segue.decoding.sampling import SamplingSection
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


class BatchedGeneration:
    """What continues prompts for a language model, as `runtime.language_model.Generation`."""

    def __init__(self, batcher: "Batcher[_Text, Exception | None]") -> None:
        self._batcher = batcher

    @staticmethod
    def run(
        backend: LanguageBackend, items: "list[_Text]", key: tuple[SamplingSection, Limits]
    ) -> list[Exception | None]:
        """Runs a batch; what went wrong with each item. What fails before its first token raises, and may run again."""
        section, limits = key
        for group in _fitting(items, limits):
            try:
                generate_together(backend.steps(), [item.prompted for item in group], section, limits)
            except Exception as problem:
                if not any(item.has_begun for item in items):
                    raise
                for item in group:
                    item.problem = item.problem or problem
        return [item.problem for item in items]

    def __call__(self, prompts: Sequence[Prompted], section: SamplingSection, limits: Limits) -> None:
        """Continues prompts, in batches with those of other requests that are sampled in the same way."""
        ticket = batching.current()
        items = [_Text(each, ticket) for each in prompts]
        sizes = [len(each.generators) * (len(each.tokens) + each.num_tokens) for each in prompts]
        key = section.model_copy(update={"seed": 0}), limits._replace(num_tokens=0)
        for problem in self._batcher.submit(items, sizes, key):
            if problem is not None:
                raise problem


class _Text:
    """A prompt of a request, whose texts end when the request is canceled, or cannot take what is made."""

    def __init__(self, given: Prompted, ticket: batching.Ticket) -> None:
        self.prompted = given._replace(is_last=self._is_last)
        self.has_begun = False
        self.problem: Exception | None = None
        self._given, self._ticket = given, ticket

    def _is_last(self, number: int, token: int) -> bool:
        self.has_begun = True
        try:
            if self.problem is None:
                self._ticket.check()
                return self._given.is_last(number, token)
        except Exception as problem:
            self.problem = problem
        return True


def _fitting(items: list[_Text], limits: Limits) -> Iterator[list[_Text]]:
    """Groups whose longest prompt and largest number of tokens fit into the context together."""
    group: list[_Text] = []
    longest = most = 0
    for item in items:
        size, count = len(item.prompted.tokens), item.prompted.num_tokens
        longest, most = max(longest, size), max(most, count)
        if group and not limits.is_sliding and longest + most - 1 > limits.context:
            yield group
            group, longest, most = [], size, count
        group.append(item)
    yield group
