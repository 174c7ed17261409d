"""Which speaker said which word? Turns of a diarization, moved to the boundaries of words."""

from collections.abc import Sequence

import numpy as np

from segue.data import sentences
from segue.data.turns import Turn
from segue.runtime.words import Word, turns

ISLAND_WORDS = 2
"""So few words of one speaker inside a sentence of another are an error of a boundary."""
SENTENCE_PAUSE_SECONDS = 0.5
"""After a longer pause, or after punctuation that ends a sentence, a new one begins."""


def assigned(words: Sequence[Word], said: Sequence[Turn]) -> list[Word]:
    """The words with their speakers: of the turn that overlaps with a word most, or else of the nearest turn.

    One or two words inside another speaker's sentence are given to that speaker. Without turns, words have no speaker.
    """
    if not said:
        return list(words)
    speakers = list(dict.fromkeys(turn.speaker for turn in said))
    starts, ends = np.array([turn.start for turn in said]), np.array([turn.end for turn in said])
    owners = np.array([speakers.index(turn.speaker) for turn in said])
    found: list[Word] = []
    for word in words:
        near = slice(max(0, int(np.searchsorted(ends, word.start)) - 1), int(np.searchsorted(starts, word.end)) + 1)
        overlap = np.minimum(ends[near], word.end) - np.maximum(starts[near], word.start)  # below 0: a gap
        seconds = np.bincount(owners[near], weights=np.maximum(overlap, 0), minlength=len(speakers))
        if np.count_nonzero(seconds == seconds.max()) == 1:
            owner = int(seconds.argmax())
        else:  # in a pause, or a tie
            middle = (word.start + word.end) / 2
            distance = np.maximum(np.maximum(starts[near] - middle, middle - ends[near]), 0)
            owner = int(owners[near][int(distance.argmin())])
        found.append(word._replace(speaker=speakers[owner]))
    return _without_islands(found)


def _without_islands(words: Sequence[Word]) -> list[Word]:
    """The words; a turn of one or two of them, without a pause between words of another speaker, becomes theirs."""
    runs = turns(words)
    for number in range(1, len(runs) - 1):
        before, island, after = runs[number - 1 : number + 2]
        speaker = before[-1].speaker
        if (
            len(island) <= ISLAND_WORDS
            and speaker == after[0].speaker
            and _goes_on(before[-1], island[0])
            and _goes_on(island[-1], after[0])
        ):
            runs[number] = [word._replace(speaker=speaker) for word in island]
    return [word for run in runs for word in run]


def _goes_on(word: Word, following: Word) -> bool:
    """Whether the words are of one sentence, by the pause and punctuation between them."""
    return following.start - word.end <= SENTENCE_PAUSE_SECONDS and not sentences.has_stop(word.word)
