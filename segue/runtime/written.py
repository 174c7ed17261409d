"""How does a transcript get case, punctuation and numbers? A model rewrites it, and the words keep their times.

The model is one for translation (`segue prepare written`, recipes/translation/plain_to_written.toml).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Protocol

from segue.errors import count_of, warn
from segue.runtime.recognizer import Transcript
from segue.runtime.words import Word, text_of, turns

LONGEST_WORDS = 30
"""Most words that are rewritten at once."""
PAUSE_SECONDS = 0.3
"""They are divided at the longest of their pauses above this; models of written text do best with whole sentences."""
LARGEST_CHANGE = 0.3
"""If more of the words are others, the model did not rewrite, but invent: the words stay as they are."""

WORDS_A_DIGIT = 2
"""Most words that a digit stands for: "one hundred and one" are four for three digits."""


class Writer(Protocol):
    """A model for text to text."""

    def translate(self, texts: Sequence[str]) -> list[str]:
        """The written form of each text."""
        ...


def restored(transcript: Transcript, writer: Writer) -> Transcript:
    """The transcript as it would be written; times, speakers and confidences are those of the recognized words."""
    passages = [passage for turn in turns(transcript.words) for passage in _passages(turn)]
    texts = writer.translate([text_of(passage).lower() for passage in passages])
    words: list[Word] = []
    num_kept = 0
    for passage, text in zip(passages, texts, strict=True):
        found = aligned(passage, text)
        num_kept += found is None
        words += passage if found is None else found
    if num_kept:
        warn(
            f"{transcript.audio}: left as recognized: {num_kept} of {count_of(len(passages), 'passage')}, in which the "
            "model for writing changed too many words"
        )
    return replace(transcript, text=text_of(words), words=words)


def aligned(words: Sequence[Word], text: str) -> list[Word] | None:
    """The words of a written text, with the times of the recognized words that they stand for.

    Words that are equal but for case and punctuation are the same; what is between them stands for what is between
    them, as "1984" for "nineteen eighty four", and shares its time by letters. None if the texts differ too much.
    """
    written = text.split()
    said, keys = [_key(word.word) for word in words], [_key(token) for token in written]
    found: list[Word] = []
    num_changed = 0
    for kind, first, last, start, end in SequenceMatcher(None, said, keys, autojunk=False).get_opcodes():
        if kind == "equal":
            found += [words[first + n]._replace(word=token) for n, token in enumerate(written[start:end])]
            continue
        part, tokens = words[first:last], written[start:end]
        num_digits = sum(character.isdigit() for token in tokens for character in token)
        if not num_digits:
            num_changed += max(last - first, end - start)
        elif not part:
            num_changed += end - start
        else:  # "three hundred and five" is 305, but 20 words are not
            num_changed += max(0, last - first - WORDS_A_DIGIT * num_digits - len(tokens))
        if not tokens:
            continue
        if not part:  # nothing was said for them; their place is between the words around them
            place = found[-1].end if found else words[0].start
            part = [Word("", place, place, 0.5, speaker=words[0].speaker)]
        found += _shared(part, tokens)
    is_other = num_changed > LARGEST_CHANGE * max(len(words), 1)
    if is_other or not found:
        return None
    found = [word._replace(follows_space=True) for word in found]
    return [found[0]._replace(follows_space=words[0].follows_space), *found[1:]]


def _shared(part: Sequence[Word], tokens: Sequence[str]) -> Iterator[Word]:
    """Tokens in the time of some words, by their numbers of letters."""
    start, total = part[0].start, sum(map(len, tokens))
    seconds = part[-1].end - start
    confidence = math.exp(sum(math.log(max(word.confidence, 1e-30)) for word in part) / len(part))
    for token in tokens:
        end = start + seconds * len(token) / total
        yield Word(token, start, end, confidence, True, part[0].speaker)
        start = end


def _key(text: str) -> str:
    """What of a word is heard."""
    return "".join(character for character in text.lower() if character.isalnum())


def _passages(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """The words of a turn, divided at pauses of two seconds, and where they are too many at the longest pauses."""
    pending = [words] if words else []
    while pending:
        part = pending.pop()
        pauses = [(part[n].start - part[n - 1].end, n) for n in range(1, len(part))]
        longest, place = max(pauses, default=(0.0, 0))
        if len(part) <= LONGEST_WORDS and longest < 2.0:
            yield part
        elif longest < PAUSE_SECONDS:
            yield from (part[start : start + LONGEST_WORDS] for start in range(0, len(part), LONGEST_WORDS))
        else:
            pending += [part[place:], part[:place]]
