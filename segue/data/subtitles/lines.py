"""What are the lines of a subtitle file, and which of them are times or numbers of cues?

Times are parsed in all the formats that people and programs write; lines that look like times but cannot be parsed are
never taken for text.
"""

# ruff: noqa: RUF001 (dashes and arrows of many kinds, on purpose)

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal, NamedTuple

from segue.errors import UserError

Form = Literal["srt", "vtt", "ass"]

MARKS = "\x00-\x08\x0e-\x1b\x7f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
"""Invisible characters, for a regular expression: bidi marks, controls, zero width except the joiners ZWNJ and ZWJ."""

_MARK = re.compile(f"[{MARKS}]")
_LINE_END = re.compile(r"\r{0,2}\n|\r")  # \r\r\n comes from converting a file twice
_LONGEST = 300  # characters of a line that could be times, a number or a heading

_CLOCK = r"-?\s?\d{1,9}(?:\s?[:.,;،¡]\s?-?\d{1,9}){1,3}"
_DASH = "[-‐‑‒–—―−=~]"
_HEAD = r"(?:>|&gt;?|&\#62;|›)"
_ARROW = rf"(?:{_DASH}+(?:\s?{_DASH})*\s?{_HEAD}+|[→⟶⇒➔➜]|{_DASH}+)"
_TIMES = re.compile(rf"({_CLOCK})\s*{_ARROW}\s*({_CLOCK})(?:\s+(.*))?", re.DOTALL)
_NUMBERS = re.compile(r"-?\d+")
_SEPARATORS = re.compile(r"[:.,;،¡]")

_POINTED = rf"(?:{_DASH}\s?)+{_HEAD}|[→⟶⇒➔➜]"
_STRONG = rf"(?:{_DASH}\s?){{2,}}{_HEAD}|[–—]\s?{_HEAD}"
_PART = r"\d{1,9}\s?[:.,;]\s?-?\d"
_FULL = r"\d{1,9}\s?[:.;]\s?-?\d{1,9}\s?[:.,;،¡]\s?-?\d"
_POINTED_TIMES = re.compile(rf"(?:{_POINTED}).*(?:{_PART})|(?:{_PART}).*(?:{_POINTED})")
_STRONG_TIMES = re.compile(rf"(?:{_STRONG})+\s*-?{_PART}|{_PART}\d*\s*(?:{_STRONG})")
_STRONG_FULL_TIMES = re.compile(rf"(?:{_STRONG})+\s*-?{_FULL}|{_FULL}\d*[:.,;]?\d*\s*(?:{_STRONG})")
_POINTED_NUMBERS = re.compile(rf"\d\s*(?:{_STRONG})\s*\d")
_ONLY_TIMES = re.compile(r"-?\d{1,9}:\d\d?[:.]\d\d?[.,;]\d{3}\b")
_TWO_TIMES = re.compile(r"-?(?:\d{1,9}[:.;]){2}\d\d?[.,;:]\d{1,9}\b.{1,20}?(?:\d{1,9}[:.;]){2}\d\d?[.,;:]\d")
_HAS_LETTER = re.compile(r"[^\W\d_]")

_NUMBER = re.compile(r"[#(\[]?\s?(-?\d{1,9})\s?[.):\]#]?")


class Line(NamedTuple):
    """A line and its position."""

    start: int
    """Offset in the file's text, as `end`, which excludes the line end."""

    end: int
    bare: str
    """Its text for parsing: without invisible marks, in NFKC, stripped. Empty if nothing is visible."""


class Times(NamedTuple):
    """When a cue is shown, and what follows in the line."""

    start: int
    """Milliseconds, as `end`."""

    end: int
    settings: str
    is_full: bool
    """Whether both have hours or a fraction; else they could be text like "10:30 - 11:45"."""


class Found(NamedTuple):
    """A cue as found by a parser."""

    times: Times
    begin: int
    """Offset of the first character of its text; `stop` is the offset after the last one."""

    stop: int
    place: tuple[str, ...] = ()
    is_odd: bool = False
    """Whether its times are not written as the format specifies."""

    is_generated: bool = False


