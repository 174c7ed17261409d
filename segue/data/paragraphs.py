"""How do timed words become the paragraphs of a transcript, and an interview that people read?

An interview has a block per turn: the speaker's name and the time, then what was said.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from segue.data import sentences
from segue.data.subtitles.cues import TimedWord

SHORTEST_SECONDS, LONGEST_SECONDS = 60.0, 120.0
"""A longer turn is split between these: readers find their place by the times."""
SILENCE_SECONDS = 10.0
"""A longer silence ends a paragraph."""


class Paragraph(NamedTuple):
    """Words that one person says, and their places among all words."""

    first: int
    end: int
    """The place after the last word."""
    speaker: str | None
    start: float
    """In seconds."""
    text: str


def cut(words: Sequence[TimedWord]) -> list[Paragraph]:
    """Divides the words of a recording into paragraphs, in order.

    They end where another person speaks, and in silences. Longer ones are split between SHORTEST_SECONDS and
    LONGEST_SECONDS: at the end of the sentence that the longest pause follows; without punctuation, at the longest
    pause.
    """
    breaks = [n for n in range(1, len(words)) if _are_apart(words[n - 1], words[n])]
    return [
        Paragraph(first, end, words[first].speaker, words[first].start, _text(words[first:end]))
        for start, stop in pairwise([0, *breaks, len(words)])
        for first, end in _split(words, start, stop)
        if first < end
    ]


def interview(paragraphs: Sequence[Paragraph]) -> str:
    """`Name  M:SS`, what was said, and a blank line; without a name, where the speaker is not known."""
    return "\n".join(
        f"{'  '.join(filter(None, (each.speaker, clock(each.start))))}\n{each.text}\n" for each in paragraphs
    )


def clock(seconds: float) -> str:
    """M:SS, from one hour on H:MM:SS."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _are_apart(word: TimedWord, following: TimedWord) -> bool:
    return word.speaker != following.speaker or following.start - word.end > SILENCE_SECONDS


def _split(words: Sequence[TimedWord], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Ranges of words in range(start, stop), which one person says, none of them too long."""
    is_end = sentences.are_ends(_spaced(words[start:stop]))
    first = start
    while first < stop and words[stop - 1].end - words[first].start > LONGEST_SECONDS:
        elapsed = {n: words[n - 1].end - words[first].start for n in range(first + 1, stop)}
        places = [n for n, seconds in elapsed.items() if SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS]
        if not places:  # a word that lasts for a minute
            places = [n for n, seconds in elapsed.items() if seconds > LONGEST_SECONDS][:1] or [stop - 1]
        end = max(places, key=lambda n: (is_end[n - 1 - start], words[n].start - words[n - 1].end))
        yield first, end
        first = end
    yield first, stop


def _spaced(words: Sequence[TimedWord]) -> list[str]:
    return [" " * (word.follows_space and number > 0) + word.word for number, word in enumerate(words)]


def _text(words: Sequence[TimedWord]) -> str:
    return "".join(_spaced(words))
