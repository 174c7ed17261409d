"""Which words do recognized tokens form, and when was each spoken? The only place where tokens become text."""

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from typing import Literal, NamedTuple

from segue.data import scripts
from segue.data.segments import Levels, Region, silences
from segue.decoding.emissions import Emission

PAUSE_SECONDS = 0.5
"""A longer gap between tokens ends a word, even if the model outputs no space, and so does a shorter one with silence
(`after_silence`). Slow speech has a syllable, with at least one letter, every 0.4 s; 99 % of the gaps in spoken digits
(FSDD) are below 0.05 s."""
SILENCE_SECONDS = 0.2
"""So much silence between two tokens ends a word. That of a stop consonant is shorter."""
LETTER_SECONDS = 0.1
"""Allowance per further letter: a token of several letters may be emitted anywhere in the time of these letters."""
_INSIDE = "'’-\u2010\u2011"  # noqa: RUF001
"""Punctuation inside words."""


class Word(NamedTuple):
    """A word, or in scripts without spaces a character with its marks, and when it was spoken."""

    word: str
    start: float
    """Start in seconds from the start of the audio."""
    end: float
    """End in seconds."""
    confidence: float
    """Geometric mean of its tokens' probabilities."""
    follows_space: bool = True
    """Whether there is a space before it in the text."""
    speaker: str | None = None
    """Who said it; None if that is not known."""


@dataclass
class _Draft:
    """A word that may be continued; times in frames."""

    text: str
    start: float
    end: float
    """End of its last letter, since punctuation may be emitted late."""
    tokens: list[int]
    """Indices of its emissions."""
    letter: int
    """Index of the emission of its last letter."""
    follows_space: bool
    has_letter: bool = False
    is_unspaced: bool = False
    """Whether its last letter is of a script without spaces."""


class _Character(NamedTuple):
    text: str
    start: float
    end: float
    tokens: range


def after_silence(
    emissions: Sequence[Emission], pieces: Sequence[bytes], decibels: Levels, samples_per_frame: int, rate_hz: int
) -> list[Emission]:
    """The emissions of a waveform with these `levels`; those with SILENCE_SECONDS of silence before them say so.

    Punctuation makes no sound: silence in which it was emitted is silence before the next letter or opening sign.
    `pieces` is each token's text in UTF-8.
    """
    found = list(emissions)
    if not found:
        return found
    said = [Region(each.start * samples_per_frame, each.end * samples_per_frame) for each in found]
    quiet = silences(decibels, rate_hz, said)

    def is_silent(one: int, other: int) -> bool:
        start, end = emissions[one].end * samples_per_frame, emissions[other].start * samples_per_frame
        return any(min(end, each.end) - max(start, each.start) >= SILENCE_SECONDS * rate_hz for each in quiet)

    for number in range(1, len(found)):
        if is_silent(number - 1, number):
            found[number] = found[number]._replace(follows_silence=True)
    for one, other in pairwise(_letters(emissions, pieces)):
        is_marked = other == one + 1 or any(each.follows_silence for each in found[one + 1 : other + 1])
        if not is_marked and is_silent(one, other):
            signs = range(one + 1, other)
            first = next((n for n in signs if _kind(pieces[found[n].token]) == "opening"), other)
            found[first] = found[first]._replace(follows_silence=True)
    return found


def has_gap(emissions: Sequence[Emission], pieces: Sequence[bytes], samples_per_frame: int, rate_hz: int) -> bool:
    """Whether there may be SILENCE_SECONDS between two letters: else levels need not be computed."""
    least, letters = SILENCE_SECONDS * rate_hz, _letters(emissions, pieces)
    gaps = ((emissions[other].start - emissions[one].end) * samples_per_frame for one, other in pairwise(letters))
    return any(gap >= least for gap in gaps)


def _letters(emissions: Sequence[Emission], pieces: Sequence[bytes]) -> list[int]:
    """Indices of the emissions that are more than punctuation and spaces."""
    return [number for number, each in enumerate(emissions) if _kind(pieces[each.token]) == "letters"]


@lru_cache(1 << 16)
def _kind(piece: bytes) -> Literal["letters", "opening", "signs"]:
    """What a token is: a part of a character may be that of a letter.

    Symbols are spoken ("plus"); apostrophes and hyphens are as the letters beside them.
    """
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "letters"
    if any(unicodedata.category(character)[0] not in "PZC" or character in _INSIDE for character in text):
        return "letters"
    return "opening" if text and scripts.opens(text[0]) else "signs"


