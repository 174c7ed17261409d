"""How well do embeddings tell speakers apart? The equal error rate over pairs of recordings.

Shape letters: N recordings, D width, P pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_RECORDINGS = 1500
"""More are thinned out evenly: a million pairs are enough."""
NUM_RESAMPLES = 200
PERCENTILES = (2.5, 97.5)


class Verification(NamedTuple):
    """The equal error rate of pairs."""

    rate: float
    """The share of pairs of one speaker that are taken for two, where it equals the share of pairs of two speakers that
    are taken for one. 1.0 is 100 %."""
    threshold: float
    """The cosine similarity that gives these errors: pairs from there on are taken for one speaker."""
    interval: tuple[float, float] | None
    """95 % interval of the rate, by bootstrap over speakers; None with fewer than three speakers."""
    middle: float
    """The cosine similarity halfway between the means of pairs of one speaker and of two: where clusters of recordings,
    which are compared by mean similarities, are best divided. Unlike `threshold`, it hardly depends on how alike the
    most similar speakers are."""
    num_same: int
    """Pairs of one speaker."""
    num_different: int
    """Pairs of two speakers."""


def equal_error(
    similarities: NDArray[np.floating], is_same: NDArray[np.bool_], weights: NDArray[np.floating] | None = None
) -> tuple[float, float]:
    """(P) similarities, (P) whether the pair is of one speaker, (P) weights -> rate, threshold.

    There must be pairs of both kinds. Between two similarities, both shares of errors are interpolated linearly.
    """
    order = np.argsort(-similarities, kind="stable")
    weight = np.ones(len(order)) if weights is None else weights[order]
    same = np.where(is_same[order], weight, 0.0)
    other = weight - same
    missed = 1 - np.concatenate([[0.0], np.cumsum(same)]) / same.sum()
    false = np.concatenate([[0.0], np.cumsum(other)]) / other.sum()
    sorted_ = similarities[order]
    # Pairs of equal similarity are accepted together: only the ends of their runs are possible thresholds.
    ends = np.concatenate([[0], np.flatnonzero(np.diff(sorted_)) + 1, [len(order)]])
    missed, false = missed[ends], false[ends]
    place = int(np.argmax(false >= missed - 1e-12))  # the first: one rises from 0 to 1, the other falls
    step = (missed[place - 1] - false[place - 1]) / (
        missed[place - 1] - missed[place] + false[place] - false[place - 1]
    )
    rate = missed[place - 1] + step * (missed[place] - missed[place - 1])
    return float(rate), float(sorted_[ends[place] - 1])


def of_pairs(embeddings: NDArray[np.float32], speakers: Sequence[str]) -> Verification | None:
    """The equal error rate over all pairs of (N, D) unit vectors, with the speaker of each.

    None unless there are at least two speakers, and one with two recordings.
    """
    kept = np.linspace(0, len(speakers) - 1, min(len(speakers), MOST_RECORDINGS)).astype(int)
    names = [speakers[index] for index in kept]
    numbers = np.unique(names, return_inverse=True)[1]
    first, second = np.triu_indices(len(kept), 1)
    is_same = numbers[first] == numbers[second]
    if not is_same.any() or is_same.all():
        return None
    similarities = (embeddings[kept] @ embeddings[kept].T)[first, second]
    rate, threshold = equal_error(similarities, is_same)
    interval = _interval(similarities, is_same, numbers[first], numbers[second])
    middle = (similarities[is_same].mean() + similarities[~is_same].mean()) / 2
    return Verification(rate, threshold, interval, float(middle), int(is_same.sum()), int((~is_same).sum()))


def _interval(
    similarities: NDArray[np.floating], is_same: NDArray[np.bool_], one: NDArray[np.intp], other: NDArray[np.intp]
) -> tuple[float, float] | None:
    """A pair counts as often as its speaker was drawn, a pair of two speakers as often as both."""
    num_speakers = int(max(one.max(), other.max())) + 1
    if num_speakers < 3:
        return None
    draw, found = np.random.default_rng(0), list[float]()
    order = np.argsort(-similarities, kind="stable")
    similarities, is_same, one, other = similarities[order], is_same[order], one[order], other[order]
    for _ in range(NUM_RESAMPLES):
        times = np.bincount(draw.integers(num_speakers, size=num_speakers), minlength=num_speakers).astype(float)
        weights = np.where(is_same, times[one], times[one] * times[other])
        if weights[is_same].any() and weights[~is_same].any():
            found.append(equal_error(similarities, is_same, weights)[0])
    low, high = np.percentile(found, PERCENTILES)
    return (float(low), float(high)) if high > low else None
