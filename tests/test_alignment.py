"""Forced alignment: the best path of a text, against brute force and another implementation."""

from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segue.decoding.alignment import Alignment, align, frames_needed
from segue.errors import UserError


def scores(frames: int, vocabulary: int, seed: int, sharpness: float = 1.0) -> NDArray[np.float32]:
    """(T, V) log-probabilities."""
    logits = sharpness * np.random.default_rng(seed).standard_normal((frames, vocabulary))
    log_probs: NDArray[np.float32] = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    return log_probs


def path_of(found: Alignment, tokens: list[int], blank: int) -> list[int]:
    """The path as a token or blank per frame."""
    path = [blank] * len(found.log_probs)
    for token, start, end in zip(tokens, found.starts.tolist(), found.ends.tolist(), strict=True):
        assert start < end
        assert set(path[start:end]) == {blank}
        path[start:end] = [token] * (end - start)
    return path


def spelled(path: tuple[int, ...] | list[int], blank: int) -> list[int]:
    return [token for token, _ in groupby(path) if token != blank]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=3), st.integers(5, 6), st.integers(0, 1000))
@settings(deadline=None)
def test_gaps_are_filled_with_anything(tokens: list[int], frames: int, seed: int) -> None:
    """Tokens 0 and 1, blank 2, anything 3: as if the blanks in gaps were another one."""
    log_probs = scores(frames, 4, seed)
    gaps = np.random.default_rng(seed).random(len(tokens) + 1) < 0.5
    rivals = []
    for path in product([(token, False) for token in range(3)] + [(3, True)], repeat=frames):
        runs = [token for token, _ in groupby([2 if token == 3 else token for token, _ in path])]
        if [token for token in runs if token != 2] != tokens:
            continue
        place, last, fits = 0, 2, True
        for token, _ in path:
            place += token < 2 and token != last
            last = 2 if token == 3 else token
            fits = fits and (token < 2 or bool(gaps[place]) == (token == 3))
        if fits:
            rivals.append(sum(float(log_probs[frame, token]) for frame, (token, _) in enumerate(path)))
    found = align(log_probs, tokens, 2, gaps=gaps, anything=3)
    assert found.log_probs.sum() == pytest.approx(max(rivals), abs=1e-4)


@given(st.lists(st.integers(0, 2), max_size=4), st.integers(1, 7), st.integers(0, 1000))
@settings(deadline=None)
def test_no_path_through_the_text_is_better(tokens: list[int], frames: int, seed: int) -> None:
    log_probs = scores(frames, 3, seed)
    blank = seed % 3
    tokens = [token for token in tokens if token != blank]
    rivals = [
        float(sum(log_probs[frame, token] for frame, token in enumerate(path)))
        for path in product(range(3), repeat=frames)
        if spelled(path, blank) == tokens
    ]
    if frames_needed(tokens) > frames:
        assert not rivals
        with pytest.raises(UserError, match=f"at least {frames_needed(tokens)} frames"):
            align(log_probs, tokens, blank)
        return
    found = align(log_probs, tokens, blank)
    path = path_of(found, tokens, blank)
    assert spelled(path, blank) == tokens
    assert found.log_probs == pytest.approx(log_probs[np.arange(frames), path])
    assert found.log_probs.sum() == pytest.approx(max(rivals), abs=1e-4)


@pytest.mark.parametrize(("frames", "count"), [(700, 90), (1600, 700), (1300, 1000)])
def test_long_texts_get_the_path_of_hirschberg_viterbi(frames: int, count: int) -> None:
    import hirschberg_viterbi as theirs
    import torch

    draw = np.random.default_rng(frames)
    tokens = draw.integers(1, 12, count).tolist()
    log_probs = scores(frames, 12, count, 2.0)
    found = align(log_probs, tokens, 0)
    targets = torch.tensor([tokens], dtype=torch.int32)
    path, per_frame = theirs.hirschberg_viterbi(torch.from_numpy(log_probs)[None], targets)
    assert found.log_probs.sum() == pytest.approx(float(per_frame.sum()), rel=1e-6)
    assert path_of(found, tokens, 0) == path[0].tolist()


def spoken(tokens: list[int], draw: np.random.Generator, vocabulary: int) -> tuple[NDArray[np.float32], list[int]]:
    """Scores of a recording in which each token is heard in one frame, with gaps and a few pauses; and these frames."""
    gaps = draw.integers(2, 6, len(tokens)) + np.where(draw.random(len(tokens)) < 0.02, 300, 0)
    places = np.cumsum(gaps)
    logits = draw.standard_normal((int(places[-1]) + 9, vocabulary)).astype(np.float32)
    logits[:, 0] += 6
    logits[places, 0] -= 6
    logits[places, tokens] += 6
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits, places.tolist()


def test_a_narrow_search_finds_the_same_frames() -> None:
    draw = np.random.default_rng(3)
    tokens = draw.integers(1, 20, 1200).tolist()
    log_probs, places = spoken(tokens, draw, 20)
    whole, narrow = align(log_probs, tokens, 0), align(log_probs.astype(np.float16), tokens, 0, width=64, beam=200.0)
    assert np.mean(whole.starts == places) > 0.99
    assert np.mean(narrow.starts == whole.starts) > 0.99  # of float16, a few
    assert np.abs(narrow.starts - whole.starts).max() <= 2


@given(st.lists(st.integers(1, 2), min_size=1, max_size=60), st.integers(0, 90), st.integers(0, 1000))
@settings(deadline=None)
def test_the_narrowest_search_reaches_the_end(tokens: list[int], spare: int, seed: int) -> None:
    log_probs = scores(frames_needed(tokens) + spare, 3, seed)
    found = align(log_probs, tokens, 0, width=1, beam=0.0)
    assert spelled(path_of(found, tokens, 0), 0) == tokens


def test_impossible_tokens_still_have_a_path() -> None:
    log_probs = np.full((6, 3), -np.inf, np.float32)
    log_probs[:, 0] = 0
    assert path_of(align(log_probs, [1, 1, 2], 0), [1, 1, 2], 0)


def test_an_empty_text_is_all_blank() -> None:
    log_probs = scores(5, 3, 0)
    assert align(log_probs, [], 1).log_probs.tolist() == log_probs[:, 1].tolist()
