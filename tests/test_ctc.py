from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segue.decoding.confidence import of_frames
from segue.decoding.ctc import greedy
from segue.decoding.emissions import Emission, merge


def scores(path: list[int], vocabulary: int, seed: int = 0) -> np.ndarray:
    """(T, V) log-probabilities whose best path this is."""
    logits = np.random.default_rng(seed).uniform(0, 1, (len(path), vocabulary))
    logits[np.arange(len(path)), path] += 1
    log_probs: NDArray[np.float32] = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    return log_probs


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 3), st.integers(0, 1000))
@settings(deadline=None)
def test_greedy_drops_repeats_and_blanks(path: list[int], blank: int, first_frame: int) -> None:
    log_probs = scores(path, 4)
    emissions = [each.later(first_frame) for each in greedy(log_probs, blank)]
    assert [emission.token for emission in emissions] == [token for token, _ in groupby(path) if token != blank]
    frames = [token for emission in emissions for token in [emission.token] * (emission.end - emission.start)]
    assert frames == [token for token in path if token != blank]
    for token, start, end, confidence, _ in emissions:
        run = slice(start - first_frame, end - first_frame)
        assert path[run] == [token] * (end - start)
        assert confidence == pytest.approx(of_frames(log_probs)[run].max())


def emitted(*tokens: int) -> list[Emission]:
    """Tokens of two frames each, one frame apart."""
    return [Emission(token, 3 * number, 3 * number + 2, 0.5) for number, token in enumerate(tokens)]


