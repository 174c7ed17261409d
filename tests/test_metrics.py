from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.metrics import error_rates


def distance(reference: Sequence[Any], hypothesis: Sequence[Any]) -> int:
    """Levenshtein's, row by row."""
    row = list(range(len(hypothesis) + 1))
    for number, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], number
        for column, said in enumerate(hypothesis, 1):
            diagonal, row[column] = row[column], min(diagonal + (wanted != said), row[column] + 1, row[column - 1] + 1)
    return row[-1]


texts = st.lists(st.sampled_from(["a", "b", "ab", "ba", "été"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
@settings(deadline=None)
def test_error_rates_are_edit_distances_over_all_pairs_together(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    scores = error_rates(references, hypotheses)
    errors = sum(distance(reference.split(), said.split()) for reference, said in pairs)
    assert scores["substitutions"] + scores["deletions"] + scores["insertions"] == errors
    assert scores["words"] == sum(len(reference.split()) for reference in references)
    assert scores["utterances"] == len(pairs)
    assert scores["word_error_rate"] == pytest.approx(errors / max(1, scores["words"]))
    character_errors = sum(distance(reference, said) for reference, said in pairs)
    characters = sum(len(reference) for reference in references)
    assert scores["character_error_rate"] == pytest.approx(character_errors / max(1, characters))


def test_kinds_of_errors_are_told_apart() -> None:
    scores = error_rates(["one two three four", "five"], ["one too three", "five six seven"])
    assert (scores["substitutions"], scores["deletions"], scores["insertions"]) == (1, 1, 2)
    assert scores["word_error_rate"] == 4 / 5


def test_words_said_where_nothing_was_are_errors() -> None:
    assert error_rates([""], ["a b"])["word_error_rate"] == 2.0
    assert error_rates([""], [""])["word_error_rate"] == 0.0
