"""How the words of a cue are broken into lines."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segue.data.subtitles import layout


def lines_of(words: Sequence[str]) -> list[str]:
    return layout.in_lines([(word, number + 1 < len(words)) for number, word in enumerate(words)], 42, len)


@given(st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=16))
@example(["aaaaaa", "aaaaaa", "aaaaaaaaaaa", "a", "aaa", "aaaaaaaaaaa", "aaaaaaaaaaaa", "aaaaaaaaaaaa"])
@settings(deadline=None)
def test_lines_are_the_fewest_that_fit(parts: list[str]) -> None:
    lines, needed, width = lines_of(parts), 1, -1
    for part in parts:
        width += 1 + len(part)
        if width > 42:
            needed, width = needed + 1, len(part)
    assert " ".join(lines) == " ".join(parts)
    assert len(lines) == needed
    assert max(map(len, lines)) <= 42


@given(st.lists(st.text("abc", min_size=5, max_size=20), min_size=2, max_size=14))
@settings(deadline=None)
def test_lines_are_the_most_balanced_of_all_that_fit(parts: list[str]) -> None:
    def unbalance(lines: Sequence[str]) -> float:
        mean = len(" ".join(parts)) / len(lines)
        return sum((len(line) - mean) ** 2 for line in lines)

    lines = lines_of(parts)
    if len(lines) > 5:
        return  # more than anyone shows: these are filled
    best = min(
        unbalance(cut)
        for ends in combinations(range(1, len(parts)), len(lines) - 1)
        if max(map(len, cut := [" ".join(parts[a:b]) for a, b in pairwise([0, *ends, len(parts)])])) <= 42
    )
    assert unbalance(lines) == pytest.approx(best)
