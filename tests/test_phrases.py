"""Do phrases raise the score of what they say, and of nothing else? Compared with a search in whole texts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.data import scripts
from segue.decoding.phrases import RISING_LETTERS, Phrases, numbered, read
from segue.errors import UserError

LETTERS = [letter.encode() for letter in "abcdefghijklmnopqrstuvwxyz '"]


def phrases(texts: list[str], pieces: list[bytes] = LETTERS, score: float = 1.0) -> Phrases:
    return Phrases(numbered(texts), pieces, score, str.lower, scripts.is_unspaced)


def gains(model: Phrases, tokens: list[int]) -> list[float]:
    """The score after each token, and after the end."""
    state, total, found = model.start, 0.0, []
    for token in tokens:
        state, gain = model.extend(state, token)
        total += gain
        found.append(total)
    return [*found, total + model.finish(state)]


def spelled(text: str) -> list[int]:
    return [LETTERS.index(letter.encode()) for letter in text]


def worth(text: str) -> float:
    return sum(min(1.0, number / RISING_LETTERS) for number in range(1, len(text) + 1))


def expected(text: str, texts: list[str]) -> float:
    """From left to right the longest phrase that stands there as whole words."""
    total, place = 0.0, 0
    while place < len(text):
        found = ""
        if place == 0 or text[place - 1] in " '":
            for phrase in texts:
                after = text[place + len(phrase) : place + len(phrase) + 1]
                if text.startswith(phrase, place) and after in ("", " ", "'"):
                    found = max(found, phrase, key=len)
        total += worth(found)
        place += max(1, len(found))
    return total


@given(st.text("ab ", max_size=16), st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=4))
def test_score_is_that_of_whole_phrases(text: str, texts: list[str]) -> None:
    texts = [cleaned for each in texts if (cleaned := " ".join(each.split()))]
    assert gains(phrases(texts), spelled(text))[-1] == pytest.approx(expected(text, texts))


def test_score_grows_and_is_taken_back() -> None:
    model = phrases(["anna"])
    assert gains(model, spelled("anna")) == [0.25, 0.75, 1.5, 2.5, 2.5]
    assert gains(model, spelled("annex")) == [0.25, 0.75, 1.5, 0.0, 0.0, 0.0]
    assert gains(model, spelled("ann")) == [0.25, 0.75, 1.5, 0.0]
    assert gains(model, spelled("xanna"))[-1] == 0
    assert gains(model, spelled("anna is"))[-1] == 2.5
    assert gains(model, spelled("annas"))[-1] == 0


def test_tokens_may_divide_a_phrase_anyhow() -> None:
    pieces = [b" ", b"a", b"n", b"an", b"na", b" ann", b"anna b", b"b", "é".encode()[:1], "é".encode()[1:]]
    model = phrases(["anna bé"], pieces)
    assert model.finish(model.start) == 0
    for tokens in ([1, 2, 4, 0, 7, 8, 9], [3, 4, 0, 7, 8, 9], [5, 1, 0, 7, 8, 9], [6, 8, 9]):
        assert gains(model, tokens)[-1] == pytest.approx(worth("anna bé"))


def test_chinese_phrases_need_no_spaces() -> None:
    pieces = [letter.encode() for letter in "我在北京大学"]
    model = phrases(["北京"], pieces)
    assert gains(model, [0, 1, 2, 3, 4])[-1] == worth("北京")
    assert gains(model, [0, 1, 2, 4])[-1] == 0


def test_strange_phrases_are_named(tmp_path: Path) -> None:
    path = tmp_path / "phrases.txt"
    path.write_text("# cars\n\nAnna\nŠkoda\n5G\n")
    with pytest.raises(UserError) as found:
        Phrases(read(path), LETTERS, 1.0, str.lower, scripts.is_unspaced)
    assert str(found.value) == (
        f"{path}:4: 'Škoda': the model has no 'š' in its alphabet; spell it with others\n"
        f"{path}:5: '5G': the model has no '5' in its alphabet; write numbers as they are spoken"
    )


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "no phrases in it"), (b"\n# a\n", "no phrases in it"), (b"\xff\xfe", "not UTF-8")]
)
def test_useless_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "phrases.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "none.txt")


def test_a_phrase_as_long_as_a_book_is_refused() -> None:
    with pytest.raises(UserError, match=r"phrase 2: 'a a a a a a a a a a ...': longer than 200 letters"):
        phrases(["ann", "a " * 100_000])


def test_one_text_is_no_list_of_phrases() -> None:
    with pytest.raises(UserError, match="a list of texts"):
        numbered("anna")
