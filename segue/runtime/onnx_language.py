"""How does an exported language model run in onnxruntime? Its graph, which writes into a cache that is bound to it.

Shape letters: B and N rows, T tokens, S scored places, K heads of keys, P positions, d width of a head, V vocabulary.
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

INPUTS = ("tokens", "lengths", "places")
"""Before the cache."""
SCORES = "scores"
"""The output before the cache."""
SCORED_AT_ONCE = 1 << 25
"""Scores that are computed at once: 128 MB."""


def cache_names(layers: int) -> tuple[list[str], list[str]]:
    """The names of the cache as inputs and outputs: keys and values of each layer."""
    kept = [f"{what}_{layer}" for layer in range(layers) for what in ("keys", "values")]
    return [f"past_{name}" for name in kept], kept


def open_language_model(folder: Path, metadata: LanguageMetadata, threads: int | None = None) -> LanguageModel:
    """Opens the language model in an exported directory. Raises a UserError if its files do not belong together."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return LanguageModel(metadata, tokenizer, OnnxLanguageBackend(folder, len(tokenizer), threads))


class OnnxSteps:
    """A generation, as `decoding.generation.Steps`."""

    def __init__(self, graph: Any, shape: Sequence[int], layers: int, vocabulary: int) -> None:
        """`shape` is that of keys without rows and positions: (K, d)."""
        self._graph, self._vocabulary = graph, vocabulary
        self._shape, self._past, self._present = tuple(shape), *cache_names(layers)
        self._cache: list[NDArray[np.float32]] = []
        self._lengths = np.zeros(0, np.int64)
        self._bound: Any = None
        self._given: dict[str, NDArray[Any]] = {}

    def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> Scores:
        """Reads rows of tokens: (N, V) scores of each next token."""
        self._lengths = np.array([len(row) for row in rows])
        longest, (heads, width) = int(self._lengths.max()), self._shape
        shape = (len(rows), heads, max(capacity, longest), width)
        self._cache = [np.empty(shape, np.float32) for _ in self._past]
        tokens = np.array([[*row, *[0] * (longest - len(row))] for row in rows])
        self._bind(tokens)
        return self._run(self._lengths - 1)

    def step(self, tokens: Tokens) -> Scores:
        """(N) newest tokens -> (N, V) scores of the next ones."""
        if self._given["tokens"].shape != (len(tokens), 1):
            self._bind(tokens[:, None])
        self._given["tokens"][:, 0] = tokens
        self._lengths += 1
        return self._run(0)

    def select(self, rows: Tokens) -> None:
        """Keeps these rows, in this order."""
        self._cache = [each[rows] for each in self._cache]
        self._lengths = self._lengths[rows]
        self._bind(np.zeros((len(rows), 1), np.int64))

    def _bind(self, tokens: Tokens) -> None:
        """Binds the memory of inputs and outputs, once for all steps of the same rows: the cache is both."""
        rows = len(tokens)
        names = (*INPUTS, SCORES)
        arrays = (tokens.astype(np.int64), np.empty(rows, np.int64), np.zeros((rows, 1), np.int64))
        scores = np.empty((rows, 1, self._vocabulary), np.float32)
        self._given = dict(zip(names, (*arrays, scores), strict=True))
        self._bound = self._graph.io_binding()
        for name in INPUTS:
            array = self._given[name]
            self._bound.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        self._bound.bind_output(SCORES, "cpu", 0, np.float32, scores.shape, scores.ctypes.data)
        for past, present, array in zip(self._past, self._present, self._cache, strict=True):
            self._bound.bind_input(past, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            self._bound.bind_output(present, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def _run(self, places: Any) -> Scores:
        self._given["lengths"][:] = self._lengths
        self._given["places"][:, 0] = places
        self._graph.run_with_iobinding(self._bound)
        found: Scores = self._given[SCORES][:, 0].copy()  # the next step writes into the same memory
        return found


class OnnxLanguageBackend:
    """Runs a graph written by `formats/onnx_language`. It has no state between calls and is thread-safe."""

    def __init__(self, folder: Path, vocabulary: int, threads: int | None = None) -> None:
        """`vocabulary` is the number of the tokenizer's tokens. Raises a UserError if the graph has another."""
        self._graph = session(folder / "model.onnx", threads)
        inputs = {each.name: each.shape for each in self._graph.get_inputs()}
        outputs = {each.name: each.shape for each in self._graph.get_outputs()}
        self._layers = (len(inputs) - len(INPUTS)) // 2
        self._past, present = cache_names(self._layers)
        if [*inputs] != [*INPUTS, *self._past] or [*outputs] != [SCORES, *present]:
            raise UserError(f"{folder}: model.onnx is no language model of this version of Segue; export it again")
        self._vocabulary = outputs[SCORES][2]
        if self._vocabulary != vocabulary:
            raise UserError(
                f"{folder}: model.onnx has {self._vocabulary} tokens, tokenizer.json {vocabulary}; export it again"
            )
        _, heads, _, width = inputs[self._past[0]]
        self._shape = (heads, width)

    def steps(self) -> OnnxSteps:
        """A new generation."""
        return OnnxSteps(self._graph, self._shape, self._layers, self._vocabulary)

    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats."""
        size, (heads, width) = inputs.shape[1], self._shape
        count = max(1, SCORED_AT_ONCE // (size * self._vocabulary))
        found = []
        for first in range(0, len(inputs), count):
            some = inputs[first : first + count]
            given = (some, np.full(len(some), size), np.tile(np.arange(size), (len(some), 1)))
            empty = np.zeros((len(some), heads, 0, width), np.float32)
            cache = dict.fromkeys(self._past, empty)
            scores, *_ = self._graph.run([SCORES], {**dict(zip(INPUTS, given, strict=True)), **cache})
            found.append(nats(scores, targets[first : first + count]))
        return np.concatenate(found)
