"""How are words segmented at random? BPE-dropout and unigram sampling, as pure functions of a seed.

The tokenizer library's random numbers cannot be seeded; exact resume needs segmentations that depend only on (seed,
word, variant). Each word has a fixed number of variants, drawn once; each occurrence picks one of them.
"""

import json
import math
import random
from functools import lru_cache
from typing import Annotated, Any
from zlib import crc32

import numpy as np
from pydantic import Field

from segue.data.tokenizer import Tokenizer
from segue.errors import UserError
from segue.recipe import Section

NUM_VARIANTS = 64
CACHE_SIZE = 1 << 20  # segmentations


class SubwordsSection(Section):
    """Random segmentation of the training texts, against overfitting."""

    merge_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """BPE-dropout: probability that a merge is skipped (Provilkov et al. 2020, arXiv:1910.13267, who use 0.1)."""
    sampling_alpha: Annotated[float, Field(gt=0)] | None = None
    """Unigram: segmentations are sampled with probabilities to this power (Kudo 2018, arXiv:1804.10959; 0.1 to 0.5)."""


class RandomCuts:
    """Encodes texts with random segmentation of words."""

    def __init__(self, tokenizer: Tokenizer, section: SubwordsSection, seed: int) -> None:
        """Raises a UserError if the section does not suit this kind of tokenizer."""
        self._tokenizer, self._seed = tokenizer, seed
        model = json.loads(tokenizer.to_json())["model"]
        kind = model["type"]
        if section.merge_dropout and not model.get("merges"):
            raise UserError("subwords.merge_dropout: needs a tokenizer of kind bpe")
        if section.sampling_alpha is not None and kind != "Unigram":
            raise UserError("subwords.sampling_alpha: needs a tokenizer of kind unigram")
        self.is_random = bool(section.merge_dropout) or section.sampling_alpha is not None
        if section.sampling_alpha is not None:
            special = tokenizer.special
            pieces = {piece: score for piece, score in model["vocab"] if piece not in special}
            cut: Any = _Lattice(pieces, section.sampling_alpha)
        elif section.merge_dropout:
            cut = _Merges([tuple(pair) for pair in model["merges"]], section.merge_dropout)
        else:
            return
        number_of = {token: number for number, token in enumerate(tokenizer.tokens)}

        @lru_cache(CACHE_SIZE)
        def variant(chunk: str, number: int) -> list[int]:
            draw = random.Random(f"{seed} {number} {crc32(chunk.encode())}")
            return [number_of.get(piece, tokenizer.unknown) for piece in cut(chunk, draw)]  # type: ignore[misc]

        self._variant = variant

    def encode(self, text: str, draw: np.random.Generator) -> list[int]:
        """Token numbers of `text`; `draw` picks the variants. Errors are those of the tokenizer's `encode`."""
        if not self.is_random:
            return self._tokenizer.encode(text)
        self._tokenizer.check(text)
        chunks = self._tokenizer.chunks(text)
        numbers = draw.integers(NUM_VARIANTS, size=len(chunks)).tolist()
        return [token for chunk, number in zip(chunks, numbers, strict=True) for token in self._variant(chunk, number)]


class _Merges:
    """Byte-pair merges, lowest rank first; at each step every possible merge is skipped with some probability."""

    def __init__(self, merges: list[tuple[str, str]], dropout: float) -> None:
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._dropout = dropout

    def __call__(self, chunk: str, draw: random.Random) -> list[str]:
        pieces = list(chunk)
        while True:
            possible = [
                (rank, place)
                for place in range(len(pieces) - 1)
                if (rank := self._ranks.get((pieces[place], pieces[place + 1]))) is not None
                and draw.random() >= self._dropout
            ]
            if not possible:
                return pieces
            place = min(possible)[1]
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


class _Lattice:
    """Samples segmentations of a word, with probability proportional to product(piece probabilities) ** alpha."""

    def __init__(self, scores: dict[str, float], alpha: float) -> None:
        self._scores, self._alpha = scores, alpha
        self._longest = max(map(len, scores), default=1)
        self._unknown = min(scores.values(), default=0.0) - 10.0  # as the library scores a character without a piece

    def __call__(self, chunk: str, draw: random.Random) -> list[str]:
        # Forward: log-sum over all segmentations of chunk[:end]. Backward: sample the last piece, then the one before.
        ends: list[list[tuple[float, int]]] = [[]]  # for each end: (log weight, start) of the pieces that end there
        sums = [0.0]
        for end in range(1, len(chunk) + 1):
            found = []
            for start in range(max(0, end - self._longest), end):
                score = self._scores.get(chunk[start:end])
                if score is None and start == end - 1:
                    score = self._unknown
                if score is not None:
                    found.append((sums[start] + self._alpha * score, start))
            highest = max(weight for weight, _ in found)
            sums.append(highest + math.log(sum(math.exp(weight - highest) for weight, _ in found)))
            ends.append(found)
        pieces: list[str] = []
        end = len(chunk)
        while end:
            weights = [math.exp(weight - sums[end]) for weight, _ in ends[end]]
            start = draw.choices([start for _, start in ends[end]], weights)[0]
            piece = chunk[start:end]
            if piece not in self._scores and pieces and pieces[-1] not in self._scores:
                pieces[-1] = piece + pieces[-1]  # adjacent unknown pieces are one token, as in the library
            else:
                pieces.append(piece)
            end = start
        return pieces[::-1]
