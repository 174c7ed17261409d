"""How does a long aligned recording become short utterances to train on? Cut where nobody speaks."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from segue.runtime.alignment import Aligned, AlignedSentence, AlignedWord

LONGEST_SECONDS = 16.0
LEAST_SCORE = 0.3
"""Of an utterance to train on: fewer words are wrong than in what may be aligned."""
PAD_SECONDS = 0.2
"""Silence before and after an utterance, at most; half of the pause if that is shorter."""
LONG_PAUSE_SECONDS = 0.5
"""A pause at which to cut costs nothing."""
LONGEST_PAUSE_SECONDS = 1.5
"""A longer one is not kept inside an utterance."""
LEAST_PAUSE_SECONDS = 0.05
"""A shorter pause may be none."""


class Piece(NamedTuple):
    """A stretch of a recording and what is said there."""

    start: float
    """Seconds from the start of the file, as `end`."""
    end: float
    text: str
    score: float
    problem: str = ""
    """Why it is not for training; "" if it is."""


def cut(found: Aligned, longest_seconds: float = LONGEST_SECONDS, least_score: float = LEAST_SCORE) -> list[Piece]:
    """The stretches of a recording in order; those with a `problem` are to be left out.

    Sentences with a low score, or with words that the model cannot spell, are stretches of their own.
    """

    def problem(sentence: AlignedSentence) -> str:
        if sentence.score < least_score:
            return "sound unlike the text"
        is_spelled = all(found.words[number].score is not None for number in sentence.words)
        return "" if is_spelled else "words that the model cannot spell"

    pieces: list[Piece] = []
    for wrong, group in groupby(found.sentences, problem):
        sentences = list(group)
        if wrong:
            pieces += [_piece(found, each.words.start, each.words.stop)._replace(problem=wrong) for each in sentences]
            continue
        for first, end in _cuts(found.words, sentences, longest_seconds):
            piece = _piece(found, first, end)
            if piece.end - piece.start > longest_seconds + 2 * PAD_SECONDS:
                piece = piece._replace(problem=f"words longer than {longest_seconds:g} s")
            elif piece.score < least_score:
                piece = piece._replace(problem="sound unlike the text")
            pieces.append(piece)
    return pieces


def _cuts(
    words: Sequence[AlignedWord], sentences: Sequence[AlignedSentence], longest_seconds: float
) -> Iterator[tuple[int, int]]:
    """Ranges of words, by dynamic programming: few, at most so long, cut at long pauses, better between sentences."""
    low, high = sentences[0].words.start, sentences[-1].words.stop
    stops = {each.words.stop for each in sentences}
    reached: list[tuple[float, int]] = [(0.0, low)]
    for end in range(low + 1, high + 1):
        best = math.inf, end - 1
        own = 1.0 + (_cost(words, end, end in stops) if end < high else 0.0)
        for first in range(end - 1, low - 1, -1):
            if first < end - 1 and words[first + 1].start - words[first].end > LONGEST_PAUSE_SECONDS:
                break
            seconds = words[end - 1].end - words[first].start
            if seconds > longest_seconds and first < end - 1:
                break
            best = min(best, (reached[first - low][0] + own, first))
        reached.append(best)
    found: list[tuple[int, int]] = []
    end = high
    while end > low:
        first = reached[end - low][1]
        found.append((first, end))
        end = first
    yield from reversed(found)


def _cost(words: Sequence[AlignedWord], place: int, is_stop: bool) -> float:
    """Of a cut before the word `place`, in utterances."""
    pause = words[place].start - words[place - 1].end
    cost = 3.0 * max(0.0, 1 - pause / LONG_PAUSE_SECONDS) + (0.0 if is_stop else 1.0)
    return cost + 20.0 * (pause < LEAST_PAUSE_SECONDS)


def _piece(found: Aligned, first: int, end: int) -> Piece:
    words = found.words
    before = words[first - 1].end if first else found.start
    after = words[end].start if end < len(words) else found.end
    text = "".join(" " * each.follows_space + each.word for each in words[first:end]).strip()
    start, stop = words[first].start, words[end - 1].end
    return Piece(
        max(start - min(PAD_SECONDS, (start - before) / (2 if first else 1)), 0.0),
        stop + min(PAD_SECONDS, (after - stop) / (2 if end < len(words) else 1)),
        text,
        found.spoken.score(first, end),
    )
