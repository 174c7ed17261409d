"""Which tokens were spoken, and when? Tokens with their frames, the result of speech decoding; merged over windows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Windows place the same token a few frames apart; equal tokens more than twice this apart are different tokens.
ALONE_FRAMES = 5


class Emission(NamedTuple):
    """A token and the frames in which it was spoken."""

    token: int
    start: int
    """First frame."""
    end: int
    """Frame after the last."""
    confidence: float
    """From 0 to 1."""
    follows_silence: bool = False
    """Whether there is silence between the token before and this one."""

    def later(self, frames: int) -> "Emission":
        """The same token, shifted by `frames`."""
        return self._replace(start=self.start + frames, end=self.end + frames)


def merge(windows: Sequence[Sequence[Emission]], overlaps: Sequence[tuple[int, int]]) -> list[Emission]:
    """One sequence from overlapping windows: windows n and n + 1 share the frames range(*overlaps[n]).

    Neighboring windows are cut in the middle of the widest gap in which neither emits a token. A token that the two
    place a few frames apart counts as being at the mean position, so it is neither lost nor duplicated, even in speech
    without gaps.
    """
    merged = list(windows[0])
    for following, (start, end) in zip(windows[1:], overlaps, strict=True):
        num_before = len(merged)
        while num_before and merged[num_before - 1].end > start:
            num_before -= 1
        num_shared = next((n for n, e in enumerate(following) if e.start >= end), len(following))
        left, right = merged[num_before:], list(following[:num_shared])
        left_places, right_places = ([(e.start + e.end) / 2 for e in side] for side in (left, right))
        matches = _matches(left, left_places, right, right_places)
        for j, i in matches.items():
            left_places[i] = right_places[j] = (left_places[i] + right_places[j]) / 2
        cut = _widest_gap([*left, *right], start, end)
        first_kept = next((j for j, place in enumerate(right_places) if place >= cut), None)
        if first_kept is not None and first_kept in matches:
            # The token before it is of the left window, and so is what is known of the gap between them.
            silent = left[matches[first_kept]].follows_silence
            right[first_kept] = right[first_kept]._replace(follows_silence=silent)
        merged[num_before:] = [e for e, place in zip(left, left_places, strict=True) if place < cut]
        for emission in [
            *(e for e, place in zip(right, right_places, strict=True) if place >= cut),
            *following[num_shared:],
        ]:
            free = merged[-1].end if merged else 0  # keep times monotonic where the windows disagree by a few frames
            first = max(emission.start, free)
            merged.append(emission._replace(start=first, end=max(emission.end, first + 1)))
    return merged


def _matches(
    left: Sequence[Emission], left_places: Sequence[float], right: Sequence[Emission], right_places: Sequence[float]
) -> dict[int, int]:
    """The right index of each token that is in both windows, whose middles are at these frames, and its left one.

    Tokens are matched by the alignment of least cost: the shift in frames, and ALONE_FRAMES for an unmatched token.
    """
    # Least costs of aligning the first i with the first j.
    costs = [[float(ALONE_FRAMES * (i + j)) for j in range(len(right) + 1)] for i in range(len(left) + 1)]
    for i, (a, a_place) in enumerate(zip(left, left_places, strict=True)):
        for j, (b, b_place) in enumerate(zip(right, right_places, strict=True)):
            alone = min(costs[i][j + 1], costs[i + 1][j]) + ALONE_FRAMES
            together = costs[i][j] + abs(a_place - b_place) if a.token == b.token else alone
            costs[i + 1][j + 1] = min(alone, together)
    found: dict[int, int] = {}
    i, j = len(left), len(right)
    while i and j:
        if costs[i][j] == costs[i - 1][j] + ALONE_FRAMES:
            i -= 1
        elif costs[i][j] == costs[i][j - 1] + ALONE_FRAMES:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found[j] = i
    return found


def _widest_gap(emissions: Sequence[Emission], start: int, end: int) -> float:
    """Middle of the widest range in [start, end) without emissions; of the whole range, if there is none."""
    # Not in the outer quarters, where one of the two windows has little context.
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
    # Of equally wide gaps the most central one, where both windows have context.
    return float(middles[np.lexsort((abs(2 * middles - start - end), starts - ends))[0]])
