"""Which numbers were said? The words of a transcript that are one, and its digits: the inverse of `plain`."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from typing import NamedTuple

from segue.data.plain import ordinal_letters, plain

LONGEST_NUMBER = 8
"""Most words of a number: nine thousand nine hundred and ninety nine has seven."""
_SCALES = ("thousand", "million", "billion")


class Number(NamedTuple):
    """A number that was said."""

    end: int
    """The place after its last word."""
    digits: str
    is_whole: bool
    """Whether no other number is beside it, so that both may be parts of one."""


def numbers_in(said: Sequence[str], language: str) -> Iterator[tuple[int, Number]]:
    """The places at which numbers begin, from left to right, each as long as it can be."""
    place = 0
    while place < len(said):
        for end in range(min(len(said), place + LONGEST_NUMBER), place, -1):
            if digits := _digits_of(said[place:end], language):
                beside = [*said[max(0, place - 1) : place], *said[end : end + 1]]
                is_part = any(goes_on(said, near, language) for near in (place - 1, end))
                yield place, Number(end, digits, not is_part and not number_words(language).intersection(beside))
                place = end
                break
        else:
            place += 1


def goes_on(said: Sequence[str], place: int, language: str) -> bool:
    """Whether an English number goes on after the "and" or "point" at a place: "a hundred and twenty", "nine point
    twenty five", but not "fifty thousand and sixty thousand"."""
    if not language.startswith("en") or not 0 < place < len(said) - 1 or said[place] not in ("and", "point"):
        return False
    before, words = said[place - 1], number_words(language)
    more = list(takewhile(words.__contains__, said[place + 1 :]))
    if said[place] == "point":
        return before in words and bool(more)
    if before == "hundred":
        return bool(more) or _digits_of(said[place + 1 : place + 2], language) is not None  # tenth
    return before in _SCALES and bool(more) and not set(_SCALES[_SCALES.index(before) :]).intersection(more)


def _digits_of(words: Sequence[str], language: str) -> str | None:
    """The number from ten on that is read as these words: "nineteen eighty four" -> "1984"; None if there is none.

    It is below ten thousand, or so many thousands, or an English ordinal below a thousand. Raises a UserError as
    `plain` does.
    """
    return _readings(language).get(tuple(words))


@cache
def number_words(language: str) -> frozenset[str]:
    """The words of which numbers consist, but not those of ordinals. Raises a UserError as `plain` does."""
    numbers = [word for number in (*range(10), 10**6, 10**9) for word in plain(str(number), language).split()]
    readings = (reading for reading, digits in _readings(language).items() if digits[-1].isdigit())
    return frozenset([*numbers, *(word for reading in readings for word in reading)]) - {"and"}


@cache
def _readings(language: str) -> dict[tuple[str, ...], str]:
    """How numbers are read, in English with "and" and without, and their digits; of equal readings the first."""
    is_english = language.startswith("en")
    written = [str(number) for number in range(10, 10_000)]
    if is_english:
        written += [f"{number}{ordinal_letters(number)}" for number in range(10, 1000)]
        written += [f"{number:,}" for number in range(1000, 10_000)]
    written += [f"{number},000" if is_english else f"{number}000" for number in range(10, 1000)]
    found = dict[tuple[str, ...], str]()
    for digits in written:
        reading = plain(digits, language).split()
        found.setdefault(tuple(reading), digits)
        if is_english:
            found.setdefault(tuple(word for word in reading if word != "and"), digits)
    return found
