"""Who speaks when? Turns, and their file format RTTM (https://github.com/nryant/dscore#rttm)."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from segue.errors import UserError

FIELDS = 9


class Turn(NamedTuple):
    """A stretch of time in which one speaker speaks."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    speaker: str


def rttm(turns: Iterable[Turn], name: str) -> str:
    """The lines of an RTTM file about the recording `name`. White space in names becomes an underscore."""
    return "".join(
        f"SPEAKER {_field(name)} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {_field(turn.speaker)} "
        "<NA> <NA>\n"
        for turn in turns
    )


def write_rttm(path: Path, turns: Iterable[Turn]) -> None:
    """Writes an RTTM file about the recording that is named like it."""
    path.write_text(rttm(turns, path.stem), encoding="utf-8", newline="\n")


def read_rttm(path: Path) -> list[Turn]:
    """The turns of an RTTM file about one recording, by start. Raises a UserError that names a wrong line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    found, names = list[Turn](), set[str]()
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith(";") or fields[0] == "SPKR-INFO":
            continue
        if fields[0] != "SPEAKER" or len(fields) < FIELDS:
            raise UserError(f"{path}:{number}: not a line of RTTM: SPEAKER FILE 1 START SECONDS <NA> <NA> NAME <NA>")
        try:
            start, seconds = float(fields[3]), float(fields[4])
        except ValueError:
            raise UserError(f"{path}:{number}: start and duration in seconds wanted, got {fields[3:5]}") from None
        if not (start >= 0 and 0 <= seconds < float("inf")):
            raise UserError(f"{path}:{number}: start and duration in seconds wanted, got {fields[3:5]}")
        names.add(fields[1])
        if seconds:
            found.append(Turn(start, start + seconds, fields[7]))
    if len(names) > 1:
        raise UserError(f"{path}: of several recordings ({', '.join(sorted(names)[:3])}); one file each is wanted")
    return sorted(found)


def _field(text: str) -> str:
    return "_".join(text.split()) or "_"
