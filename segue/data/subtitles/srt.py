"""How is a SubRip file parsed? Tolerant of how times and numbers are written."""

import re

from segue.data.subtitles import lines
from segue.data.subtitles.lines import Found, Line, Times

_STANDARD = re.compile(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}(?: .*)?", re.ASCII)
_SETTINGS = re.compile(r"(?:\w+:\S+\s*)*")  # X1:100 X2:200 Y1:10 Y2:20, and cue settings of WebVTT

NO_TIMES = "times that cannot be read; write them as 00:00:05,000 --> 00:00:07,000"
WORDS_BEHIND = "words after the times of a cue; they belong on the next line"
NUMBER_ALONE = "the number of a cue without a line of times after it"
NEITHER = "neither the number of the next cue nor text of the previous one; put an empty line after it, or none \
before it"


def read(text: str, name: str) -> tuple[list[Found], int]:
    """The cues of the file `name`, and the number of text blocks outside of cues.

    Times may follow a number or an empty line; times with hours may be anywhere. A number above them belongs to the cue
    if there is an empty line before but not after it, or if at least half of all cues have one. Raises a UserError with
    the line if times or numbers cannot be parsed.
    """
    all_lines = lines.split(text)
    stamps = list(_stamps(all_lines, name))
    places = [index for index, _ in stamps]
    lows = [0, *(index + 1 for index in places)][: len(places)]  # the line after the previous times
    above = [_number_above(all_lines, low, index) for low, index in zip(lows, places, strict=True)]
    num_numbered = sum(each is not None for each in above)
    is_numbered = num_numbered > 0 and 2 * num_numbered >= len(above) + (above[0] is None)
    numbers: list[int | None] = []
    cuts = [0]  # the end of each cue's text; first, the start of the text before all cues
    for index, low in zip(places, lows, strict=True):
        cut, number = _cut(all_lines, low, index, is_numbered)
        if cut == index and low and _is_neither(all_lines, low, index):
            raise lines.refused(name, all_lines, index - 1, NEITHER)
        numbers.append(number)
        cuts.append(cut)
    found = []
    for at, (index, times) in enumerate(stamps):
        stop = cuts[at + 2] if at + 2 < len(cuts) else _without_last_numbers(all_lines, index + 1, is_numbered)
        if is_numbered:
            _check_numbers(all_lines, index + 1, stop, numbers[at], (numbers[at + 1 :] or [None])[0], name)
        begin, end = lines.within(text, all_lines, index + 1, stop)
        line = all_lines[index]
        is_odd = not _STANDARD.fullmatch(text[line.start : line.end].strip())
        found.append(Found(times, begin, end, (times.settings,), is_odd))
    return found, sum(1 for _ in lines.blocks(all_lines, 0, cuts[1] if stamps else len(all_lines)))


def _stamps(all_lines: list[Line], name: str) -> list[tuple[int, Times]]:
    """The lines with times, and the times."""
    found = []
    for index, line in enumerate(all_lines):
        if not line.bare:
            continue
        before = all_lines[index - 1].bare if index else ""
        is_behind_number = lines.number_of(before) is not None
        times = lines.times_of(line.bare)
        if times and (times.is_full or not before or is_behind_number):
            if _SETTINGS.fullmatch(times.settings):
                found.append((index, times))
                continue
            if times.is_full or is_behind_number:
                raise lines.refused(name, all_lines, index, WORDS_BEHIND)
        if lines.is_like_times(line.bare, is_behind_number) or _is_in_place_of_times(all_lines, index, found):
            raise lines.refused(name, all_lines, index, NO_TIMES)
    return found


def _is_in_place_of_times(all_lines: list[Line], index: int, found: list[tuple[int, Times]]) -> bool:
    """Whether a line with an arrow is where a cue begins: first in its block, except for a number."""
    if "-->" not in all_lines[index].bare:
        return False
    first = index - 1 if index and lines.number_of(all_lines[index - 1].bare) is not None else index
    last = first - 1
    while last >= 0 and not all_lines[last].bare:
        last -= 1
    return _stands_apart(all_lines, first) and not (found and found[-1][0] == last)  # after times there is text


def _number_above(all_lines: list[Line], low: int, index: int) -> int | None:
    """The line with the number for the times in line `index`: directly above, or in a block of its own; else None."""
    at = index - 1
    while at >= low and not all_lines[at].bare:
        at -= 1
    if at < low or lines.number_of(all_lines[at].bare) is None:
        return None
    return at if at == index - 1 or _stands_apart(all_lines, at) else None


def _stands_apart(all_lines: list[Line], index: int) -> bool:
    return index == 0 or not all_lines[index - 1].bare


def _cut(all_lines: list[Line], low: int, index: int, is_numbered: bool) -> tuple[int, int | None]:
    """The first line that belongs to the times in line `index`, and their number."""
    at = index - 1
    while at >= low and not all_lines[at].bare:
        at -= 1
    number = lines.number_of(all_lines[at].bare) if at >= low else None
    if number is None or not (is_numbered or (at == index - 1 and _stands_apart(all_lines, at))):
        return index, None
    return _without_numbers(all_lines, low, at), number


def _without_numbers(all_lines: list[Line], low: int, stop: int) -> int:
    """`stop`, or an earlier line: skips numbers in blocks of their own, left by repeated or removed cues."""
    first = next(index for index in range(low, stop + 1) if all_lines[index].bare)
    while True:
        at = stop - 1
        while at >= low and not all_lines[at].bare:
            at -= 1
        if at < low or not all_lines[at].bare.isdecimal() or not _stands_apart(all_lines, at):
            return stop
        if at == first and all_lines[at].bare != all_lines[stop].bare:
            return stop  # a cue whose text is a number
        stop = at


def _without_last_numbers(all_lines: list[Line], low: int, is_numbered: bool) -> int:
    stop = len(all_lines)
    while stop > low and not all_lines[stop - 1].bare:
        stop -= 1
    last = stop - 1
    is_number = is_numbered and last > low and all_lines[last].bare.isdecimal() and _stands_apart(all_lines, last)
    return last if is_number and any(line.bare for line in all_lines[low:last]) else stop


def _is_neither(all_lines: list[Line], low: int, index: int) -> bool:
    """Whether the block directly above the times is one line, and not the only block since the last times."""
    above = list(lines.blocks(all_lines, low, index))
    return len(above) > 1 and above[-1] == (index - 1, index)


def _check_numbers(
    all_lines: list[Line], first: int, stop: int, number: int | None, following: int | None, name: str
) -> None:
    """Raises a UserError if another cue, whose times are missing, begins inside a text."""
    has_text = False
    for index in range(first, stop):
        value = all_lines[index].bare
        if value.isdecimal() and index + 1 < stop and all_lines[index + 1].bare and number is not None:
            is_next = int(value[:9]) == number + 1
            is_missing = following == number + 2 if all_lines[index - 1].bare else following != number + 1
            if (has_text and not all_lines[index - 1].bare) or (is_next and is_missing):
                raise lines.refused(name, all_lines, index, NUMBER_ALONE)
        has_text = has_text or bool(value)
