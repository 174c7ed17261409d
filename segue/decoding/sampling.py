"""How is the next token drawn from scores? Temperature, top-k, top-p, min-p and a repetition penalty, in numpy.

The definitions and their order are those of Hugging Face's transformers. What is drawn for a row depends on its own
scores and its own random numbers only, never on the rest of the batch.

Shape letters: N rows, V vocabulary.
"""

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue.recipe import Section

Scores = NDArray[np.float32]
Tokens = NDArray[np.int64]


class SamplingSection(Section):
    """How tokens are drawn."""

    temperature: Annotated[float, Field(ge=0)] = 0.8
    """Scores are divided by it: below 1 likely tokens are preferred, at 0 always the likeliest one is taken."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the k likeliest tokens are drawn (Fan et al. 2018, arXiv:1805.04833); 0: all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together have this probability (Holtzman et al. 2020, arXiv:1904.09751)."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only tokens with at least this share of the likeliest token's probability (Nguyen et al. 2024,
    arXiv:2407.01082)."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Scores of tokens of the prompt and the output are divided by it if positive, else multiplied (Keskar et al. 2019,
    arXiv:1909.05858, section 4.1); 1: no change."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the random numbers: the same seed gives the same text for a prompt at the same place of a list."""


def row_generator(seed: int, prompt: int, sample: int) -> np.random.Generator:
    """The random numbers of one sample of one prompt."""
    return np.random.default_rng([seed, prompt, sample])


def penalized(scores: Scores, used: NDArray[np.bool_], penalty: float) -> Scores:
    """(N, V) scores, (N, V) whether the token occurs in the row -> (N, V)."""
    return np.where(used, np.where(scores < 0, scores * penalty, scores / penalty), scores).astype(np.float32)


def restricted(scores: Scores, section: SamplingSection) -> Scores:
    """(N, V) -> (N, V) scores divided by the temperature, 0 for the likeliest, -inf for tokens that are not drawn."""
    assert section.temperature > 0
    # In float64 and from the likeliest down: a very small temperature must not make the largest score infinite.
    with np.errstate(over="ignore"):
        found = (scores - scores.max(axis=1, keepdims=True)).astype(np.float64) / section.temperature
    size = found.shape[1]
    if 0 < section.top_k < size:
        least = np.partition(found, size - section.top_k, axis=1)[:, size - section.top_k]
        found = np.where(found < least[:, None], -np.inf, found)
    if section.top_p < 1:
        order = np.argsort(found, axis=1)  # ascending
        tail = np.cumsum(_softmax(np.take_along_axis(found, order, axis=1)), axis=1)
        is_out = tail <= 1 - section.top_p
        is_out[:, -1] = False
        np.put_along_axis(found, order, np.where(is_out, -np.inf, np.take_along_axis(found, order, axis=1)), axis=1)
    if section.min_p > 0:
        probabilities = _softmax(found)
        is_out = probabilities < section.min_p * probabilities.max(axis=1, keepdims=True)
        found = np.where(is_out, -np.inf, found)
    with np.errstate(over="ignore"):
        restricted: Scores = found.astype(np.float32)
    return restricted


def draw(scores: Scores, section: SamplingSection, generators: Iterable[np.random.Generator]) -> Tokens:
    """(N, V) scores -> (N) tokens: the likeliest at temperature 0, else drawn with each row's own generator."""
    if section.temperature == 0:
        likeliest: Tokens = scores.argmax(axis=1)
        return likeliest
    sums = np.cumsum(_softmax(restricted(scores, section)), axis=1)
    points = np.array([generator.random() for generator in generators]) * sums[:, -1]
    # The first token whose cumulative sum is above the point; one of probability 0 is never it.
    found: Tokens = (sums <= points[:, None]).sum(axis=1, dtype=np.int64)
    found[found == scores.shape[1]] -= 1  # by rounding
    return found


def nats(scores: Scores, targets: Tokens) -> Scores:
    """(..., V) scores, (...) tokens -> (...) their negative log-likelihoods."""
    most = scores.max(axis=-1, keepdims=True)
    sums = np.log(np.exp(scores - most).sum(axis=-1)) + most.squeeze(-1)
    found: Scores = sums - np.take_along_axis(scores, targets[..., None], axis=-1).squeeze(-1)
    return found


def _softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, V) -> (N, V)."""
    shifted: NDArray[np.float64] = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
