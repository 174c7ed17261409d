import re
from itertools import pairwise
from typing import Literal

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data import scripts
from segue.data.subtitles.cues import Cue, cut, write
from segue.runtime.words import Word, text_of

Form = Literal["srt", "vtt"]
both_forms = pytest.mark.parametrize("form", ["srt", "vtt"])

LATIN = st.text("abcdé'{}%&<>/-", min_size=1, max_size=12) | st.sampled_from(
    ["end.", "so,", "1984", "-->", "<i>", "\\N"]
)
LONG = st.text("x", min_size=70, max_size=100)
WIDE = "我们写「。、ーっ"
IDEOGRAPHS = st.text(WIDE, min_size=1, max_size=2)


@st.composite
def spoken(draw: st.DrawFn) -> tuple[list[Word], float]:
    """Words one after the other, with pauses, some of them long; and the seconds of the recording."""
    time, words = 0.0, []
    texts = draw(st.sampled_from([LATIN, LATIN | LONG, IDEOGRAPHS, IDEOGRAPHS | LATIN]))
    for text in draw(st.lists(texts, max_size=60)):
        start = time + draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.99, 1.01, 30.0]))
        time = start + draw(st.sampled_from([0.02, 0.3, 0.3, 2.0, 8.0]))
        words.append(Word(text, start, time, 1.0, draw(st.booleans()) or text.isascii()))
    return words, time + draw(st.sampled_from([0.0, 0.0004, 0.3, 5.0]))


def without_spaces(text: str) -> str:
    return re.sub(r"\s", "", text)


def told(words: int, seconds: float, gap: float = 0.1, text: str = "word") -> list[Word]:
    """So many words in so many seconds."""
    step = seconds / words
    return [Word(text, number * step, (number + 1) * step - gap, 1.0) for number in range(words)]


def timed(text: str, seconds: float) -> list[Word]:
    """The words of a text, one every so many seconds."""
    return [Word(word, n * seconds, (n + 1) * seconds - 0.1, 1.0) for n, word in enumerate(text.split())]


@given(recording=spoken())
@settings(deadline=None)
def test_cues_hold_every_word_in_order(recording: tuple[list[Word], float]) -> None:
    """Inside the recording."""
    words, seconds = recording
    cues = cut(words, seconds)
    assert without_spaces("".join(cue.text for cue in cues)) == "".join(word.word for word in words)
    for cue in cues:
        assert without_spaces("".join(cue.lines)) == without_spaces(cue.text)
        assert 0 <= cue.start <= cue.spoken[0] <= cue.spoken[1] <= 1000 * seconds
        assert cue.start <= cue.end <= min(1000 * seconds, cue.start + 7000)
    for before, after in pairwise(cues):
        assert before.end <= after.start
        assert before.spoken[1] <= after.spoken[0]


@given(recording=spoken())
@settings(deadline=None)
def test_cues_fit_and_hold_no_long_pause(recording: tuple[list[Word], float]) -> None:
    words, seconds = recording
    for cue in cut(words, seconds):
        inside = [word for word in words if cue.spoken[0] <= 1000 * word.start + 0.5 <= cue.spoken[1]]
        longest = 1.001 if seconds - cue.spoken[1] / 1000 >= 0.8 else 1.601
        assert all(after.start - before.end <= longest for before, after in pairwise(inside))
        assert all(line and len(line) <= 42 for line in cue.lines)
        assert all(sum(character in WIDE for character in line) <= 16 for line in cue.lines)
        if any(b.follows_space or scripts.may_break(a.word, b.word) for a, b in pairwise(inside)):
            assert len(cue.lines) <= 2
            assert cue.spoken[1] - cue.spoken[0] <= 7000


@given(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from([0.02, 0.1, 0.5, 0.99, 1.01, 1.5, 9.0])), min_size=1),
    st.sampled_from([0.0, 0.3, 5.0]),
)
@settings(deadline=None)
def test_every_cue_is_seen_long_enough(spoken: list[tuple[int, float]], rest: float) -> None:
    words, time = list[Word](), 0.0
    for letters, gap in spoken:
        words.append(Word("x" * letters, time, time + 0.08 * letters, 1.0))
        time += 0.08 * letters + gap
    seconds = words[-1].end + rest
    for cue in cut(words, seconds):
        assert cue.end - cue.start >= min(800, int(1000 * seconds))


@both_forms
@given(recording=spoken())
@settings(deadline=None)
def test_pysubs2_reads_back_every_cue_at_its_time(form: Form, recording: tuple[list[Word], float]) -> None:
    cues = cut(*recording)
    if not cues:
        return
    read = list(pysubs2.SSAFile.from_string(write(cues, form), format_=form, keep_html_tags=True))
    assert [(cue.start, cue.end) for cue in read] == [(cue.start, cue.end) for cue in cues]


