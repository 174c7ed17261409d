"""Are messages for users written as people write?"""

import pytest

from segue.errors import count_of


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("recording",), "0 recordings"),
        (1, ("recording",), "1 recording"),
        (3000, ("recording",), "3,000 recordings"),
        (1, ("class is", "classes are"), "1 class is"),
        (2, ("class is", "classes are"), "2 classes are"),
    ],
)
def test_counts_agree_with_nouns_and_verbs(number: int, words: tuple[str, ...], said: str) -> None:
    assert count_of(number, *words) == said
