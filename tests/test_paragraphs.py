import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.data.paragraphs import LONGEST_SECONDS, SHORTEST_SECONDS, clock, cut, interview
from segue.runtime.words import Word, text_of


def told(texts: str, seconds: float = 1.0, start: float = 0.0, speaker: str | None = None) -> list[Word]:
    """A word every so many seconds, after pauses of a tenth of that."""
    return [
        Word(text, start + n * seconds, start + (n + 0.9) * seconds, 1.0, speaker=speaker)
        for n, text in enumerate(texts.split())
    ]


@st.composite
def spoken(draw: st.DrawFn) -> list[Word]:
    words, time = list[Word](), 0.0
    for text in draw(st.lists(st.sampled_from(["so", "yes.", "Dr.", "No!", "我"]), max_size=80)):
        start = time + draw(st.sampled_from([0.0, 0.2, 4.0, 10.5]))
        time = start + draw(st.sampled_from([0.3, 2.0, 9.0, 70.0]))
        speaker = draw(st.sampled_from(["Ann", "Ann", "Ben", None]))
        words.append(Word(text, start, time, 1.0, text != "我", speaker))
    return words


@given(words=spoken())
def test_paragraphs_hold_every_word_in_order(words: list[Word]) -> None:
    """Each of one speaker, none much longer than two minutes unless a single word is."""
    found = cut(words)
    assert [place for each in found for place in range(each.first, each.end)] == list(range(len(words)))
    for each in found:
        said = words[each.first : each.end]
        assert {word.speaker for word in said} == {each.speaker}
        assert (each.text, each.start) == (text_of(said), said[0].start)
        assert said[-1].end - said[0].start <= LONGEST_SECONDS or len(said) == 1


def test_long_turns_are_split_at_sentences() -> None:
    words = told(" ".join("end." if n % 25 == 24 else "Word" for n in range(400)))
    found = cut(words)
    assert all(each.text.endswith("end.") for each in found)
    assert all(SHORTEST_SECONDS <= each.end - each.first <= LONGEST_SECONDS for each in found[:-1])


def test_without_punctuation_they_are_split_at_pauses() -> None:
    words = told("word " * 90) + told("word " * 90, start=93.0)
    assert [each.end for each in cut(words)] == [90, 180]


def test_a_silence_ends_a_paragraph() -> None:
    assert [each.text for each in cut(told("a b") + told("c d", start=12.0))] == ["a b", "c d"]


def test_an_interview_names_speaker_and_time() -> None:
    words = [
        *told("How are you?", speaker="Ann"),
        *told("Fine, thanks.", start=65.0, speaker="Ben"),
        *told("我 们", start=3599.5),
        *told("Well.", start=3725.0, speaker="Ann"),
    ]
    words[6] = words[6]._replace(follows_space=False)
    assert interview(cut(words)) == (
        "Ann  0:00\nHow are you?\n\nBen  1:05\nFine, thanks.\n\n59:59\n我们\n\nAnn  1:02:05\nWell.\n"
    )
    assert interview(cut([])) == ""


@pytest.mark.parametrize(
    ("seconds", "wanted"), [(0.0, "0:00"), (59.99, "0:59"), (600, "10:00"), (3600, "1:00:00"), (36_061.5, "10:01:01")]
)
def test_clocks_have_hours_from_one_hour_on(seconds: float, wanted: str) -> None:
    assert clock(seconds) == wanted
