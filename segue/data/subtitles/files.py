"""How is a subtitle file split into cues and put together again, with everything but the words unchanged?

Not by a library, since these renumber and sort cues, round times, and drop positions, identifiers, notes, style sheets,
comments in a script's head, and unknown tags; lines of times that they cannot parse become text.
"""

from collections.abc import Sequence
from typing import NamedTuple

from segue.data.subtitles import ass, lines, srt, vtt
from segue.data.subtitles.lines import Form
from segue.errors import UserError

_READERS = {"srt": srt.read, "vtt": vtt.read, "ass": ass.read}
_NAMES = {"srt": "SubRip", "vtt": "WebVTT", "ass": "SubStation Alpha"}


class Cue(NamedTuple):
    """One text of a file and when it is shown."""

    start: int
    """Milliseconds, as `end`."""

    end: int
    body: str
    """Text as in the file, with tags, without surrounding white space, with "\\n" for line ends."""

    place: tuple[str, ...]
    """Style, speaker and position: a sentence can continue only in a cue with the same ones."""

    is_generated: bool = False
    """Whether its text is a generated effect: syllables, which are not translated."""

    is_odd: bool = False
    """Whether its times are in a format that not every player reads."""


class File(NamedTuple):
    """A file as cues and everything around their texts."""

    form: Form
    """Its actual format, whatever its suffix."""

    cues: list[Cue]
    around: list[str]
    """What is before the first text, between texts and after the last: one more than cues."""

    raw: list[str]
    """The texts of the cues with the file's own line ends."""

    line_end: str
    remarks: list[str]
    """Warnings about the file as a whole."""


def read(text: str, form: Form, name: str = "the file") -> File:
    """Parses the file `name`. Raises a UserError with the line if something cannot be parsed, or if it has no cues."""
    found_form = _form_of(text, form)
    found, num_outside = _READERS[found_form](text, name)
    if not found and lines.bare(text) and not _has_heading(text, found_form):
        raise UserError(f"{name}: no subtitles with times found: is this file in the format {form}?")
    around: list[str] = []
    position = 0
    for cue in found:
        around.append(text[position : cue.begin])
        position = cue.stop
    raw = [text[cue.begin : cue.stop] for cue in found]
    cues = [
        Cue(cue.times.start, cue.times.end, lines.unified(body), cue.place, cue.is_generated, cue.is_odd)
        for cue, body in zip(found, raw, strict=True)
    ]
    remarks = []
    if found_form != form:
        remarks.append(f"it contains {_NAMES[found_form]}, not {_NAMES[form]} as its name says, and is kept so")
    elif form == "vtt" and found and not _has_heading(text, form):
        remarks.append("it does not begin with WEBVTT: players will not read it")
    if not found:
        remarks.append("there are no subtitles in it")
    if num_outside:
        remarks.append(f"blocks that belong to no cue and are left as they were: {num_outside}")
    return File(found_form, cues, [*around, text[position:]], raw, _line_end(text), remarks)


def write(file: File, bodies: Sequence[str | None]) -> str:
    """The file with new texts, one per cue; None leaves a text byte for byte unchanged."""
    parts = [file.around[0]]
    for before, new, after in zip(file.raw, bodies, file.around[1:], strict=True):
        parts += [before if new is None else new.replace("\n", file.line_end), after]
    return "".join(parts)


def holds_times(body: str) -> bool:
    """Whether a line of a SubRip or WebVTT text would be taken for the times of another cue."""
    found = [lines.bare(line) for line in body.split("\n")]
    return any(line and (lines.times_of(line) or lines.is_like_times(line)) for line in found)


def _line_end(text: str) -> str:
    """The most frequent line end."""
    num_both = text.count("\r\n")
    counts = {"\n": text.count("\n") - num_both, "\r\n": num_both, "\r": text.count("\r") - num_both}
    return max(counts, key=lambda end: counts[end])


def _form_of(text: str, form: Form) -> Form:
    """The actual format of a file with suffix `form`: by its first line, else by how most of its times are written."""
    first = _first_line(text)
    if vtt.is_header(first):
        return "vtt"
    if ass.section_of(first):
        return "ass"
    times = [line.bare for line in lines.split(text) if lines.times_of(line.bare)]
    if form == "srt" or not times:
        return form
    num_points = sum("," not in line for line in times)
    return "vtt" if form == "vtt" and 2 * num_points >= len(times) else "srt"


def _first_line(text: str) -> str:
    return next((line.bare for line in lines.split(text[:2000]) if line.bare), "")


def _has_heading(text: str, form: Form) -> bool:
    first = _first_line(text)
    return (form == "vtt" and vtt.is_header(first)) or (form == "ass" and bool(ass.section_of(first)))
