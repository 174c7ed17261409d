"""How is a subtitle file taken apart, so that all but its words stays as it was?

pysubs2 reads the times. Its writers are not used here: they renumber cues, sort them, round times, and drop positions,
identifiers, notes, style sheets, comments in a script's head, and tags that they do not know.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pysubs2.formats.subrip import SubripFormat
from pysubs2.formats.webvtt import WebVTTFormat
from pysubs2.time import TIMESTAMP, timestamp_to_ms

from segue.errors import UserError

Form = Literal["srt", "vtt", "ass"]

_READERS = {"srt": SubripFormat, "vtt": WebVTTFormat}
_TIMING = {
    form: re.compile(
        rf"^[^\S\n]*-?{reader.TIMESTAMP.pattern}[^\w\n]{{1,20}}{reader.TIMESTAMP.pattern}([^\n]*)$", re.MULTILINE
    )
    for form, reader in _READERS.items()
}
_EVENT = re.compile(r"^[^\S\n]*(?:(Format)|Dialogue):([^\n]*)$", re.MULTILINE)
_EVENT_FIELDS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
_IS_DRAWING = re.compile(r"\\p[1-9]")
_GENERATED = frozenset(["fx", "karaoke"])  # what Aegisub's templater makes and reads: syllables, not sentences


class Cue(NamedTuple):
    """One text of a file and when it is seen."""

    start: int
    """Milliseconds, as `end`."""

    end: int
    body: str
    """Text as the file writes it, with tags, without white space around it."""

    place: tuple[str, ...]
    """Style, speaker and position: a sentence goes on only in a cue of the same place."""

    skipped: Literal["", "drawing", "effect"]
    """Why its text is nothing to translate, if so."""


class File(NamedTuple):
    """A file as cues and all that stands around their texts."""

    cues: list[Cue]
    around: list[str]
    """What stands before the first text, between any two and behind the last: one more than cues."""

    line_end: str
    num_outside: int
    """Blocks of text that belong to no cue: no player shows them."""


def read(text: str, form: Form) -> File:
    """The cues of a file; a UserError where it holds text but no cue."""
    line_end = "\r\n" if "\r\n" in text else "\r" if "\r" in text and "\n" not in text else "\n"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    cues: list[Cue] = []
    around: list[str] = []
    position = num_outside = 0
    found = _events(text) if form == "ass" else _timed(text, form)
    for cue, start, outside in found:
        cues.append(cue)
        around.append(text[position:start])
        position = start + len(cue.body)
        num_outside += outside
    around.append(text[position:])
    is_of_form = {"srt": False, "vtt": text.lstrip().startswith("WEBVTT"), "ass": "[script info]" in text.lower()}[form]
    if not cues and text.strip() and not is_of_form:
        raise UserError(f"no subtitle with its times is found: is this a file of the form {form}?")
    return File(cues, around, line_end, num_outside)


def write(file: File, bodies: Sequence[str]) -> str:
    """The file with other texts, one a cue."""
    assert len(bodies) == len(file.cues)
    parts = [part for pair in zip(file.around, bodies, strict=False) for part in pair]
    return "".join([*parts, file.around[-1]]).replace("\n", file.line_end)


def _timed(text: str, form: Literal["srt", "vtt"]) -> list[tuple[Cue, int, int]]:
    """Cues of SubRip or WebVTT, where the text of each starts, and how many blocks follow it that are of no cue."""
    reader = _READERS[form]
    timings = list(_TIMING[form].finditer(text))
    found = []
    for number, timing in enumerate(timings):
        is_last = number + 1 == len(timings)
        end = len(text) if is_last else timings[number + 1].start()
        chunk = text[timing.end() : end]
        num_outside = 0
        if form == "vtt" and "\n\n" in chunk:  # the standard: an empty line ends a cue
            chunk, _, rest = chunk.partition("\n\n")
            num_outside = _count_outside(rest, is_last)
        elif not is_last:
            chunk = chunk[: _before_number(chunk)]
        body = chunk.strip()
        groups = timing.groups()
        cue = Cue(
            reader.timestamp_to_ms(groups[0:4]), reader.timestamp_to_ms(groups[4:8]), body, (groups[8].strip(),), ""
        )
        found.append((cue, timing.end() + len(chunk) - len(chunk.lstrip()) if body else timing.end(), num_outside))
    return found


def _before_number(chunk: str) -> int:
    """Where what follows a line of times ends, without the number of the next cue, which is its last line."""
    stripped = chunk.rstrip()
    line = stripped.rfind("\n") + 1
    before = stripped[:line][:-1]
    stands_on_times = chunk[len(stripped) :].count("\n") == 1
    stands_apart = "\n" in before and not before.rpartition("\n")[2].strip()
    return line if stripped[line:].strip().isdecimal() and (stands_on_times or stands_apart) else len(chunk)


def _count_outside(rest: str, is_last: bool) -> int:
    """Blocks that are neither a note, a style sheet or a region, nor the identifier of the cue that follows."""
    blocks = [block for block in rest.split("\n\n") if block.strip()]
    if blocks and not is_last and not rest.endswith("\n\n"):
        blocks.pop()
    return sum(not block.lstrip().startswith(("NOTE", "STYLE", "REGION")) for block in blocks)


def _events(text: str) -> list[tuple[Cue, int, int]]:
    """The dialogue of a SubStation script, where the text of each event starts, and 0."""
    fields = _EVENT_FIELDS
    found = []
    for line in _EVENT.finditer(text):
        if line[1]:
            fields = [name.strip().lower() for name in line[2].split(",")]
            continue
        values = line[2].split(",", len(fields) - 1)
        row = dict(zip(fields, values, strict=False))
        start, end = (TIMESTAMP.match(row.get(name, "").strip().lstrip("-")) for name in ("start", "end"))
        if start is None or end is None or fields[-1] != "text" or len(values) != len(fields):
            number = text.count("\n", 0, line.start()) + 1
            raise UserError(f"line {number}: no event with Start, End and Text as its Format line says: {line[0][:60]}")
        body = row["text"].strip()
        is_drawing = any(_IS_DRAWING.search(part.rpartition("{")[2]) for part in body.split("}")[:-1])
        is_generated = row.get("effect", "").strip().lower() in _GENERATED
        place = tuple(value.strip() for name, value in row.items() if name not in ("start", "end", "text", "effect"))
        cue = Cue(
            timestamp_to_ms(start.groups()),
            timestamp_to_ms(end.groups()),
            body,
            place,
            "drawing" if is_drawing else "effect" if is_generated else "",
        )
        found.append((cue, line.end() - len(row["text"].lstrip()), 0))
    return found
