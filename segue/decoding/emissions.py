"""What was said, and when? Tokens with their frames: what every search over speech hands on; merged over windows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Windows place the same token a few frames apart; two that differ by more than twice this are not taken for the same.
ALONE_FRAMES = 5


class Emission(NamedTuple):
    """One token, and the frames in which it was said."""

    token: int
    start: int
    """First frame."""
    end: int
    """Frame after the last."""
    confidence: float
    """From 0 to 1."""

    def later(self, frames: int) -> "Emission":
        """The same, so many frames later."""
        return self._replace(start=self.start + frames, end=self.end + frames)


def merge(windows: Sequence[Sequence[Emission]], overlaps: Sequence[tuple[int, int]]) -> list[Emission]:
    """One sequence from windows that overlap: `overlaps[n]` is the first frame, and the one after the last, that
    windows n and n + 1 share.

    Neighbors are cut in the middle of the widest gap in which neither emits anything. A token that the two place a
    few frames apart is taken to stand between its two places, so it is neither lost nor doubled, even in speech
    without gaps.
    """
    merged = list(windows[0])
    for following, (start, end) in zip(windows[1:], overlaps, strict=True):
        num_before = len(merged)
        while num_before and merged[num_before - 1].end > start:
            num_before -= 1
        num_shared = next((n for n, e in enumerate(following) if e.start >= end), len(following))
        left, right = merged[num_before:], list(following[:num_shared])
        left_places, right_places = _places(left, right)
        cut = _widest_gap([*left, *right], start, end)
        merged[num_before:] = [e for e, place in zip(left, left_places, strict=True) if place < cut]
        for emission in [
            *(e for e, place in zip(right, right_places, strict=True) if place >= cut),
            *following[num_shared:],
        ]:
            free = merged[-1].end if merged else 0  # where the windows disagree by a few frames, time still goes on
            first = max(emission.start, free)
            merged.append(emission._replace(start=first, end=max(emission.end, first + 1)))
    return merged


def _places(left: Sequence[Emission], right: Sequence[Emission]) -> tuple[list[float], list[float]]:
    """The middle of each emission in frames, and where both windows have the same token, the mean of the two.

    Which are the same is the alignment with the least cost: frames of shift, and ALONE_FRAMES for a token alone.
    """
    left_places, right_places = ([(e.start + e.end) / 2 for e in side] for side in (left, right))
    # Least costs of aligning the first i with the first j.
    costs = [[float(ALONE_FRAMES * (i + j)) for j in range(len(right) + 1)] for i in range(len(left) + 1)]
    for i, (a, a_place) in enumerate(zip(left, left_places, strict=True)):
        for j, (b, b_place) in enumerate(zip(right, right_places, strict=True)):
            alone = min(costs[i][j + 1], costs[i + 1][j]) + ALONE_FRAMES
            together = costs[i][j] + abs(a_place - b_place) if a.token == b.token else alone
            costs[i + 1][j + 1] = min(alone, together)
    i, j = len(left), len(right)
    while i and j:
        if costs[i][j] == costs[i - 1][j] + ALONE_FRAMES:
            i -= 1
        elif costs[i][j] == costs[i][j - 1] + ALONE_FRAMES:
            j -= 1
        else:
            i, j = i - 1, j - 1
            left_places[i] = right_places[j] = (left_places[i] + right_places[j]) / 2
    return left_places, right_places


def _widest_gap(emissions: Sequence[Emission], start: int, end: int) -> float:
    """Middle of the widest stretch of [start, end) that no emission touches; of the whole, if there is none."""
    # The outer quarters are where one of the two windows has little context: cut there only if they are all there is.
    quarter = (end - start) // 4
    low, high = start + quarter, end - quarter
    is_free = np.ones(max(high - low, 1), dtype=bool)
    for emission in emissions:
        if emission.end > low and emission.start < high:
            is_free[max(emission.start - low, 0) : max(emission.end - low, 0)] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_free, [False]]).astype(np.int8)))
    if not len(edges):
        return (start + end) / 2
    starts, ends = low + edges[::2], low + edges[1::2]
    middles = (starts + ends) / 2
    # Of equally wide ones the most central: there both windows have context.
    return float(middles[np.lexsort((abs(2 * middles - start - end), starts - ends))[0]])