def split(text: str) -> list[Line]:
    """The lines of a text with any line ends."""
    found = []
    start = 0
    for end in _LINE_END.finditer(text):
        found.append(Line(start, end.start(), bare(text[start : end.start()])))
        start = end.end()
    if start < len(text):
        found.append(Line(start, len(text), bare(text[start:])))
    return found


def unified(text: str) -> str:
    """The text with "\\n" for each line end."""
    return _LINE_END.sub("\n", text)


def bare(line: str) -> str:
    """A line without invisible marks and surrounding white space, and in NFKC if it is short."""
    line = _MARK.sub("", line).strip()
    return unicodedata.normalize("NFKC", line.replace("№", "#")).strip() if len(line) < _LONGEST else line


def milliseconds(clock: str) -> int | None:
    """Parses two to four numbers: hours, minutes, seconds and a fraction; only minutes and seconds are required."""
    numbers, separators = _NUMBERS.findall(clock), _SEPARATORS.findall(clock)
    digits = [number.lstrip("-") for number in numbers]
    if len(digits) == 2:
        if separators[0] != ":":
            return None
        parts = ["0", *digits, "0"]
    elif len(digits) == 3:
        has_fraction = separators[1] in ",،¡" or separators[1] != separators[0] or len(digits[2]) > 2
        parts = ["0", *digits] if has_fraction else [*digits, "0"]
    elif len(digits) == 4:
        parts = digits
    else:
        return None
    hours, minutes, seconds, fraction = parts
    if len(seconds) > 2 or (len(minutes) > 2 and hours != "0"):
        return None
    found = 1000 * (3600 * int(hours) + 60 * int(minutes) + int(seconds)) + int(fraction.ljust(3, "0")[:3])
    return -found if any(number.startswith("-") for number in numbers) else found


def times_of(line: str) -> Times | None:
    """The times in a bare line, with any arrow between them; None if it does not begin with two times."""
    match = _TIMES.fullmatch(line)
    if match is None:
        return None
    start, end = milliseconds(match[1]), milliseconds(match[2])
    if start is None or end is None:
        return None
    is_full = all(len(_NUMBERS.findall(clock)) > 2 for clock in match.groups()[:2])
    return Times(start, end, (match[3] or "").strip(), is_full)


def is_like_times(line: str, is_expected: bool = False) -> bool:
    """Whether a bare line that `times_of` cannot parse was meant to be times; ordinary text never is.

    If times are expected, as after a number, any arrow next to a time counts.
    """
    if len(line) >= _LONGEST:
        return False
    if is_expected and _POINTED_TIMES.search(line):
        return True
    first = line.split(maxsplit=1)[0]
    if first[0].isalpha() and not any(map(str.isdigit, first)):
        return False
    if _HAS_LETTER.search(line):
        return bool(_STRONG_FULL_TIMES.search(line) or _TWO_TIMES.match(line))
    return any(each.search(line) for each in (_STRONG_TIMES, _POINTED_NUMBERS)) or bool(_ONLY_TIMES.match(line))


def number_of(line: str) -> int | None:
    """The number in a bare line that contains only a number, possibly with marks: "2", "#2", "2."; else None."""
    match = _NUMBER.fullmatch(line)
    return int(match[1]) if match else None


def within(text: str, lines: list[Line], first: int, stop: int) -> tuple[int, int]:
    """Start and end offset of the text of lines[first:stop], without surrounding white space."""
    while first < stop and not lines[first].bare:
        first += 1
    while stop > first and not lines[stop - 1].bare:
        stop -= 1
    if first == stop:
        end = lines[first - 1].end
        return end, end
    begin, end = lines[first].start, lines[stop - 1].end
    chunk = text[begin:end]
    return begin + len(chunk) - len(chunk.lstrip()), end - len(chunk) + len(chunk.rstrip())


def blocks(lines: list[Line], first: int, stop: int) -> Iterator[tuple[int, int]]:
    """(first, end) of each block of lines between empty lines; `end` is exclusive."""
    start = first
    for index in range(first, stop + 1):
        if index == stop or not lines[index].bare:
            if start < index:
                yield start, index
            start = index + 1


def refused(name: str, lines: list[Line], index: int, what: str) -> UserError:
    """The UserError for a line that cannot be parsed."""
    shown = lines[index].bare
    return UserError(f"{name}:{index + 1}: {what}: {shown[:60]}{'...' if len(shown) > 60 else ''}")
