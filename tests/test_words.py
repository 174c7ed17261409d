# ruff: noqa: RUF001 (letters and punctuation of many scripts, on purpose)
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.decoding.emissions import Emission
from segue.runtime.words import PAUSE_SECONDS, Word, after_silence, has_gap, text_of, words

PIECES = [b" ", b"a", b"b", b"ab", b" a", b"b a", "é".encode(), "é".encode()[:1], "é".encode()[1:], b""]
FRAME = 0.04


def emitted(*tokens: int) -> list[Emission]:
    """Tokens of two frames each, one frame apart."""
    return [Emission(token, 3 * number, 3 * number + 2, 0.5) for number, token in enumerate(tokens)]


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ((1, 2, 0, 1), [("ab", 0, 5), ("a", 9, 11)]),
        ((0, 0, 1, 0), [("a", 6, 8)]),
        ((3, 4, 2), [("ab", 0, 2), ("ab", 3, 8)]),
        ((1, 5, 2), [("ab", 0, 4), ("ab", 4, 8)]),  # a token of two words: each has half of its frames
        ((6, 0, 7, 8), [("é", 0, 2), ("é", 6, 11)]),
        ((1, 9, 2), [("ab", 0, 8)]),
        ((7, 0), [("\ufffd", 0, 2)]),
        ((), []),
    ],
)
def test_words_span_first_to_last_token(tokens: tuple[int, ...], wanted: list[tuple[str, int, int]]) -> None:
    """They stand between spaces."""
    found = words(emitted(*tokens), PIECES, FRAME)
    assert [each.confidence for each in found] == pytest.approx([0.5] * len(wanted))
    assert [each._replace(confidence=0.5) for each in found] == [
        Word(word, start * FRAME, end * FRAME, 0.5) for word, start, end in wanted
    ]


def test_word_confidence_is_the_mean_of_its_tokens() -> None:
    emissions = [Emission(1, 0, 1, 0.9), Emission(2, 1, 2, 0.4), Emission(0, 2, 3, 0.1), Emission(1, 3, 4, 0.0)]
    assert [word.confidence for word in words(emissions, PIECES, 1.0)] == pytest.approx([0.6, 0.0])


def said(text: str, between: float = 0.1) -> list[Word]:
    """The words of a text whose characters are said one by one; a "|" is a pause of a second."""
    alphabet = sorted(set(text))
    emissions, time = list[Emission](), 0.0
    for character in text:
        if character == "|":
            time += 1.0
            continue
        emissions.append(Emission(alphabet.index(character), round(100 * time), round(100 * time) + 1, 0.9))
        time += between
    return words(emissions, [character.encode() for character in alphabet], 0.01)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("seven three nine|four two", "seven three nine four two"),
        ("nine |four", "nine four"),
        ("nine| four", "nine four"),
        ("yes|.|no|, sir", "yes. no, sir"),
        ("안녕|하세요", "안녕 하세요"),
        ("привет|мир", "привет мир"),
        ("cafe|\u0301", "cafe\u0301"),
        ("我们|很好", "我们很好"),
        ("ขอบ|คุณ", "ขอบคุณ"),
        ("我用|Python|写", "我用Python写"),
    ],
)
def test_a_pause_ends_a_word(text: str, wanted: str) -> None:
    assert text_of(said(text)) == wanted


def test_long_tokens_tolerate_longer_pauses() -> None:
    pieces = [b" international", b"ly", b"s", b"o"]
    for gap, wanted in ((1.5, "internationally"), (3.0, "international ly")):
        emissions = [Emission(0, 0, 1, 0.9), Emission(1, round(gap / FRAME), round(gap / FRAME) + 1, 0.9)]
        assert text_of(words(emissions, pieces, FRAME)) == wanted
    assert text_of(words([Emission(2, 0, 1, 0.9), Emission(3, 14, 15, 0.9)], pieces, FRAME)) == "s o"


@pytest.mark.parametrize(("start", "end", "wanted"), [(0.1, 0.34, "no on"), (0.14, 0.3, "noon"), (0.21, 0.6, "noon")])
def test_silence_between_tokens_ends_a_word(start: float, end: float, wanted: str) -> None:
    """Of letters 0.34 s apart, of which 0.24, 0.16 and 0.19 s are silent."""
    emissions = [Emission(token, start, start + 1, 0.9) for token, start in ((0, 0), (1, 5), (1, 40), (0, 45))]
    seconds = np.arange(100) / 100
    decibels = np.where((seconds >= start - 1e-9) & (seconds < end - 1e-9), -80, -20).astype(np.float32)
    found = after_silence(emissions, [b"n", b"o"], decibels, samples_per_frame=10, rate_hz=1000)
    assert text_of(words(found, [b"n", b"o"], 0.01)) == wanted


