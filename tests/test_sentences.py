# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data import sentences

SNIPPETS = """Hello world Dr. J. R. U.S. e.g. 3. 3.14 1999. yes! no? Well... …and „So“ (now). "Go!" he I. - ♪ a, b; c: —
你好。 世界！ 「是吗？」 。 他说，是 नमस्ते। مرحبا؟ 네. x"""
prose = st.lists(st.sampled_from(SNIPPETS.split()) | st.text(max_size=6)).map(" ".join)


def shown(text: str) -> str:
    """The text with a bar where a sentence ends."""
    return "|".join(piece.rstrip() for piece in sentences.split(text))


@given(prose | st.text())
@settings(deadline=None)
def test_sentences_are_the_text_again(text: str) -> None:
    found = sentences.split(text)
    assert "".join(found) == " ".join(text.split())
    assert all(sentence.strip() for sentence in found)


@pytest.mark.parametrize(
    "text",
    [
        "He came.|She left!|Really?|Yes.",
        'He asked: "Really?"|"Yes!" she said.|Then he left.',
        "We... we see.|And...|So what?",
        "¿Qué pasa?|¡Nada!|Vamos.",
        "(He left.)|Then he came.",
        "„Hallo.“|Er ging.|»Nein!«|Sie blieb.",
        "Quoi ?|Non !|D'accord.",
    ],
)
def test_sentences_keep_punctuation_and_quotes(text: str) -> None:
    assert shown(text.replace("|", " ")) == text


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith and Mrs. J. R. Jones live in St. Ives.",
        "Am 3. Oktober kam z. B. Herr Prof. Müller, d.h. er.",
        "The U.S. Government paid $3.14 to No. 5 at 5 p.m. sharp.",
        "See example.com or v2.0.1 etc. and so on.",
        "I was... well... gone.",
        "So . . . I left",
        "They chased... ...by robots",
        'He said, "Stop!" and left.',
    ],
)
def test_abbreviations_end_no_sentence(text: str) -> None:
    """Nor do initials, numbers and ellipses."""
    assert shown(text) == text


def test_other_scripts_are_cut_at_their_stops() -> None:
    """Also without spaces."""
    assert sentences.split("你好。世界很大！「是吗？」他说。3．5元") == [
        "你好。",
        "世界很大！",
        "「是吗？」",
        "他说。",
        "3．5元",
    ]
    assert shown("नमस्ते। कैसे हो? ठीक।") == "नमस्ते।|कैसे हो?|ठीक।"
    assert shown("مرحبا. كيف حالك؟ جيد.") == "مرحبا.|كيف حالك؟|جيد."
    assert shown("무슨 일이야. 네. 좋아.") == "무슨 일이야.|네.|좋아."


@given(prose | st.text(), st.integers(1, 12))
@settings(deadline=None)
def test_pieces_fit_and_are_the_text_again(text: str, longest: int) -> None:
    found = sentences.pieces(text, longest, len)
    assert "".join(found) == " ".join(text.split())
    assert all(piece.strip() and len(piece.rstrip()) <= longest for piece in found)


def test_pieces_end_at_sentences_then_clauses() -> None:
    """Then at words."""

    def count(text: str) -> int:
        return len(text.split())

    assert sentences.pieces("One two. Three four five six seven.", 5, count) == [
        "One two. ",
        "Three four five six seven.",
    ]
    assert sentences.pieces("one, two three, four five six", 4, count) == ["one, two three, ", "four five six"]
    assert sentences.pieces("one two three four five", 2, count) == ["one two ", "three four ", "five"]
    assert sentences.pieces("a endlessword b", 4, len) == ["a ", "endl", "essw", "ord ", "b"]
    assert sentences.pieces("一二三，四五六七", 5, len) == ["一二三，", "四五六七"]


def test_a_character_over_the_limit_is_a_piece() -> None:
    assert sentences.pieces("ab c", 0, len) == ["a", "b ", "c"]


@pytest.mark.parametrize(
    "text",
    ["word " * 20_000, "x" * 100_000, "a, " * 33_000, "." * 100_000, "… " * 50_000, "你" * 100_000, "A. " * 33_000],
)
def test_cutting_a_long_line_takes_linear_time(text: str) -> None:
    """It is measured a few times over, not once a word."""
    measured = 0

    def length(piece: str) -> int:
        nonlocal measured
        measured += len(piece)
        return len(piece)

    found = sentences.pieces(text, 200, length)
    assert "".join(found) == text.rstrip()
    assert measured < 20 * len(text)


@given(prose, st.integers(1, 12))
@settings(deadline=None)
def test_untranslated_pieces_join_to_the_text(text: str, longest: int) -> None:
    found = sentences.pieces(text, longest, len)
    assert sentences.join(found, [piece.rstrip() for piece in found]) == " ".join(text.split())


def test_joining_spaces_as_the_script_does() -> None:
    assert sentences.join(["你好。", "世界。"], ["Hello.", "World."]) == "Hello. World."
    assert sentences.join(["Hello. ", "World."], ["你好。", "世界。"]) == "你好。世界。"
    assert sentences.join(["endl", "ess ", "word"], ["end", "los", "Wort"]) == "endlos Wort"
    assert sentences.join(["One. ", "Two. ", "Three."], ["Eins.", "", "Drei."]) == "Eins. Drei."


@given(prose)
def test_lines_may_break_between_words(text: str) -> None:
    """Which are the text again."""
    text = " ".join(text.split())
    found = sentences.words(text)
    assert "".join(found) == text
    assert all(word.strip() for word in found)
    assert all(a.endswith(" ") or not b.startswith(("。", "，", "」")) for a, b in pairwise(found))


def test_ideographs_keep_their_punctuation() -> None:
    """Marks that begin or end no line stay with their ideograph."""
    assert sentences.words("「你好，」 he said.") == ["「你", "好，」 ", "he ", "said."]
