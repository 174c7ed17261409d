"""Is the prefix beam search exact? Compared with sums over all alignments, and with ctc-beam-decoder."""

from itertools import groupby, product
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segue.decoding.ctc import greedy
from segue.decoding.prefix_beam import placed, search

Scores = NDArray[np.float32]


def drawn(seed: int, frames: int, vocabulary: int, sharpness: float = 1.0) -> Scores:
    """Log-probabilities; (T, V)."""
    raw = np.random.default_rng(seed).normal(size=(frames, vocabulary)) * sharpness
    found: Scores = (raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))).astype(np.float32)
    return found


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in groupby(path) if token != blank)


def brute_force(scores: Scores, blank: int) -> dict[tuple[int, ...], float]:
    """The log-probability of every sequence: the sum over all T-long paths."""
    found: dict[tuple[int, ...], float] = {}
    for path in product(range(scores.shape[1]), repeat=len(scores)):
        tokens = collapsed(path, blank)
        total = float(scores[range(len(path)), path].astype(np.float64).sum())
        found[tokens] = float(np.logaddexp(found.get(tokens, -inf), total))
    return found


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 4), st.floats(0.1, 4))
def test_search_is_brute_force(seed: int, frames: int, vocabulary: int, sharpness: float) -> None:
    scores, blank = drawn(seed, frames, vocabulary, sharpness), vocabulary - 1
    expected = brute_force(scores, blank)
    found = search(scores, blank, 10_000, least=-inf, most_tokens=vocabulary)
    assert {each.tokens for each in found} == set(expected)
    for each in found:
        assert each.log_probability == pytest.approx(expected[each.tokens], abs=1e-9)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


class Liking:
    """Knowledge that likes the pair (0, 1), and ends in 2."""

    start = -1

    def __init__(self, vocabulary: int) -> None:
        self.most = [1.5] * vocabulary

    def extend(self, state: int, token: int) -> tuple[int, float]:
        return token, 1.5 if (state, token) == (0, 1) else -0.25

    def finish(self, state: int) -> float:
        return 0.75 if state == 2 else 0.0

    def of(self, tokens: tuple[int, ...]) -> float:
        pairs = zip((-1, *tokens), tokens, strict=False)
        return sum(1.5 if pair == (0, 1) else -0.25 for pair in pairs) + (0.75 if tokens[-1:] == (2,) else 0.0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_knowledge_adds_its_score(seed: int, frames: int) -> None:
    scores, liking = drawn(seed, frames, 4), Liking(4)
    expected = {tokens: value + liking.of(tokens) for tokens, value in brute_force(scores, 3).items()}
    found = search(scores, 3, 10_000, liking, least=-inf, most_tokens=4)
    assert {each.tokens for each in found} == set(expected)
    for each in found:
        assert each.score == pytest.approx(expected[each.tokens], abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4))
def test_times_are_the_likeliest_path(seed: int, frames: int, vocabulary: int) -> None:
    scores, blank = drawn(seed, frames, vocabulary), vocabulary - 1
    best: dict[tuple[int, ...], float] = {}
    for path in product(range(vocabulary), repeat=frames):
        tokens = collapsed(path, blank)
        best[tokens] = max(best.get(tokens, -inf), float(scores[range(frames), path].astype(np.float64).sum()))
    for tokens in list(best)[:10]:
        found = placed(scores, tokens, blank)
        assert tuple(each.token for each in found) == tokens
        on_path = np.full(frames, blank)
        for each in found:
            on_path[each.start : each.end] = each.token
        assert collapsed(tuple(on_path.tolist()), blank) == tokens
        assert float(scores[range(frames), on_path].astype(np.float64).sum()) == pytest.approx(best[tokens], abs=1e-9)


def spelled(seed: int, words: list[int], vocabulary: int, noise: float) -> Scores:
    """Scores in which these tokens stand, each for two frames and a blank, under noise."""
    raw = np.random.default_rng(seed).normal(size=(3 * len(words), vocabulary)) * noise
    for number, token in enumerate(words):
        raw[[3 * number, 3 * number + 1], token] += 5
        raw[3 * number + 2, vocabulary - 1] += 5
    found: Scores = (raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))).astype(np.float32)
    return found


def test_equals_ctc_beam_decoder() -> None:
    ctc_beam_decoder = pytest.importorskip("ctc_beam_decoder")
    letters = [*"abcdefghijklmnopqrstuvwxyz ", ""]
    decoder = ctc_beam_decoder.build_ctcdecoder(letters)
    for seed in range(3):
        words = np.random.default_rng(seed).integers(0, 26, 40).tolist()
        # With more noise their best text is often less probable than ours: they do not sum over the last frame.
        scores = spelled(seed, words, 28, 1.0)
        theirs = decoder.decode(scores.astype(np.float64), beam_width=32, beam_prune_logp=-1e9, token_min_logp=-12)
        ours = search(scores, 27, 32, least=-12, most_tokens=28)[0]
        assert "".join(letters[token] for token in ours.tokens).strip() == theirs


def test_certain_scores_are_decoded_greedily() -> None:
    scores = spelled(1, [3, 3, 1, 0, 2, 2], 5, 0.3)
    best = search(scores, 4, 8)[0]
    assert placed(scores, best.tokens, 4) == greedy(scores, 4)


def test_long_texts_have_times() -> None:
    tokens = np.random.default_rng(3).integers(0, 4, 300).tolist()
    scores = spelled(3, tokens, 5, 0.3)
    assert placed(scores, search(scores, 4, 8)[0].tokens, 4) == greedy(scores, 4)


def test_long_silence_keeps_the_text() -> None:
    silence = np.full((3000, 5), -12.0, np.float32)
    silence[:, 4] = -1e-4
    scores = np.concatenate([spelled(1, [3, 1, 0], 5, 0.3), silence, spelled(2, [2, 2], 5, 0.3)])
    assert search(scores, 4, 8)[0].tokens == (3, 1, 0, 2, 2)


def test_no_frames_give_the_empty_text() -> None:
    found = search(np.zeros((0, 5), np.float32), 4, 8)
    assert [each.tokens for each in found] == [()]
    assert placed(np.zeros((0, 5), np.float32), (), 4) == []