def words(emissions: Sequence[Emission], pieces: Sequence[bytes], seconds_per_frame: float) -> list[Word]:
    """Groups emissions into words. `pieces` is each token's text in UTF-8.

    Words are separated by spaces, silence or longer pauses. In scripts without spaces each character is a word, with
    its marks and punctuation.
    """
    drafts: list[_Draft] = []
    num_silences = list(accumulate(each.follows_silence for each in emissions))
    num_letters = [max(1, len(pieces[each.token].decode(errors="replace").strip())) for each in emissions]
    follows_space = True
    for text, start, end, tokens in _characters(emissions, pieces):
        if text.isspace():
            follows_space = True
            continue
        is_letter, is_unspaced = text.isalnum(), scripts.is_unspaced(text)
        if not drafts or follows_space:
            starts, is_apart = True, True
        else:
            last = drafts[-1]
            is_sign = scripts.extends(last.text, text)
            longest = PAUSE_SECONDS + LETTER_SECONDS * (num_letters[last.tokens[-1]] + num_letters[tokens.start] - 2)
            # Punctuation may be emitted anywhere in a silence.
            is_after_silence = num_silences[tokens.start] > num_silences[last.letter]
            has_pause = is_after_silence or (start - last.end) * seconds_per_frame > longest
            may_start = not is_sign and ((is_letter and last.has_letter) or scripts.opens(text))
            starts = may_start and (has_pause or last.is_unspaced or is_unspaced or text in scripts.WIDE_OPENING)
            is_apart = has_pause and not (last.is_unspaced or is_unspaced or text in scripts.WIDE_OPENING)
        if starts:
            drafts.append(_Draft(text, start, end, [*tokens], tokens[-1], is_apart, is_letter, is_unspaced))
        else:
            last.text += text
            last.tokens += [token for token in tokens if token != last.tokens[-1]]
            if is_letter or is_sign or not last.has_letter:
                last.end, last.letter = end, tokens[-1]
            if is_letter:
                last.has_letter, last.is_unspaced = True, is_unspaced
        follows_space = False
    return [
        Word(
            draft.text,
            draft.start * seconds_per_frame,
            draft.end * seconds_per_frame,
            _mean([emissions[token].confidence for token in draft.tokens]),
            draft.follows_space,
        )
        for draft in drafts
    ]


def _mean(confidences: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(max(each, 1e-30)) for each in confidences) / len(confidences))


def text_of(found: Sequence[Word]) -> str:
    """The text of words."""
    return "".join(" " * word.follows_space + word.word for word in found).strip(" ")


def joined(parts: Iterable[Sequence[Word]]) -> list[Word]:
    """The words of consecutive parts of a recording. There is a space between parts, where the script has spaces."""
    found: list[Word] = []
    for part in parts:
        for number, word in enumerate(part):
            if number == 0 and found:
                last = next((c for c in reversed(found[-1].word) if c.isalnum()), "")
                word = word._replace(follows_space=not (scripts.is_unspaced(last) and scripts.is_unspaced(word.word)))
            found.append(word)
    return found


def turns(found: Iterable[Word]) -> list[list[Word]]:
    """Consecutive words of one speaker together, in order."""
    return [list(said) for _, said in groupby(found, key=lambda word: word.speaker)]


def named(found: Iterable[Word]) -> list[Word]:
    """The same words; the first of each turn begins with its speaker's name, where that is known."""
    all_named: list[Word] = []
    for first, *others in turns(found):
        name = "" if first.speaker is None else f"{' '.join(first.speaker.split())}: "
        all_named += [first._replace(word=name + first.word), *others]
    return all_named


def _characters(emissions: Sequence[Emission], pieces: Sequence[bytes]) -> Iterator[_Character]:
    """The characters of emissions. Characters of one emission divide its frames; invalid bytes become U+FFFD."""
    owners: list[int] = []
    starts: list[float] = []
    ends: list[float] = []
    for number, (token, start, end, *_) in enumerate(emissions):
        piece = pieces[token]
        if len(piece) == 1:  # most tokens of small models
            owners.append(number)
            starts.append(start)
            ends.append(start if piece == b" " else end)
            continue
        num_solid, position = len(piece.replace(b" ", b"")), 0
        for byte in piece:
            owners.append(number)
            starts.append(start + (end - start) * position / max(1, num_solid))
            position += byte != ord(" ")
            ends.append(start + (end - start) * position / max(1, num_solid))
    position = 0
    for text in b"".join(pieces[each.token] for each in emissions).decode("utf-8", "surrogateescape"):
        is_damaged = "\udc80" <= text <= "\udcff"
        stop = position + (1 if is_damaged else len(text.encode()))
        tokens = range(owners[position], owners[stop - 1] + 1)
        yield _Character("\ufffd" if is_damaged else text, starts[position], ends[stop - 1], tokens)
        position = stop
