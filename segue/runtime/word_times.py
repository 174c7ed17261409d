"""Where do words begin and end? The frames of CTC's tokens, moved to where the sound begins and ends.

CTC emits a token once where it is sure, not for as long as it is spoken: words would end far too early. Where the sound
falls silent, the word ends; else the next word begins there, a little before its first token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SILENCE_SECONDS = 0.08
"""Shorter silence may be inside a word: the closure of a stop, such as the t of eight."""
LONGEST_END_SECONDS = 0.5
"""A word's last token is followed by at most so much of it: else what sounds there is no speech of the text."""
LONGEST_END_IN_NOISE_SECONDS = 0.2
"""The same where speech is hardly louder than the noise around it."""
LONGEST_START_SECONDS = 0.15
"""The same before its first token."""
DELAY_SECONDS = 0.03
"""Where the sound does not tell, a word begins so long before its first token: CTC is sure of a letter only after some
of it (0 to 0.05 s with the models that were measured; see bench/RESULTS.md)."""
LATEST_START_SECONDS = 0.05
"""The sound begins at most so much after the first token."""
BELOW_PEAK_DB, ABOVE_NOISE_DB, LEAST_BELOW_PEAK_DB = 40.0, 4.0, 15.0
"""Silence is so far below the loudest of a word, or less far above the noise around it."""
AROUND_SECONDS = 5.0
NOISE_QUANTILE = 0.02
DIGITAL_SILENCE_DB = -90.0


class Levels(NamedTuple):
    """Levels of a recording at equal distances."""

    decibels: NDArray[np.float32]
    """dB relative to full scale."""
    seconds: float
    """Distance."""


def spans(emitted: Sequence[tuple[float, float]], levels: Levels, duration: float) -> list[tuple[float, float]]:
    """Start and end of each word in seconds, from those of its tokens; in order, without overlap, none of length 0."""
    found: list[tuple[float, float]] = []
    for number, (start, end) in enumerate(emitted):
        middle = (start + end) / 2
        limit = duration
        if number + 1 < len(emitted):
            limit = max((middle + end) / 2, emitted[number + 1][0] - DELAY_SECONDS)
        earliest = found[-1][1] if found else 0.0
        is_loud, first = _loudness(levels, start, end, earliest, limit)
        if len(is_loud):
            start = min(max(earliest, _start(is_loud, first, start, levels.seconds)), middle)
            end = min(limit, _end(is_loud, first, end, levels.seconds))
        found.append((start, end))
    return found


def _loudness(levels: Levels, start: float, end: float, earliest: float, limit: float) -> tuple[NDArray[np.bool_], int]:
    """Whether there is sound at each level from LONGEST_START_SECONDS before a word on, and the first one's index."""
    first = max(0, int(max(earliest, start - LONGEST_START_SECONDS) / levels.seconds))
    last = int(min(limit, end + LONGEST_END_SECONDS + SILENCE_SECONDS) / levels.seconds) + 1
    around = round(AROUND_SECONDS / levels.seconds)
    own = levels.decibels[first:last]
    if not len(own):
        return np.zeros(0, np.bool_), first
    peak = float(own.max())
    background = levels.decibels[max(0, first - around) : last + around]
    background = background[background > DIGITAL_SILENCE_DB]  # says nothing about the noise elsewhere
    noise = float(np.quantile(background, NOISE_QUANTILE)) if len(background) else DIGITAL_SILENCE_DB
    is_loud: NDArray[np.bool_] = own >= max(
        peak - BELOW_PEAK_DB, min(noise + ABOVE_NOISE_DB, peak - LEAST_BELOW_PEAK_DB)
    )
    if noise + ABOVE_NOISE_DB > peak - LEAST_BELOW_PEAK_DB:
        is_loud[int((end + LONGEST_END_IN_NOISE_SECONDS) / levels.seconds) + 1 - first :] = False
    return is_loud, first


def _start(is_loud: NDArray[np.bool_], first: int, start: float, step: float) -> float:
    """The beginning of the sound at the first token, or after it."""
    here = min(max(0, int(start / step) - first), len(is_loud) - 1)
    if is_loud[here]:
        silent = np.flatnonzero(~is_loud[:here])
        return (first + int(silent[-1]) + 1) * step if len(silent) else start - DELAY_SECONDS
    loud = np.flatnonzero(is_loud[here : here + round(LATEST_START_SECONDS / step)])
    return (first + here + int(loud[0])) * step if len(loud) else start


def _end(is_loud: NDArray[np.bool_], first: int, end: float, step: float) -> float:
    """The end of the sound after the last token."""
    here = min(max(0, int(end / step) - first), len(is_loud))
    reached = here
    for place in (here + np.flatnonzero(is_loud[here:])).tolist():
        if (place - reached) * step >= SILENCE_SECONDS:
            break
        reached = place + 1
    return max(end, (first + reached) * step)
