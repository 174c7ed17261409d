"""How does an exported language model run in CTranslate2? Its Generator goes ahead, Segue chooses the tokens.

CTranslate2 keeps its cache to itself, and draws tokens with random numbers that depend on the batch. To give the same
texts as PyTorch for the same seed, it is asked for the likeliest tokens and the scores on their way. As long as the
token that Segue draws is the likeliest one, these scores are the next ones; else the text is read anew, with that
token. So greedy generation has CTranslate2's whole speed; the more a sampling is led astray, the less of it is left.

Shape letters: B rows, T tokens, N rows of a generation, V vocabulary.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data.tokenizer import Tokenizer
from segue.decoding.sampling import Scores, Tokens, nats
from segue.errors import UserError, missing_extra
from segue.runtime.language_model import LanguageMetadata, LanguageModel

FIRST_AHEAD = 8
MOST_AHEAD = 32
"""Tokens that are generated at once, at first and at most: their scores need memory, rows x tokens x vocabulary."""
SCORED_AT_ONCE = 1 << 25
"""Scores that are computed at once: 128 MB."""


def open_language_model(folder: Path, metadata: LanguageMetadata, threads: int | None = None) -> LanguageModel:
    """Opens the language model in an exported directory. Raises a UserError if its files do not belong together."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    backend = CTranslate2LanguageBackend(folder, tokenizer.tokens, metadata.context, threads)
    return LanguageModel(metadata, tokenizer, backend)


class CTranslate2Steps:
    """A generation, as `decoding.generation.Steps`."""

    def __init__(self, generator: Any, tokens: Sequence[str], context: int) -> None:
        self._generator, self._tokens, self._context = generator, tokens, context
        self._rows: list[_Row] = []
        self._capacity = 0

    def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> Scores:
        """Reads rows of tokens: (N, V) scores of each next token."""
        self._rows, self._capacity = [_Row(row) for row in rows], capacity
        return self._next()

    def step(self, tokens: Tokens) -> Scores:
        """(N) newest tokens -> (N, V) scores of the next ones."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.add(token)
        return self._next()

    def select(self, rows: Tokens) -> None:
        """Keeps these rows, in this order."""
        self._rows = [self._rows[number].copied() for number in rows.tolist()]

    def _next(self) -> Scores:
        # CTranslate2 4.8 gives rows of several lengths wrong positions, which GPT-2 shows, and rotary positions do not.
        by_length: dict[int, list[_Row]] = {}
        for row in self._rows:
            if not row.scores:
                by_length.setdefault(len(row.tokens), []).append(row)
        for length, some in by_length.items():
            self._read(some, length)
        return np.stack([row.scores[0] for row in self._rows])

    def _read(self, rows: Sequence["_Row"], length: int) -> None:
        """Generates the likeliest tokens after rows of this length."""
        most = min(self._context + 1, self._capacity) - length
        size = max(1, min(max(row.ahead for row in rows), most))
        results = self._generator.generate_batch(
            [[self._tokens[token] for token in row.tokens] for row in rows],
            max_length=size,
            min_length=size,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
            return_logits_vocab=True,
        )
        for row, result in zip(rows, results, strict=True):
            row.likeliest = list(result.sequences_ids[0])
            row.scores = [np.array(each, np.float32).reshape(-1) for each in result.logits[0]]


class _Row:
    """Tokens, and what is known of those after them."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.scores: list[Scores] = []
        """(V) scores of the next token, and of those after it if each is the likeliest."""
        self.likeliest: list[int] = []
        """The likeliest token by each of these."""
        self.ahead = FIRST_AHEAD
        """How many are worth computing."""
        self._num_right = 0

    def add(self, token: int) -> None:
        """Appends a token."""
        self.tokens.append(token)
        is_right = token == self.likeliest[0]
        self._num_right += is_right
        if is_right:
            self.scores, self.likeliest = self.scores[1:], self.likeliest[1:]
        else:
            self.scores = []
        if not self.scores:
            self.ahead = min(MOST_AHEAD, 2 * self.ahead) if is_right else max(1, self._num_right)
            self._num_right = 0

    def copied(self) -> "_Row":
        """A row that goes its own way."""
        other = _Row(self.tokens)
        other.scores, other.likeliest, other.ahead = list(self.scores), list(self.likeliest), self.ahead
        other._num_right = self._num_right
        return other


class CTranslate2LanguageBackend:
    """Runs a model written by `formats/ctranslate2_language`. It has no state between calls and is thread-safe."""

    def __init__(self, folder: Path, tokens: Sequence[str], context: int, threads: int | None = None) -> None:
        """`tokens` are those of the tokenizer. Raises a UserError if the model has others."""
        try:
            import ctranslate2
        except ImportError:
            raise missing_extra("ctranslate2", "translate") from None
        try:
            # All threads work on one step: often there is a single row.
            self._generator: Any = ctranslate2.Generator(str(folder), intra_threads=threads or os.cpu_count() or 1)
            known = json.loads((folder / "vocabulary.json").read_text("utf-8"))
        except (RuntimeError, ValueError, OSError) as problem:
            raise UserError(f"{folder}: not a CTranslate2 model of Segue: {problem}") from None
        if known != list(tokens):
            raise UserError(f"{folder}: its vocabulary is not that of its tokenizer.json; export it again")
        self._tokens, self._context = tokens, context

    def steps(self) -> CTranslate2Steps:
        """A new generation."""
        return CTranslate2Steps(self._generator, self._tokens, self._context)

    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats."""
        from ctranslate2 import StorageView

        size = inputs.shape[1]
        count = max(1, SCORED_AT_ONCE // (size * len(self._tokens)))
        found = []
        for first in range(0, len(inputs), count):
            some = np.ascontiguousarray(inputs[first : first + count], np.int32)
            lengths = np.full(len(some), size, np.int32)
            scores = self._generator.forward_batch(*map(StorageView.from_array, (some, lengths)))
            found.append(nats(np.array(scores, np.float32), targets[first : first + count]))
        return np.concatenate(found)
