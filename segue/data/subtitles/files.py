"""How is a subtitle file taken apart, so that all but its words stays as it was, and put together again?

Other libraries renumber cues, sort them, round times, and drop positions, identifiers, notes,
style sheets, comments in a script's head, and tags that they do not know; a line of times that they cannot read
becomes words.
"""

from collections.abc import Sequence
from typing import NamedTuple

from segue.data.subtitles import ass, lines, srt, vtt
from segue.data.subtitles.lines import Form
from segue.errors import UserError

_READERS = {"srt": srt.read, "vtt": vtt.read, "ass": ass.read}
_NAMES = {"srt": "SubRip", "vtt": "WebVTT", "ass": "SubStation Alpha"}


class Cue(NamedTuple):
    """One text of a file and when it is seen."""

    start: int
    """Milliseconds, as `end`."""

    end: int
    body: str
    """Text as the file writes it, with tags, without white space around it, with "\\n" for line ends."""

    place: tuple[str, ...]
    """Style, speaker and position: a sentence goes on only in a cue of the same place."""

    is_generated: bool = False
    """Whether its text is a made effect: syllables, nothing to translate."""

    is_odd: bool = False
    """Whether its times are written so that not every player reads them."""


class File(NamedTuple):
    """A file as cues and all that stands around their texts."""

    form: Form
    """What it holds, whatever its name says."""

    cues: list[Cue]
    around: list[str]
    """What stands before the first text, between any two and behind the last: one more than cues."""

    raw: list[str]
    """The texts of the cues with the file's own line ends."""

    line_end: str
    remarks: list[str]
    """What is odd about the file as a whole."""


def read(text: str, form: Form, name: str = "the file") -> File:
    """The cues of the file `name`; a UserError with its line for what cannot be read, or where text has no cue."""
    found_form = _form_of(text, form)
    found, num_outside = _READERS[found_form](text, name)
    if not found and lines.bare(text) and not _has_heading(text, found_form):
        raise UserError(f"{name}: no subtitle with its times is found: is this a file of the form {form}?")
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
        remarks.append(f"it holds {_NAMES[found_form]}, not {_NAMES[form]} as its name says, and stays so")
    elif form == "vtt" and found and not _has_heading(text, form):
        remarks.append("it does not begin with WEBVTT: players will not read it")
    if not found:
        remarks.append("there are no subtitles in it")
    if num_outside:
        remarks.append(f"blocks that belong to no cue, and stay as they were: {num_outside}")
    return File(found_form, cues, [*around, text[position:]], raw, _line_end(text), remarks)


def write(file: File, bodies: Sequence[str | None]) -> str:
    """The file with other texts, one a cue; None leaves one as it was, to the last byte."""
    parts = [file.around[0]]
    for before, new, after in zip(file.raw, bodies, file.around[1:], strict=True):
        parts += [before if new is None else new.replace("\n", file.line_end), after]
    return "".join(parts)


def holds_times(body: str) -> bool:
    """Whether a line of a text in SubRip or WebVTT would be taken for the times of another cue."""
    found = [lines.bare(line) for line in body.split("\n")]
    return any(line and (lines.times_of(line) or lines.is_like_times(line)) for line in found)


def _line_end(text: str) -> str:
    """The line end that most lines have."""
    num_both = text.count("\r\n")
    counts = {"\n": text.count("\n") - num_both, "\r\n": num_both, "\r": text.count("\r") - num_both}
    return max(counts, key=lambda end: counts[end])


def _form_of(text: str, form: Form) -> Form:
    """What a file of the suffix `form` holds, by its first line, or else by how most of its times are written."""
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
