"""Are messages for users written as people write?"""

import pytest

from segue.errors import Problems, count_of, some_of


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


def test_what_many_lines_lack_is_said_once() -> None:
    """Lines of other files, and other problems, are said themselves."""
    same = [f"a.jsonl:{number}: lacks the key 'text'" for number in range(1, 31)]
    problems = Problems()
    for problem in (*same[:20], "b.jsonl:1: lacks the key 'text'", "a.jsonl:7: not JSON", *same[20:]):
        problems.add(problem)
    assert problems.some(2).split("\n") == [
        f"{same[0]} (also lines 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more)",
        "b.jsonl:1: lacks the key 'text'",
        "... and 1 more",
    ]
    assert some_of(["x:1: a", "x:5: a", "x:9: b", "c"]) == "x:1: a (also line 5)\nx:9: b\nc"
