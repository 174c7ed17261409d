"""Where in a recording is each token of a known text? The best path of CTC through the text (forced alignment).

A path is a blank or a token per frame; between equal tokens there is a blank (Graves et al. 2006). Of all paths that
spell the text, the most probable one is found by Viterbi search. NumPy only.

Memory is bounded for recordings of hours: the search goes through all frames once and keeps its scores every
BLOCK_FRAMES frames; back-pointers are computed block by block on the way back, where a path can only come from the few
tokens that fit into a block. States far from the best ones are dropped, as in beam search.

Shape letters: T frames, V vocabulary, U tokens of the text.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError

BLOCK_FRAMES = 1024
"""A block's scores are kept: 64 kB of WIDTH tokens; its back-pointers take 2 MB, one block after the other."""
TRIM_FRAMES = 16
"""States are dropped, and scores brought near 0, after so many frames: float32 has 7 digits."""
BEAM = 5000.0
"""Nats below the best state at which a state is dropped: minutes of speech that the text lacks."""
WIDTH = 8192
"""Tokens that are kept at most."""

LEAST = np.float32(-1000.0)
"""Lower log-probabilities, also those of impossible tokens, count as this, so that there always is a path."""
_NEVER = np.float32(-np.inf)


class Alignment(NamedTuple):
    """Each token's frames, and the path's score in each frame."""

    starts: NDArray[np.int64]
    """(U) first frame of each token."""
    ends: NDArray[np.int64]
    """(U) frame after the last."""
    log_probs: NDArray[np.float32]
    """(T) log-probability of the path in each frame."""


class _Text(NamedTuple):
    """What is to be aligned."""

    tokens: NDArray[np.int64]
    """(U)"""
    may_skip: NDArray[np.float32]
    """(U) 0 if the blank before a token may be left out, minus infinity if not."""
    blank: int
    is_gap: NDArray[np.float32]
    """(U + 1) 1 for blanks that are gaps."""
    anything: int
    """The column that counts in gaps."""


class _State(NamedTuple):
    """Scores at a frame, of the tokens range(low, high)."""

    low: int
    high: int
    labels: NDArray[np.float32]
    """(high - low + 1) of the tokens low - 1 to high - 1."""
    blanks: NDArray[np.float32]
    """(high - low + 1) of the blanks before the tokens low to high."""


def frames_needed(tokens: Sequence[int] | NDArray[np.int64]) -> int:
    """The smallest number of frames that tokens (U) can be aligned to: equal neighbors need a blank between."""
    given = np.asarray(tokens)
    return len(given) + int((given[1:] == given[:-1]).sum())


def align(
    log_probs: NDArray[np.floating],
    tokens: Sequence[int] | NDArray[np.int64],
    blank: int,
    *,
    gaps: NDArray[np.bool_] | None = None,
    anything: int | None = None,
    width: int = WIDTH,
    beam: float = BEAM,
) -> Alignment:
    """Log-probabilities (T, V) and tokens (U) -> the most probable path through the tokens.

    In the `gaps` (U + 1), before each token and after the last, column `anything` counts instead of the blank: there
    may be speech that is not in the text.
    The result is exact while no more than `width` tokens are within `beam` nats of the best. Raises a UserError if
    there are too few frames.
    """
    given = np.asarray(tokens, np.int64)
    needed = frames_needed(given)
    if needed > len(log_probs):
        raise UserError(
            f"the text needs at least {needed} frames of the model's output, the sound has {len(log_probs)}"
        )
    if not len(given):
        nothing = np.zeros(0, np.int64)
        return Alignment(nothing, nothing, np.asarray(log_probs[:, blank], np.float32))
    may_skip = np.zeros(len(given), np.float32)
    may_skip[1:][given[1:] == given[:-1]] = _NEVER
    is_gap = np.zeros(len(given) + 1, np.float32) if gaps is None else gaps.astype(np.float32)
    text = _Text(given, may_skip, blank, is_gap, blank if anything is None else anything)
    return _backward(log_probs, text, _forward(log_probs, text, width, beam))


def _forward(
    log_probs: NDArray[np.floating],
    text: _Text,
    width: int,
    beam: float,
) -> list[_State]:
    """The scores before each block, and after the last frame.

    The best state of those from which the end can be reached is kept, so the end is always reached.
    """
    tokens, may_skip, blank, is_gap, anything = text
    num_frames, num_tokens = len(log_probs), len(tokens)
    # (U) frames that the tokens before u need, and the frames that are left for them.
    needed = np.arange(num_tokens) + np.cumsum(may_skip < 0)
    spare = num_frames - int(needed[-1])
    # labels[u + 1] is token u, so that labels[u] is the one before it; blanks[u] is the blank before token u.
    labels, blanks = (np.full(num_tokens + 1, _NEVER, np.float32) for _ in range(2))
    scores, emitted = (np.empty(num_tokens + 1, np.float32) for _ in range(2))
    blanks[0] = 0.0  # before the first frame
    low = high = 0
    kept: list[_State] = []
    for start in range(0, num_frames, BLOCK_FRAMES):
        kept.append(_State(low, high, labels[low : high + 1].copy(), blanks[low : high + 1].copy()))
        rows = _rows(log_probs, start)
        for frame, row in enumerate(rows, start):
            high = min(high + 1, num_tokens)
            before, between = labels[low : high + 1], blanks[low : high + 1]
            new, own = scores[: high - low], emitted[: high - low]
            np.add(before[:-1], may_skip[low:high], out=new)
            np.maximum(new, before[1:], out=new)
            np.maximum(new, between[:-1], out=new)
            np.maximum(between, before, out=between)
            extra = row[anything] - row[blank]
            between += row[blank]
            if extra:
                between += np.multiply(is_gap[low : high + 1], extra, out=emitted[: high + 1 - low])
            np.take(row, tokens[low:high], out=own, mode="clip")
            np.add(new, own, out=before[1:])
            before[0] = _NEVER  # token low - 1 is not followed any longer
            if frame % TRIM_FRAMES == TRIM_FRAMES - 1:
                # The first token, and blank, that can still be followed by all others in the frames that are left.
                least, least_blank = np.searchsorted(needed, (frame + 1 - spare, frame + 2 - spare)).tolist()
                labels[low : least + 1] = _NEVER
                blanks[low:least_blank] = _NEVER
                low, high = _trimmed(labels, blanks, max(low, least), high, width, beam)
    assert high == num_tokens
    return [*kept, _State(low, high, labels[low : high + 1].copy(), blanks[low : high + 1].copy())]


