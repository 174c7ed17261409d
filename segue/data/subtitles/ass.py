"""How is a SubStation Alpha script parsed, of version 4 (ssa) or 4+ (ass)?"""

import re

from segue.data.subtitles import lines
from segue.data.subtitles.lines import Found, Times

# Fields of a script without a Format line: http://www.tcax.org/docs/ass-specs.htm. Version 4 has Marked for Layer.
_FIELDS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
_SECTION = re.compile(r"\[([^\]]*)\]")
_SECTIONS = frozenset(["script info", "v4 styles", "v4+ styles", "v4++ styles", "events", "fonts", "graphics"])
_EVENT = re.compile(r"\W*(Dialogue|Dialog|Format|Comment|Picture|Sound|Movie|Command)\s*:", re.IGNORECASE)
_CLOCK = re.compile(r"-?\d{1,9}:\d{1,2}:\d{1,2}(?:\s?[.,:;]\s?\d{1,9})?")
_COMMENT = (";", "!:")
_GENERATED = frozenset(["fx", "karaoke"])  # effects of Aegisub's karaoke templater: syllables, not sentences

NO_EVENT = "not an event with Start, End and Text as its Format line specifies"
OUTSIDE = "an event among the styles; a line [Events] is missing before it"
UNKNOWN = "a line in [Events] that is not an event; is it the rest of the one before it?"


def section_of(line: str) -> str:
    """The section that a bare line begins, in lower case; "" if none: lines of [Fonts] may look like a section."""
    match = _SECTION.fullmatch(line)
    if not match:
        return ""
    title = match[1].strip().lower()
    return title if title in _SECTIONS or any(map(str.islower, match[1])) else ""


def read(text: str, name: str) -> tuple[list[Found], int]:
    """The dialogue events of the file `name`, and 0: nothing counts as outside of cues.

    The last field of an event is its text, which may contain commas. Comments and other events are ignored. Raises a
    UserError with the line if an event cannot be parsed.
    """
    all_lines = lines.split(text)
    fields = _FIELDS
    found: list[Found] = []
    section = ""
    for index, line in enumerate(all_lines):
        if heading := section_of(line.bare):
            section = heading
            continue
        raw = text[line.start : line.end]
        event = _EVENT.match(raw)
        if section.startswith("v4") and event is not None and event[1].lower().startswith("dialog"):
            raise lines.refused(name, all_lines, index, OUTSIDE)
        if section not in ("", "events", "script info") or not line.bare or line.bare.startswith(_COMMENT):
            continue
        if event is None:
            if section == "events":
                raise lines.refused(name, all_lines, index, UNKNOWN)
            continue
        kind, offset = event[1].lower(), event.end()
        if kind == "format":
            fields = [field.strip().lower() for field in raw[offset:].split(",")]
            if fields[-1] != "text" or not {"start", "end"} <= set(fields):
                raise lines.refused(
                    name, all_lines, index, "the Format of events lacks Start or End, or Text is not last"
                )
        if not kind.startswith("dialog"):
            continue
        values = raw[offset:].split(",", len(fields) - 1)
        row = dict(zip(fields, values, strict=False))
        times = [_time(row.get(field, "")) for field in ("start", "end")]
        if len(values) != len(fields) or times[0] is None or times[1] is None:
            raise lines.refused(name, all_lines, index, NO_EVENT)
        body = values[-1].strip()
        begin = line.end - len(values[-1].lstrip())
        place = tuple(value.strip() for field, value in row.items() if field not in ("start", "end", "text", "effect"))
        is_generated = row.get("effect", "").strip().lower() in _GENERATED
        found.append(Found(Times(times[0], times[1], "", True), begin, begin + len(body), place, False, is_generated))
    return found, 0


def _time(value: str) -> int | None:
    """Milliseconds of a time with hours; None if it is not one."""
    clock = lines.bare(value)
    return lines.milliseconds(clock) if _CLOCK.fullmatch(clock) else None
