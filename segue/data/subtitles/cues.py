"""How do words with times become subtitles? Cues of readable length; pysubs2 writes the formats."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import pysubs2

LONGEST_CHARACTERS = 84  # two lines of 42, the usual limit of broadcasters
LONGEST_SECONDS = 7.0
LONGEST_PAUSE_SECONDS = 1.0


class TimedWord(Protocol):
    """A word and when it was said, in seconds."""

    @property
    def word(self) -> str:
        """Its text."""
        ...

    @property
    def start(self) -> float:
        """Seconds."""
        ...

    @property
    def end(self) -> float:
        """Seconds."""
        ...


def write(words: Sequence[TimedWord], form: Literal["srt", "vtt"]) -> str:
    """The words as a subtitle file; "" where there are none."""
    events = [
        pysubs2.SSAEvent(
            start=round(1000 * cue[0].start), end=round(1000 * cue[-1].end), text=" ".join(word.word for word in cue)
        )
        for cue in _cues(words)
    ]
    if not events:
        return "WEBVTT\n" if form == "vtt" else ""
    file = pysubs2.SSAFile()
    file.events = events
    return file.to_string(form, keep_ssa_tags=True)  # else a word in braces were taken for a style, and dropped


def _cues(words: Sequence[TimedWord]) -> Iterator[list[TimedWord]]:
    """Words until a pause, or until a cue is as long as one can read."""
    cue: list[TimedWord] = []
    for word in words:
        is_full = cue and (
            word.start - cue[-1].end > LONGEST_PAUSE_SECONDS
            or word.end - cue[0].start > LONGEST_SECONDS
            or sum(len(each.word) + 1 for each in cue) + len(word.word) > LONGEST_CHARACTERS
        )
        if is_full:
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue
