"""Do words begin and end where the sound does?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.runtime.word_times import DELAY_SECONDS, Levels, spans

STEP = 0.01


def levels(seconds: float, *silent: tuple[float, float]) -> Levels:
    """Loud but for some spans."""
    decibels = np.full(round(seconds / STEP), -20, np.float32)
    for start, end in silent:
        decibels[round(start / STEP) : round(end / STEP)] = -80
    return Levels(decibels, STEP)


def test_words_end_in_silence_else_at_the_next() -> None:
    sound = levels(3, (0, 0.2), (1.5, 2), (2.5, 3))
    found = spans([(0.25, 0.5), (0.9, 1.2), (2.04, 2.1)], sound, 3)
    expected = [(0.2, 0.9 - DELAY_SECONDS), (0.9 - DELAY_SECONDS, 1.5), (2.0, 2.5)]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-6)


@given(
    tokens=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), min_size=1, max_size=12),
    frame=st.sampled_from([0.01, 0.02, 0.08]),
    silent=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 0.5)), max_size=5),
)
def test_words_are_in_order_and_none_is_empty(
    tokens: list[tuple[int, int]], frame: float, silent: list[tuple[float, float]]
) -> None:
    emitted, place = list[tuple[float, float]](), 0
    for gap, length in tokens:
        emitted.append(((place + gap) * frame, (place + gap + length) * frame))
        place += gap + length
    duration = place * frame
    found = spans(emitted, levels(duration, *((start, start + length) for start, length in silent)), duration)
    flat = [edge for span in found for edge in span]
    assert flat == sorted(flat)
    assert all(0 <= start < end <= duration for start, end in found)
