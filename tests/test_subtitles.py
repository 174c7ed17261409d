from itertools import pairwise
from typing import Literal

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.subtitles.cues import write
from segue.decoding.ctc import Word

Form = Literal["srt", "vtt"]
both_forms = pytest.mark.parametrize("form", ["srt", "vtt"])


@st.composite
def spoken(draw: st.DrawFn) -> list[Word]:
    """Words one after the other, with pauses, some of them long."""
    time, words = 0.0, []
    texts = st.text("abcdé'{}%&", min_size=1, max_size=20) | st.text("x", min_size=70, max_size=100)
    for text in draw(st.lists(texts, max_size=40)):
        start = time + draw(st.sampled_from([0.0, 0.02, 0.5, 0.99, 1.01, 30.0]))
        time = start + draw(st.sampled_from([0.02, 0.3, 2.0, 8.0]))
        words.append(Word(text, start, time, 1.0))
    return words


@both_forms
@given(words=spoken())
@settings(deadline=None)
def test_pysubs2_reads_back_every_word_at_its_time(form: Form, words: list[Word]) -> None:
    cues = list(pysubs2.SSAFile.from_string(write(words, form), format_=form)) if words else []
    assert " ".join(cue.text for cue in cues) == " ".join(word.word for word in words)
    position = 0
    for cue in cues:
        count = len(cue.text.split(" "))
        inside = words[position : position + count]
        position += count
        assert cue.start == pytest.approx(1000 * inside[0].start, abs=0.51)
        assert cue.end == pytest.approx(1000 * inside[-1].end, abs=0.51)
        if count > 1:
            assert len(cue.text) <= 84
            assert cue.end - cue.start <= 7001
            assert all(after.start - before.end <= 1 for before, after in pairwise(inside))


def test_words_share_a_cue_while_it_can_be_read() -> None:
    words = [Word("word", 0.3 * number, 0.3 * number + 0.2, 1.0) for number in range(40)]
    cues = list(pysubs2.SSAFile.from_string(write(words, "srt")))
    assert [len(cue.text.split()) for cue in cues] == [17, 17, 6]  # 17 words are 84 characters


def test_what_is_written_is_the_format() -> None:
    words = [Word("good", 3661.5, 3661.75, 1.0), Word("night", 3662.0, 3662.25, 1.0)]
    assert write(words, "srt") == "1\n01:01:01,500 --> 01:01:02,250\ngood night\n\n"
    assert write(words, "vtt") == "WEBVTT\n\n1\n01:01:01.500 --> 01:01:02.250\ngood night\n\n"


def test_no_words_are_an_empty_file() -> None:
    assert write([], "srt") == ""
    assert write([], "vtt").strip() == "WEBVTT"