@pytest.mark.parametrize("seconds_a_word", [0.2, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("text", ["word", "a", "sentence.", "considerable"])
def test_steady_speech_makes_readable_cues(seconds_a_word: float, text: str) -> None:
    """Of two lines, at a speed that can be read."""
    words = told(200, 200 * seconds_a_word, min(0.1, seconds_a_word / 2), text)
    cues = cut(words, 200 * seconds_a_word + 1)
    assert all(800 <= cue.end - cue.start <= 7000 for cue in cues)
    assert all(len(cue.lines) <= 2 and max(map(len, cue.lines)) <= 42 for cue in cues)
    if (len(text) + 1) / seconds_a_word < 17:
        assert all(17 * (cue.end - cue.start) / 1000 >= len(cue.text) for cue in cues)
    assert len(cues) <= 2 + 1.7 * max(200 * seconds_a_word / 7, 200 * (len(text) + 1) / 84) or text == "sentence."


def test_a_lone_word_stays_long_enough() -> None:
    words = [Word("no", 5.0, 5.04, 1.0), Word("yes", 6.1, 6.14, 1.0), Word("so", 9.98, 10.0, 1.0)]
    cues = cut(words, 10.0)
    assert [(cue.start, cue.end) for cue in cues] == [(5000, 5800), (6100, 6900), (9200, 10000)]
    assert [cue.spoken for cue in cues] == [(5000, 5040), (6100, 6140), (9980, 10000)]
    assert [(cue.start, cue.end) for cue in cut([Word("no", 0.1, 0.2, 1.0)], 0.5)] == [(0, 500)]


def test_fast_speech_is_split_where_time_allows() -> None:
    fast = told(12, 2.4, 0.02, "abcdef")  # 34 characters a second
    words = [*fast, Word("slowly", 3.3, 3.6, 1.0)]
    first, second = cut(words, 8.0)
    assert first.text == " ".join(["abcdef"] * 12)
    assert second.text == "slowly"


def test_cues_end_with_sentences_and_at_pauses() -> None:
    words = timed("So this is how it ends. And then they went home, all of them, quietly.", 0.4)
    assert [cue.text for cue in cut(words, 9.0)] == [
        "So this is how it ends.",
        "And then they went home, all of them, quietly.",
    ]
    words = [word._replace(word=word.word.strip(",.")) for word in words]
    later = [word._replace(start=word.start + 0.8, end=word.end + 0.8) for word in words[6:]]
    assert cut([*words[:6], *later], 9.0)[0].text == "So this is how it ends"


def test_lines_are_balanced_and_broken_at_phrases() -> None:
    (cue,) = cut(timed("when the rain had stopped, we walked back to the old house", 0.3), 9.0)
    assert cue.lines == ["when the rain had stopped,", "we walked back to the old house"]


@pytest.mark.parametrize(("text", "a_line"), [("我" * 270, 16), ("かな" * 135, 13), ("ไ" * 270, 42)])
def test_unspaced_scripts_have_their_own_width(text: str, a_line: int) -> None:
    words = [Word(c, 0.25 * number, 0.25 * number + 0.04, 1.0, False) for number, c in enumerate(text)]
    cues = cut(words, 70.0)
    assert "".join(line for cue in cues for line in cue.lines) == text
    assert all(max(map(len, cue.lines)) <= a_line for cue in cues)
    assert all(len(cue.lines) <= 2 for cue in cues)
    assert all(0.25 * len(cue.text) <= (cue.end - cue.start) / 1000 + 0.01 for cue in cues[:-1]) or a_line == 42


def test_japanese_lines_break_at_allowed_places() -> None:
    text = "「きょうは、ちょっとコーヒーを飲みに行きました。」" * 9
    words = [Word(c, 0.2 * number, 0.2 * number + 0.04, 1.0, False) for number, c in enumerate(text)]
    for cue in cut(words, 60.0):
        for line in cue.lines:
            assert line[0] not in "、。」ーょっ"
            assert line[-1] != "「"


def test_mixed_scripts_keep_their_spaces() -> None:
    words = [
        Word(text, number, number + 0.5, 1.0, spaced)
        for number, (text, spaced) in enumerate(
            [("我", True), ("用", False), ("Python", True), ("写", True), ("吧", False)]
        )
    ]
    (cue,) = cut(words, 9.0)
    assert cue.text == text_of(words) == "我用 Python 写吧"


@given(recording=spoken(), speakers=st.lists(st.sampled_from(["Ann", "Ben", None]), min_size=60, max_size=60))
@settings(deadline=None)
def test_no_cue_has_two_speakers(recording: tuple[list[Word], float], speakers: list[str | None]) -> None:
    words = [word._replace(speaker=speaker) for word, speaker in zip(recording[0], speakers, strict=False)]
    cues = cut(words, recording[1])
    by_letter = [word.speaker for word in words for _ in word.word]
    assert [cue.speaker for cue in cues for _ in without_spaces(cue.text)] == by_letter
    assert all(one.end <= other.start for one, other in pairwise(cues))


def test_markup_characters_are_escaped() -> None:
    words = [
        Word(text, number / 2, number / 2 + 0.4, 1.0) for number, text in enumerate(["a<b", "<i>", "&amp;", "-->"])
    ]
    cues = cut(words, 9.0)
    assert write(cues, "vtt").split("\n")[4] == "a&lt;b &lt;i&gt; &amp;amp; --&gt;"
    # SRT knows no escapes; with a word joiner, which nobody sees, players take nothing for a tag.
    assert write(cues, "srt").split("\n")[2] == "a<\u2060b <\u2060i> &amp; --\u2060>"


def test_written_files_follow_the_format() -> None:
    cues = [
        Cue(["good", "night"], 3_661_500, 3_662_250, "good night", (0, 0)),
        Cue(["you"], 3_663_000, 3_664_000, "", (0, 0)),
    ]
    assert write(cues, "srt") == (
        "1\n01:01:01,500 --> 01:01:02,250\ngood\nnight\n\n2\n01:01:03,000 --> 01:01:04,000\nyou\n"
    )
    assert write(cues, "vtt").startswith("WEBVTT\n\n1\n01:01:01.500 --> 01:01:02.250\ngood\nnight\n\n2\n")


def test_no_words_are_an_empty_file() -> None:
    assert write([], "srt") == ""
    assert write([], "vtt") == "WEBVTT\n"