# A recording of 500 frames, heard in windows of 120 that share 48.
WINDOW, OVERLAP, LENGTH = 120, 48, 500
STEP = WINDOW - OVERLAP
NUM_WINDOWS = -(-(LENGTH - OVERLAP) // STEP)
OVERLAPS = [(number * STEP, number * STEP + OVERLAP) for number in range(1, NUM_WINDOWS)]
NOISE = 99


def said(longest_gap: int, draw: np.random.Generator) -> list[Emission]:
    """Tokens of 1 to 3 frames with gaps from 0 to `longest_gap` frames; none again within the next ten."""
    frame, emissions = int(draw.integers(5)), list[Emission]()
    while frame < LENGTH - 3:
        recent = {emission.token for emission in emissions[-10:]}
        token = int(draw.choice([token for token in range(28) if token not in recent]))
        end = frame + int(draw.integers(1, 4))
        emissions.append(Emission(token, frame, end, 1.0))
        frame = end + int(draw.integers(longest_gap + 1))
    return emissions


def heard(
    emissions: list[Emission], number: int, jitter: int, draw: np.random.Generator, *, is_noisy: bool
) -> list[Emission]:
    """What window `number` makes of them: tokens up to `jitter` frames away, and near its inner ends lost or wrong."""
    first, last = number * STEP, number * STEP + WINDOW
    edge = OVERLAP // 4 - 2 * jitter if is_noisy else 0
    found, free = list[Emission](), first
    for token, start, end, confidence, _ in emissions:
        if not first <= start < last:
            continue
        is_at_edge = (start < first + edge and number > 0) or (start >= last - edge and number < NUM_WINDOWS - 1)
        if is_at_edge and draw.random() < 0.3:
            continue
        wrong = NOISE + int(draw.integers(5)) if is_at_edge and draw.random() < 0.5 else token
        moved = max(start + int(draw.integers(-jitter, jitter + 1)), free)
        free = moved + end - start
        found.append(Emission(wrong, moved, free, confidence))
    return found


@given(
    longest_gap=st.sampled_from([0, 1, 3, 10, 40]),
    jitter=st.integers(0, 3),
    is_noisy=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=200)
def test_merging_windows_keeps_every_token_once(longest_gap: int, jitter: int, is_noisy: bool, seed: int) -> None:
    draw = np.random.default_rng(seed)
    emissions = said(longest_gap, draw)
    windows = [heard(emissions, number, jitter, draw, is_noisy=is_noisy) for number in range(NUM_WINDOWS)]
    merged = merge(windows, OVERLAPS)
    assert [emission.token for emission in merged] == [emission.token for emission in emissions]
    assert all(before.end <= after.start for before, after in pairwise(merged))
    assert all(emission.start < emission.end for emission in merged)


@pytest.mark.parametrize("longest_gap", [0, 10])
def test_agreeing_windows_merge_exactly(longest_gap: int) -> None:
    draw = np.random.default_rng(0)
    emissions = said(longest_gap, draw)
    windows = [heard(emissions, number, 0, draw, is_noisy=False) for number in range(NUM_WINDOWS)]
    assert merge(windows, OVERLAPS) == emissions


def test_double_letters_stay_double() -> None:
    """In speech without gaps."""
    for seed in range(50):
        draw = np.random.default_rng(seed)
        emissions, frame = list[Emission](), 0
        for before, letter in pairwise(" " + "all the tall bells fell off " * 16):
            frame += letter == before  # the blank that CTC needs
            emissions.append(Emission(ord(letter), frame, frame + 1, 1.0))
            frame += 1
        windows = [heard(emissions, number, 1, draw, is_noisy=False) for number in range(NUM_WINDOWS)]
        merged = merge(windows, OVERLAPS)
        assert [emission.token for emission in merged] == [emission.token for emission in emissions]


def test_each_window_decides_on_its_own_side() -> None:
    """Where two disagree."""
    left = [Emission(1, 10, 11, 1.0), Emission(2, 45, 46, 1.0), Emission(3, 58, 59, 1.0)]
    right = [Emission(4, 41, 42, 1.0), Emission(5, 55, 56, 1.0), Emission(6, 70, 71, 1.0)]
    assert [emission.token for emission in merge([left, right], [(40, 60)])] == [1, 2, 5, 6]


def placed(*places: tuple[int, int, int]) -> list[Emission]:
    """Tokens with their frames."""
    return [Emission(*place, 1.0) for place in places]


def test_an_overtaken_token_keeps_a_frame() -> None:
    left = placed((1, 7, 12), (2, 15, 17), (0, 21, 23), (1, 24, 30))
    right = placed((0, 13, 14), (1, 18, 19), (2, 24, 32), (1, 34, 39))
    merged = merge([left, right], [(10, 30)])
    assert merged == placed((1, 7, 12), (2, 15, 17), (0, 21, 23), (1, 23, 24), (2, 24, 32), (1, 34, 39))


def test_tokens_before_the_overlap_are_unmatched() -> None:
    """What ends where windows begin to share frames is not heard by both."""
    left = placed((1, 6, 10), (2, 12, 15), (1, 18, 21), (2, 25, 28))
    right = placed((1, 10, 12), (0, 14, 15), (2, 17, 25), (1, 32, 39))
    merged = merge([left, right], [(10, 30)])
    assert merged == placed((1, 6, 10), (2, 12, 15), (1, 18, 21), (2, 21, 25), (1, 32, 39))


def test_tokens_after_the_overlap_are_unmatched() -> None:
    """What begins where windows end to share frames is not heard by both."""
    left = placed((1, 4, 9), (0, 16, 24), (0, 27, 29))
    right = placed((0, 13, 15), (1, 17, 20), (0, 22, 27), (0, 30, 33), (0, 36, 39))
    assert merge([left, right], [(10, 30)]) == [*placed((1, 4, 9)), *right]


def test_a_window_may_begin_in_a_silence() -> None:
    """That is known from the window before."""
    left = [Emission(1, 90, 91, 1.0), Emission(2, 140, 141, 1.0, follows_silence=True)]
    right = placed((2, 141, 142), (1, 143, 144))
    merged = merge([left, right], [(100, 160)])
    assert merged == [left[0], Emission(2, 141, 142, 1.0, follows_silence=True), right[1]]


def test_a_window_that_ends_amid_a_word_parts_it_not() -> None:
    """At its edge it misses a token, so that there seems to be silence before the next one."""
    left = [Emission(1, 90, 91, 1.0), Emission(2, 158, 159, 1.0, follows_silence=True)]
    right = [Emission(3, 155, 156, 1.0, follows_silence=True), Emission(2, 158, 159, 1.0)]
    assert merge([left, right], [(100, 160)]) == [left[0], *right]


def test_empty_windows_are_merged() -> None:
    assert merge([emitted(1, 2)], []) == emitted(1, 2)
    assert merge([[], []], [(0, 10)]) == []
    last = [Emission(1, 40, 41, 1.0)]
    assert merge([emitted(1), [], last], [(10, 20), (30, 45)]) == [*emitted(1), *last]
