"""Which recordings does a command line name, and where do their transcripts go? Knows no model."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segue.data.media import SUFFIXES
from segue.errors import UserError, some_of, warn

STANDARD_INPUT = "-"


def recordings(named: Sequence[Path]) -> list[Path]:
    """The recordings that are named: files, and those in named folders and below, in the order of their names.

    Other files in folders are left out, and said; a recording that is named twice counts once. A UserError for a folder
    without any.
    """
    found: dict[Path, None] = {}
    for path in named:
        if not path.is_dir():
            found[path] = None
            continue
        inside: list[Path] = []
        others: list[Path] = []
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    file = Path(folder, name)
                    (inside if file.suffix.lower() in SUFFIXES else others).append(file)
        if not inside:
            raise UserError(f"{path}: a folder without recordings (files that end in wav, flac, ogg, mp3 ...)")
        if others:
            warn(f"{path}: {len(others)} files that are no recordings left out:\n{some_of(list(map(str, others)), 3)}")
        found.update(dict.fromkeys(inside))
    if len(found) < len(named) and not any(path.is_dir() for path in named):
        warn("recordings that are named more than once are transcribed once")
    return list(found)


def targets(paths: Sequence[Path], out: Path, suffix: str) -> list[Path]:
    """A file in the folder `out` for the transcript of each recording, none of them twice.

    It is named as the recording; where several have one name, their folders are kept below `out`, and where even those
    are the same, the recording's suffix. A UserError where one would be written over a recording.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file; the name of a folder is wanted")
    names = [Path("standard_input") if str(path) == STANDARD_INPUT else Path(path.name) for path in paths]
    stems = [name.with_suffix("") for name in names]
    several = _several(stems)
    if several:
        folders = [Path() if str(path) == STANDARD_INPUT else path.absolute().parent for path in paths]
        common = os.path.commonpath([folder for folder in folders if folder.is_absolute()])
        for index in several:
            stems[index] = Path(os.path.relpath(folders[index], common), stems[index])
        for index in _several(stems):
            stems[index] = stems[index].with_name(names[index].name)
    found = [out / stem.with_name(f"{stem.name}.{suffix}") for stem in stems]
    again = _several(found)
    if again:
        raise UserError(f"{found[again[0]]}: the transcript of two recordings; give one of them another name")
    for index in several:
        warn(f"{paths[index]}: its name is not the only one; its transcript is {found[index]}")
    sources = {path.resolve() for path in paths}
    for path in found:
        if path.resolve() in sources:
            raise UserError(f"{path}: is a recording that is to be read; give another --out")
    return found


def _several(paths: Sequence[Path]) -> list[int]:
    """Which of `paths` are not the only ones of their name, where capitals are not told apart."""
    keys = [str(path).casefold() for path in paths]
    counts = Counter(keys)
    return [index for index, key in enumerate(keys) if counts[key] > 1]


@contextmanager
def local(path: Path) -> Iterator[Path]:
    """A file with what `path` gives: itself, or a copy of what comes from standard input or another pipe.

    A UserError from inside names `path`, not the copy.
    """
    is_input = str(path) == STANDARD_INPUT
    if not is_input and (path.is_file() or not path.exists() or path.is_dir()):
        yield path
        return
    if is_input and sys.stdin is None:
        raise UserError("-: standard input is closed")
    if is_input and sys.stdin.isatty():
        raise UserError("-: standard input is a terminal; send a recording there: segue transcribe MODEL - < FILE")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "recording")
        with copy.open("wb") as written:
            if is_input:
                shutil.copyfileobj(sys.stdin.buffer, written)
            else:
                with path.open("rb") as pipe:
                    shutil.copyfileobj(pipe, written)
        try:
            yield copy
        except UserError as problem:
            raise UserError(str(problem).replace(str(copy), "standard input" if is_input else str(path))) from None


class LowRates:
    """Says, once, that a recording has a lower rate than what the model learned from."""

    def __init__(self, wanted_hz: int, consequence: str) -> None:
        self._wanted_hz, self._consequence, self._is_said = wanted_hz, consequence, False

    def say(self, path: Path, rate_hz: int) -> None:
        """Of a recording."""
        if rate_hz < self._wanted_hz and not self._is_said:
            self._is_said = True
            warn(
                f"{path}: has {rate_hz} samples a second, the model learned from {self._wanted_hz}: what lies above "
                f"{rate_hz // 2} Hz is not there, and {self._consequence} (said once)"
            )
