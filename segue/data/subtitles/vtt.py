"""How is a WebVTT file parsed? By the standard, and where players differ from it, as subtitle editors do.

https://www.w3.org/TR/webvtt1/: blocks end at an empty line; the times may be preceded by an identifier.
"""

import re

from segue.data.subtitles import lines, srt
from segue.data.subtitles.lines import Found, Line

_CLOCK = r"(?:\d{2,}:)?\d\d:\d\d\.\d{3}"
_STANDARD = re.compile(rf"{_CLOCK}[ \t]*-->[ \t]*{_CLOCK}(?:[ \t].*)?", re.ASCII)
_HEADER = re.compile(r"WEBVTT(?:\s.*)?")
_NO_CUE = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s.*)?|REGION:.*")

NO_TIMES = "times that cannot be read; write them as 00:00:05.000 --> 00:00:07.000"


def is_header(line: str) -> bool:
    """Whether the bare line is the first line of a WebVTT file."""
    return bool(_HEADER.fullmatch(line))


def read(text: str, name: str) -> tuple[list[Found], int]:
    """The cues of the file `name`, and the number of blocks outside of cues.

    Notes, style sheets and regions end at the next empty line, whatever they contain. Commas in times, and numbers
    without an empty line before them, are accepted; a block after an empty cue is its text. Raises a UserError with the
    line if times cannot be parsed.
    """
    all_lines = lines.split(text)
    found: list[Found] = []
    num_outside = 0
    for start, stop in _blocks(all_lines):
        first = start
        heading = all_lines[start].bare
        if _NO_CUE.fullmatch(heading):
            continue
        if _HEADER.fullmatch(heading):
            first = next((i for i in range(start, stop) if lines.times_of(all_lines[i].bare)), stop)
        stamps = _stamps(all_lines, first, stop, name)
        if not stamps:
            if first < stop and lines.number_of(heading) is None:
                if found and found[-1].begin == found[-1].stop:
                    begin, end = lines.within(text, all_lines, start, stop)
                    found[-1] = found[-1]._replace(begin=begin, stop=end)
                else:
                    num_outside += 1
            continue
        num_outside += stamps[0] > first + 1
        for index, following in zip(stamps, [*stamps[1:], stop], strict=True):
            last = following
            if following < stop and lines.number_of(all_lines[following - 1].bare) is not None:
                last = max(index + 1, following - 1)
            times = lines.times_of(all_lines[index].bare)
            assert times is not None
            line = all_lines[index]
            is_odd = not _STANDARD.fullmatch(text[line.start : line.end].strip())
            found.append(Found(times, *lines.within(text, all_lines, index + 1, last), (times.settings,), is_odd))
    return found, num_outside


def _blocks(all_lines: list[Line]) -> list[tuple[int, int]]:
    """(first, end) of blocks; only a line without any character, even a space, ends a block."""
    found = []
    start = 0
    for index in range(len(all_lines) + 1):
        if index == len(all_lines) or all_lines[index].start == all_lines[index].end:
            while start < index and not all_lines[start].bare:
                start += 1
            if start < index:
                found.append((start, index))
            start = index + 1
    return found


def _stamps(all_lines: list[Line], first: int, stop: int, name: str) -> list[int]:
    """The lines with times in a block."""
    found: list[int] = []
    for index in range(first, stop):
        line = all_lines[index].bare
        if not line:
            continue
        is_expected = index == first or (index == first + 1 and not found)
        times = lines.times_of(line)
        if times and (times.is_full or is_expected):
            if times.settings and ":" not in times.settings.split(maxsplit=1)[0]:
                raise lines.refused(name, all_lines, index, srt.WORDS_BEHIND)
            found.append(index)
        elif lines.is_like_times(line, is_expected) or (is_expected and "-->" in line):
            raise lines.refused(name, all_lines, index, NO_TIMES)
    return found