@pytest.mark.parametrize(
    ("sign", "wanted"),
    [
        (".", "a. b"),
        ("(", "a (b"),
        ("¿", "a ¿b"),
        ("¡", "a ¡b"),
        ("।", "a। b"),
        ("–", "a– b"),
        ("+", "a+b"),
        ("'", "a'b"),
        ("’", "a’b"),
        ("-", "a-b"),
        ("\u2010", "a\u2010b"),
        ("o", "aob"),
        ("\u0301", "a\u0301b"),
    ],
)
def test_a_sign_in_silence_is_silent(sign: str, wanted: str) -> None:
    """In the middle of 0.3 s: there are 0.14 s before and after it."""
    emissions = [Emission(token, start, start + 1, 0.9) for token, start in ((0, 4), (1, 20), (2, 36))]
    decibels = np.where((np.arange(60) >= 6) & (np.arange(60) < 35), -80, -20).astype(np.float32)
    pieces = [b"a", sign.encode(), b"b"]
    assert has_gap(emissions, pieces, samples_per_frame=10, rate_hz=1000) == (" " in wanted)
    found = after_silence(emissions, pieces, decibels, samples_per_frame=10, rate_hz=1000)
    assert text_of(words(found, pieces, 0.01)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a_.b", "a. b"),
        ("a._b", "a. b"),
        ("a_0b", "a b"),  # a token without text
        ("a_.00,b", "a., b"),
        ("a_.(b", "a. (b"),
        ("a_¿b", "a ¿b"),
        ("a_.¿b", "a. ¿b"),
        ("a(_b", "a( b"),
        ("a_.", "a."),
        ("a_. b'c", "a. b'c"),
        ("a_.b'c", "a. b'c"),
        ("a_\u0301b", "a\u0301b"),
        ("我_。b", "我。b"),
    ],
)
def test_a_silence_lasts_until_the_next_letter(text: str, wanted: str) -> None:
    """A "_" is silence, though too short for a pause: punctuation is emitted before it, in it or after it."""
    tokens = sorted({*text} - {"_"})
    sounds = [(each, at) for at, each in enumerate(text) if each != "_"]
    emissions = [
        Emission(tokens.index(each), 3 * at, 3 * at + 1, 0.9, text[at - 1] == "_" and at > 0) for each, at in sounds
    ]
    pieces = [each.replace("0", "").encode() for each in tokens]
    assert text_of(words(emissions, pieces, 0.01)) == wanted


def test_a_pause_is_no_part_of_a_word() -> None:
    found = said("ab|c|.")
    assert [each.word for each in found] == ["ab", "c."]
    assert [(each.start, each.end) for each in found] == [pytest.approx((0.0, 0.11)), pytest.approx((1.2, 1.21))]


@pytest.mark.parametrize("between", [0.02, 0.3, PAUSE_SECONDS])
def test_slow_speech_breaks_no_word(between: float) -> None:
    assert text_of(said("internationally so", between)) == "internationally so"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("今日は良い。", "今 日 は 良 い。"),
        ("カップ「ー」", "カ ッ プ 「ー」"),
        ("สวัสดีครับ", "ส วั ส ดี ค รั บ"),
        ("ຂອບໃຈ", "ຂ ອ ບ ໃ ຈ"),
        ("សួស្តី", "សួ ស្តី"),
        ("မြန်မာ", "မြ န် မာ"),
        ("我用 Python3 写，你呢", "我 用 Python3 写， 你 呢"),
        ("他说(ok)吧", "他 说 (ok) 吧"),
        ("می\u200cخواهم که", "می\u200cخواهم که"),
        ("한국어 문장", "한국어 문장"),
        ("well(s) don't", "well(s) don't"),
    ],
)
def test_unspaced_scripts_have_times_by_character(text: str, wanted: str) -> None:
    found = said(text)
    assert " ".join(each.word for each in found) == wanted
    assert text_of(found) == text


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(1, 4), st.sampled_from([0, 1, 5, 9000])), max_size=40),
    st.lists(st.text("ab é我用ー。「ขวั\u200d한 1.(", min_size=1, max_size=3), min_size=16, max_size=16),
)
def test_times_ascend_and_the_text_is_complete(runs: Sequence[tuple[int, int, int]], texts: Sequence[str]) -> None:
    emissions, frame = list[Emission](), 0
    for token, length, gap in runs:
        emissions.append(Emission(token, frame, frame + length, 0.5))
        frame += length + gap
    found = words(emissions, [text.encode() for text in texts], 0.001)
    written = "".join(texts[token] for token, _, _ in runs)
    assert text_of(found).replace(" ", "") == written.replace(" ", "")
    if not any(gap > 5 for _, _, gap in runs):
        assert text_of(found).split() == written.split()
    time = 0.0
    for word in found:
        assert time <= word.start + 1e-9
        assert word.start <= word.end
        assert word.confidence == pytest.approx(0.5)
        time = word.end
