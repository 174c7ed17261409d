"""How does a transcript get case, punctuation and numbers? A model rewrites it, and the words keep their times.

The model is one for translation (`segue prepare written`, recipes/translation/plain_to_written.toml).
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import NamedTuple, Protocol

from segue.data.plain import has_unread, plain
from segue.data.spoken_numbers import Number, goes_on, number_words, numbers_in
from segue.errors import count_of, warn
from segue.runtime.recognizer import Transcript
from segue.runtime.words import Word, text_of, turns

LONGEST_WORDS = 30
"""Most words that are rewritten at once."""
PAUSE_SECONDS = 0.3
"""They are divided at the longest of their pauses above this; models of written text do best with whole sentences."""
BATCH = 16
"""Passages that are rewritten at once. With 32, an hour took 16 MB more (of 49), and no less time."""
LARGEST_CHANGE = 0.3
"""If more of the words are others, the model did not rewrite, but invent: the words stay as they are."""

_SIGNS = re.compile(r"(?<=\w)[.,;:!?]+$")
_TOKEN = re.compile(r"\S+(?: %(?!\S))?")


class Writer(Protocol):
    """A model for text to text."""

    @property
    def languages(self) -> list[str]:
        """The languages that it was trained to write, if they are known."""
        ...

    def translate(self, texts: Sequence[str]) -> list[str]:
        """The written form of each text."""
        ...


class Aligned(NamedTuple):
    """A passage as it is written."""

    words: list[Word]
    num_kept: int
    """So many words stand for others that the model wrote, or for none."""


def language_of(writer: Writer) -> str:
    """The language in which its numbers are read: its own if it has one, else English, as of pairs without a language.

    Raises a UserError if num2words is not installed or does not know it: numbers could not be checked.
    """
    language = writer.languages[0] if len(writer.languages) == 1 else "en"
    plain("1", language)
    return language


def restored(transcript: Transcript, writer: Writer) -> Transcript:
    """The transcript as it would be written; times, speakers and confidences are those of the recognized words.

    What the model writes is only used where it is read as what was said, so that no word is lost, and none invented.
    """
    language = language_of(writer)
    passages = [passage for turn in turns(transcript.words) for passage in _passages(turn)]
    texts = _rewritten([text_of(passage).lower() for passage in passages], writer)
    words: list[Word] = []
    num_whole = num_kept = 0
    for passage, text in zip(passages, texts, strict=True):
        found = aligned(passage, text, language)
        if found is None:
            num_whole += 1
            words += passage
        else:
            num_kept += found.num_kept
            words += found.words
    kept = [f"{num_whole} of {count_of(len(passages), 'passage')}"] if num_whole else []
    if num_kept:
        kept.append(f"{count_of(num_kept, 'word')}{' of others' if num_whole else ''}")
    if kept:
        warn(
            f"{transcript.audio}: left as recognized: {' and '.join(kept)}, where the model for writing has other words"
        )
    return replace(transcript, text=text_of(words), words=words)


def _rewritten(texts: Sequence[str], writer: Writer) -> list[str]:
    """What the model writes for each text; few texts of similar length at once, which takes less memory."""
    order, found = sorted(range(len(texts)), key=lambda number: len(texts[number])), dict[int, str]()
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        found.update(zip(numbers, writer.translate([texts[number] for number in numbers]), strict=True))
    return [found[number] for number in range(len(texts))]


def aligned(words: Sequence[Word], text: str, language: str = "en") -> Aligned | None:
    """The words of a written text, with the times of the recognized words that they stand for.

    Each written word is read as the training data of such a model were: "1984," as "nineteen eighty four". If that is
    what was said, the word stands for it. Else what was said stays, with the case and punctuation of the other words if
    these are as many; where the model has another number, the one that was said is written in digits. None if too many
    are others.
    """
    found, others = list[Word](), list[str]()
    place = num_kept = 0
    said = [_key(word.word) for word in words]
    numbers = dict(numbers_in(said, language)) if _has_digit(text) else {}
    for token, own in _stands(text, said, numbers, language):
        if not _key(token):  # a dash between words
            if found and not others and not has_unread(token, language):
                found.append(found[-1]._replace(word=token, start=found[-1].end))
        elif own:
            num_kept += _keep(found, words, range(place, own.start), numbers, others, language)
            others = []
            found.extend(_shared(words[own.start : own.stop], [token]))
            place = own.stop
        else:
            others.append(token)
    num_kept += _keep(found, words, range(place, len(words)), numbers, others, language)
    if num_kept > LARGEST_CHANGE * len(words):
        return None
    found = [word._replace(follows_space=True) for word in found]
    return Aligned([found[0]._replace(follows_space=words[0].follows_space), *found[1:]], num_kept)


def _stands(
    text: str, said: Sequence[str], numbers: Mapping[int, Number], language: str
) -> Iterator[tuple[str, range]]:
    """The words of a written text, each with the places of the said words that it stands for; with none if it is read
    as others, or is a part of a number: "twenty five" is not "20 five", "two thousand and eight" not "2000 and eight".
    """
    tokens = _TOKEN.findall(text)
    places = _matched([_reading(token, " ".join(said), language) for token in tokens], said)
    written = [own for token, own in zip(tokens, places, strict=True) if own and _has_digit(token)]
    as_digits = {place for own in written for place in own}
    parts = set[int]()
    for own in written:
        beside = {own.start - 1, own.stop} & set(range(len(said))) - as_digits
        is_part = any(said[near] in number_words(language) for near in beside)
        is_part |= own.start - 2 not in as_digits and goes_on(said, own.start - 1, language)
        is_part |= own.stop + 1 not in as_digits and goes_on(said, own.stop, language)
        if is_part:
            parts.update(own)
    for start, number in numbers.items():
        whole = set(range(start, number.end))
        if "and" in said[start : number.end] and any(whole & set(own) and whole - set(own) for own in written):
            parts |= whole
    for token, own in zip(tokens, places, strict=True):
        yield token, range(0) if parts.intersection(own) else own


def _matched(readings: Sequence[Sequence[str]], said: Sequence[str]) -> list[range]:
    """The places at which the words of each reading were said; none if not all of them were, one after the other."""
    owners = [number for number, reading in enumerate(readings) for _ in reading]
    places: list[list[int]] = [[] for _ in readings]
    matcher = SequenceMatcher(None, said, [word for reading in readings for word in reading], autojunk=False)
    for first, start, size in matcher.get_matching_blocks():
        for number in range(size):
            places[owners[start + number]].append(first + number)
    return [
        range(own[0], own[-1] + 1) if own and len(own) == len(reading) == own[-1] + 1 - own[0] else range(0)
        for reading, own in zip(readings, places, strict=True)
    ]


def _keep(
    found: list[Word],
    words: Sequence[Word],
    own: range,
    numbers: Mapping[int, Number],
    others: Sequence[str],
    language: str,
) -> int:
    """Adds the recognized words at some places instead of written ones that are others; returns how many stay as they
    were recognized, or are left out."""
    part = words[own.start : own.stop]
    is_same = _key("".join(others)) == "".join(_key(word.word) for word in part)
    if part and is_same and not any(has_unread(other, language) for other in others):  # divided in another way
        found.extend(_shared(part, others))
        return 0
    num_numbers = 0
    if any(map(_has_digit, others)):
        part, num_numbers = _with_digits(words, own, numbers)
    num_kept = max(len(part), len(others)) - num_numbers
    if len(part) > len(others):  # what ends a sentence stands after the words that the model left out
        part = [*part[:-1], _signed(part[-1], others[-1] if others else found[-1].word if found else "")]
        if not others and found:
            found[-1] = found[-1]._replace(word=_SIGNS.sub("", found[-1].word))
    found.extend(_dressed(part, others))
    return num_kept


def _with_digits(words: Sequence[Word], own: range, numbers: Mapping[int, Number]) -> tuple[list[Word], int]:
    """The words at some places, their numbers in digits, and how many numbers these are."""
    found, place, count = list[Word](), own.start, 0
    while place < own.stop:
        number = numbers.get(place)
        if number is not None and number.is_whole and number.end <= own.stop:
            found.extend(_shared(words[place : number.end], [number.digits]))
            place, count = number.end, count + 1
        else:
            found.append(words[place])
            place += 1
    return found, count


def _reading(token: str, said: str, language: str) -> list[str]:
    """What is said for a written word; nothing if it has signs that are not read. English numbers have an "and" or not,
    as in what was said."""
    if has_unread(token, language):
        return []
    read = [key for word in plain(token, language).split() if (key := _key(word))]
    is_english_number = language.startswith("en") and _has_digit(token)
    return [word for word in read if word != "and"] if is_english_number and " ".join(read) not in said else read


def _has_digit(text: str) -> bool:
    """Whether a text has a digit."""
    return any(character.isdigit() for character in text)


def _signed(word: Word, other: str) -> Word:
    """A word with the punctuation at the end of another."""
    signs = _SIGNS.search(other)
    return word._replace(word=word.word + signs[0]) if signs and word.word[-1:].isalnum() else word


def _dressed(part: Sequence[Word], others: Sequence[str]) -> Sequence[Word]:
    """Words with case and punctuation of others, if these are as many."""
    if len(part) != len(others):
        return part
    found = []
    for word, other in zip(part, others, strict=True):
        if has_unread(other):  # the dash of "-5" is none before a word
            found.append(word)
            continue
        letters = [place for place, character in enumerate(other) if character.isalnum()]
        text = word.word[:1].upper() + word.word[1:] if other[letters[0]].isupper() else word.word
        found.append(word._replace(word=_marks(other[: letters[0]]) + text + _marks(other[letters[-1] + 1 :])))
    return found


def _marks(text: str) -> str:
    """Punctuation of a text."""
    return "".join(c for c in text if unicodedata.category(c)[0] == "P" and not has_unread(c))


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
    """What of a word is said: its letters, with their marks, and digits."""
    letters = unicodedata.normalize("NFC", text.lower())
    return "".join(c for c in letters if c.isalnum() or unicodedata.category(c)[0] == "M")


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
