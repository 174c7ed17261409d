"""Error rates of conversations, against brute force."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.metrics.conversations import Spoken, assigned, concatenated, concatenated_in_time, in_time, spread


def edits(right: list[str], said: list[str]) -> int:
    """Edit distance by its definition."""
    if not right or not said:
        return len(right) + len(said)
    return min(
        edits(right[1:], said) + 1,
        edits(right, said[1:]) + 1,
        edits(right[1:], said[1:]) + (right[0] != said[0]),
    )


words = st.lists(st.sampled_from("ab"), max_size=3)
speakers = st.lists(words, max_size=3)


@given(speakers, speakers)
@settings(deadline=None)
def test_speakers_are_paired_as_by_trying_all(right: list[list[str]], said: list[list[str]]) -> None:
    size = max(len(right), len(said))
    rights, saids = (each + [[]] * (size - len(each)) for each in (right, said))
    best = min(sum(edits(rights[n], saids[m]) for n, m in enumerate(order)) for order in permutations(range(size)))
    found = concatenated(
        {f"r{number}": each for number, each in enumerate(right)},
        {f"h{number}": each for number, each in enumerate(said)},
    )
    assert found.errors == best
    assert found.words == sum(map(len, right))
    pairs = [each for each in found.pairs.values() if each is not None]
    assert len(set(pairs)) == len(pairs)


def test_a_word_of_the_wrong_speaker_is_two_errors() -> None:
    """The example that NeMo's cpWER had wrong: 0.5, not 0."""
    found = concatenated({"ann": ["the", "cat"], "ben": ["sat", "on"]}, {"1": ["the", "cat", "sat"], "2": ["on"]})
    assert found.rate == 0.5
    assert found.pairs == {"ann": "1", "ben": "2"}


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(deadline=None)
def test_assignments_cost_the_least(size: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 20, (size, size))
    found = assigned(costs)
    assert sorted(found) == list(range(size))
    total = sum(int(costs[row, column]) for row, column in enumerate(found))
    assert total == min(
        sum(int(costs[row, column]) for row, column in enumerate(order)) for order in permutations(range(size))
    )


def edits_in_time(right: list[Spoken], said: list[Spoken], collar: float) -> int:
    if not right or not said:
        return len(right) + len(said)
    found = min(edits_in_time(right[1:], said, collar), edits_in_time(right, said[1:], collar)) + 1
    a, b = right[0], said[0]
    if a.start <= b.end + collar and b.start <= a.end + collar:
        found = min(found, edits_in_time(right[1:], said[1:], collar) + (a.word != b.word))
    return found


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=4),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=4),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_words_match_only_in_time(right: list[tuple[str, int]], said: list[tuple[str, int]], collar: int) -> None:
    rights, saids = ([Spoken(word, start, start + 1) for word, start in each] for each in (right, said))
    assert in_time(rights, saids, collar) == edits_in_time(rights, saids, collar)


def test_late_words_are_wrong_in_time_only() -> None:
    right = {"ann": spread(["one", "two"], 0.0, 1.0), "ben": spread(["three"], 2.0, 3.0)}
    late = {"1": [each._replace(start=each.start + 9, end=each.end + 9) for each in right["ann"]], "2": right["ben"]}
    assert concatenated_in_time(right, right).errors == 0
    assert concatenated_in_time(right, late).errors == 4
    assert concatenated_in_time(right, late, 10.0).errors == 0


def test_times_within_a_segment_go_by_letters() -> None:
    assert [(each.start, each.end) for each in spread(["a", "bcd"], 1.0, 3.0)] == [(1.0, 1.5), (1.5, 3.0)]


@pytest.mark.parametrize("count", [1, 4])
def test_nothing_said_is_all_deleted(count: int) -> None:
    assert concatenated({"ann": ["a"] * count}, {}).errors == count
    assert concatenated({}, {"1": ["a"] * count}).errors == count