def _rows(log_probs: NDArray[np.floating], start: int) -> NDArray[np.float32]:
    """The frames of a block."""
    return np.maximum(np.asarray(log_probs[start : start + BLOCK_FRAMES], np.float32), LEAST)


def _trimmed(
    labels: NDArray[np.float32],
    blanks: NDArray[np.float32],
    low: int,
    high: int,
    width: int,
    beam: float,
) -> tuple[int, int]:
    """The tokens that are kept; the scores of all others are removed, and the best is 0."""
    best = np.maximum(labels[low : high + 1], blanks[low : high + 1])
    top = best.max()
    labels[low : high + 1] -= top
    blanks[low : high + 1] -= top
    alive = low + np.flatnonzero(best >= top - np.float32(beam))
    first, last = max(int(alive[0]) - 1, low), int(alive[-1])
    if last - first > width:
        first = min(max(first, low + int(best.argmax()) - width // 2), last - width)
        last = first + width
    labels[low : first + 1] = _NEVER  # labels[first] is the token before
    blanks[low:first] = _NEVER
    labels[last + 1 : high + 1] = _NEVER
    blanks[last + 1 : high + 1] = _NEVER
    return first, last


def _backward(
    log_probs: NDArray[np.floating],
    text: _Text,
    kept: Sequence[_State],
) -> Alignment:
    """The path, block by block from the last one."""
    tokens = text.tokens
    num_frames, num_tokens = len(log_probs), len(tokens)
    starts, ends = (np.zeros(num_tokens, np.int64) for _ in range(2))
    path = np.empty(num_frames, np.float32)
    last = kept[-1]
    token, is_blank = num_tokens, bool(last.blanks[-1] >= last.labels[-1])
    token -= not is_blank  # the blank before token U, or token U - 1
    seen = num_tokens  # tokens from here on have their frames
    for number in range(len(kept) - 2, -1, -1):
        begin = number * BLOCK_FRAMES
        rows = _rows(log_probs, begin)
        state = kept[number]
        low = max(state.low, token - len(rows))
        from_labels, from_blanks = _pointers(rows, text, state, low, token + 1)
        for frame in range(len(rows) - 1, -1, -1):
            if is_blank:
                path[begin + frame] = rows[frame, text.anything if text.is_gap[token] else text.blank]
                if from_blanks[frame, token - low]:
                    token, is_blank = token - 1, False
            else:
                path[begin + frame] = rows[frame, tokens[token]]
                if token < seen:
                    seen, ends[token] = token, begin + frame + 1
                starts[token] = begin + frame
                step = from_labels[frame, token - low]
                is_blank = step == 1
                token -= step == 2
    return Alignment(starts, ends, path)


def _pointers(
    rows: NDArray[np.float32],
    text: _Text,
    state: _State,
    low: int,
    high: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(frames of the block, high - low) each, where the best path to a state comes from.

    Of tokens: 0 the same token, 1 the blank before it, 2 the token before it. Of the blanks before tokens: 1 the token
    before it.
    """
    tokens, may_skip, blank, is_gap, anything = text
    high = min(high, len(tokens))
    size = high - low + 1
    labels, blanks = (np.full(size, _NEVER, np.float32) for _ in range(2))
    end = min(high, state.high)
    labels[: end - low + 1] = state.labels[low - state.low : end - state.low + 1]
    blanks[: end - low + 1] = state.blanks[low - state.low : end - state.low + 1]
    of_labels, of_blanks = (np.zeros((len(rows), size), np.uint8) for _ in range(2))
    for frame, row in enumerate(rows):
        new = labels[1:].copy()
        choice = of_labels[frame, :-1]
        for number, other in ((1, blanks[:-1]), (2, labels[:-1] + may_skip[low:high])):
            is_better = other > new
            choice[is_better] = number
            np.copyto(new, other, where=is_better)
        np.greater(labels, blanks, out=of_blanks[frame], casting="unsafe")
        blanks = np.maximum(labels, blanks) + row[blank] + is_gap[low : high + 1] * (row[anything] - row[blank])
        labels[1:] = new + row[tokens[low:high]]
        labels[0] = _NEVER
    return of_labels, of_blanks
