"""How does an exported language model run in onnxruntime? Its graph, with a cache that is passed in and out.

Shape letters: B rows, T tokens, N rows of a generation, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data.tokenizer import Tokenizer
from segue.decoding.sampling import Scores, Tokens, nats
from segue.errors import UserError
from segue.runtime.language_model import LanguageMetadata, LanguageModel
from segue.runtime.onnx import session

INPUTS = ("tokens", "padding", "places", "past_keys", "past_values")
OUTPUTS = ("scores", "keys", "values")
SCORED_AT_ONCE = 1 << 25
"""Scores that are computed at once: 128 MB."""


def open_language_model(folder: Path, metadata: LanguageMetadata, threads: int | None = None) -> LanguageModel:
    """Opens the language model in an exported directory. Raises a UserError if its files do not belong together."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return LanguageModel(metadata, tokenizer, OnnxLanguageBackend(folder, len(tokenizer), threads))


class OnnxSteps:
    """A generation, as `decoding.generation.Steps`."""

    def __init__(self, graph: Any, empty: Sequence[int]) -> None:
        """`empty` is the shape of a cache without positions, for no rows."""
        self._graph, self._empty = graph, list(empty)
        self._cache: list[NDArray[np.float32]] = []
        self._padding = np.zeros(0, np.int64)

    def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> Scores:
        """Reads rows of tokens: (N, V) scores of each next token."""
        del capacity  # the cache grows
        longest = max(map(len, rows))
        self._padding = np.array([longest - len(row) for row in rows])
        shape = list(self._empty)
        shape[1] = len(rows)
        self._cache = [np.zeros(shape, np.float32)] * 2
        return self._read(np.array([[0] * (longest - len(row)) + list(row) for row in rows]))

    def step(self, tokens: Tokens) -> Scores:
        """(N) newest tokens -> (N, V) scores of the next ones."""
        return self._read(tokens[:, None])

    def select(self, rows: Tokens) -> None:
        """Keeps these rows, in this order."""
        self._cache = [each[:, rows] for each in self._cache]
        self._padding = self._padding[rows]

    def _read(self, tokens: Tokens) -> Scores:
        """(N, T) -> (N, V)."""
        last = np.array([tokens.shape[1] - 1])
        given = dict(zip(INPUTS, (tokens, self._padding, last, *self._cache), strict=True))
        scores, *self._cache = self._graph.run(None, given)
        found: Scores = scores[:, 0]
        return found


class OnnxLanguageBackend:
    """Runs a graph written by `formats/onnx_language`. It has no state between calls and is thread-safe."""

    def __init__(self, folder: Path, vocabulary: int, threads: int | None = None) -> None:
        """`vocabulary` is the number of the tokenizer's tokens. Raises a UserError if the graph has another."""
        self._graph = session(folder / "model.onnx", threads)
        inputs, outputs = ({each.name: each.shape for each in found()} for found in _signatures(self._graph))
        if tuple(inputs) != INPUTS or tuple(outputs) != OUTPUTS:
            raise UserError(f"{folder}: model.onnx is no language model of Segue; export it again")
        self._vocabulary = outputs["scores"][2]
        if self._vocabulary != vocabulary:
            raise UserError(
                f"{folder}: model.onnx has {self._vocabulary} tokens, tokenizer.json {vocabulary}; export it again"
            )
        self._empty = [size if isinstance(size, int) else 0 for size in inputs["past_keys"]]

    def steps(self) -> OnnxSteps:
        """A new generation."""
        return OnnxSteps(self._graph, self._empty)

    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats."""
        size = inputs.shape[1]
        count = max(1, SCORED_AT_ONCE // (size * self._vocabulary))
        found = []
        for first in range(0, len(inputs), count):
            some = inputs[first : first + count]
            shape = list(self._empty)
            shape[1] = len(some)
            cache = [np.zeros(shape, np.float32)] * 2
            given = dict(zip(INPUTS, (some, np.zeros(len(some), np.int64), np.arange(size), *cache), strict=True))
            scores, *_ = self._graph.run(["scores"], given)
            found.append(nats(scores, targets[first : first + count]))
        return np.concatenate(found)


def _signatures(graph: Any) -> tuple[Any, Any]:
    return graph.get_inputs, graph.get_outputs
