"""Recordings named on the command line, and the files for their results. Independent of models."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segue.data.media import SUFFIXES
from segue.errors import UserError, count_of, some_of, warn
from segue.files import check_folder, say_replaced

STANDARD_INPUT = "-"


def recordings(named: Sequence[Path]) -> list[Path]:
    """The given files, and the recordings in the given folders and below, sorted by name within each folder.

    Other files in folders are skipped with a warning; a recording that is given twice counts once. Raises a UserError
    for a folder without recordings.
    """
    found: dict[Path, None] = {}
    for path in named:
        if not path.is_dir():
            found[path] = None
            continue
        inside: list[Path] = []
        others: list[Path] = []
        for folder, folders, names in os.walk(path, onerror=_refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    file = Path(folder, name)
                    (inside if file.suffix.lower() in SUFFIXES else others).append(file)
        if not inside:
            raise UserError(f"{path}: a folder without recordings (files that end in wav, flac, ogg, mp3 ...)")
        if others:
            said = count_of(len(others), "file that is not a recording", "files that are not recordings")
            warn(f"{path}: {said} left out:\n{some_of(list(map(str, others)), 3)}")
        found.update(dict.fromkeys(inside))
    if len(found) < len(named) and not any(path.is_dir() for path in named):
        warn("recordings that are named more than once are transcribed once")
    return list(found)


def _refuse(error: OSError) -> None:
    """Folders that cannot be read are not skipped silently."""
    raise UserError(f"{error.filename}: cannot read this folder: {error.strerror}")


def targets(paths: Sequence[Path], out: Path, suffix: str, read: Sequence[Path] = ()) -> list[Path]:
    """A file in the folder `out` for the result of each recording, all of them different.

    It is named like the recording. If several recordings have the same name, their folders are reproduced below `out`;
    if these are the same, too, the name keeps the recording's suffix. Parts of one recording, as in manifests, are
    numbered. Raises a UserError if a result would overwrite a recording, or one of the other files that are `read`;
    warns of other files that are replaced.
    """
    check_folder("--out", out)
    files = list(dict.fromkeys(paths))
    names = [Path("standard_input") if str(path) == STANDARD_INPUT else Path(path.name) for path in files]
    stems = [name.with_suffix("") for name in names]
    several = _several(stems)
    if several:
        folders = [Path() if str(path) == STANDARD_INPUT else path.absolute().parent for path in files]
        common = os.path.commonpath([folder for folder in folders if folder.is_absolute()])
        for index in several:
            stems[index] = Path(os.path.relpath(folders[index], common), stems[index])
        for index in _several(stems):
            stems[index] = stems[index].with_name(names[index].name)
    stem_of, counts, seen = dict(zip(files, stems, strict=True)), Counter(paths), Counter[Path]()
    found: list[Path] = []
    for path in paths:
        seen[path] += 1
        part = "" if counts[path] == 1 else f"_{seen[path]:04}"
        found.append(out / stem_of[path].with_name(f"{stem_of[path].name}{part}.{suffix}"))
    again = _several(found)
    if again:
        raise UserError(f"{found[again[0]]}: the result of two recordings; give one of them another name")
    if several:
        target = found[paths.index(files[several[0]])]
        more = f"; so it is with {len(several) - 1:,} more" if several[1:] else ""
        warn(f"{files[several[0]]}: another recording has the same name; its result is {target}{more}")
    sources = {path.resolve() for path in (*paths, *read)}
    for path in found:
        if path.resolve() in sources:
            raise UserError(f"{path}: is to be read; give another --out")
    say_replaced(found, warn)
    return found


def _several(paths: Sequence[Path]) -> list[int]:
    """Indices of `paths` that occur more than once, ignoring case."""
    keys = [str(path).casefold() for path in paths]
    counts = Counter(keys)
    return [index for index, key in enumerate(keys) if counts[key] > 1]


@contextmanager
def local(path: Path) -> Iterator[Path]:
    """A file with the content of `path`: itself, or a temporary copy of standard input or another pipe.

    UserErrors raised inside name `path` instead of the copy.
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
    """Warns, once, of recordings with a lower sampling rate than the training data of the model."""

    def __init__(self, wanted_hz: int, consequence: str) -> None:
        self._wanted_hz, self._consequence, self._is_said = wanted_hz, consequence, False

    def say(self, path: Path, rate_hz: int) -> None:
        """Checks the sampling rate of a recording."""
        if rate_hz < self._wanted_hz and not self._is_said:
            self._is_said = True
            warn(
                f"{path}: sampled at {rate_hz} Hz, the model was trained at {self._wanted_hz} Hz: frequencies above "
                f"{rate_hz // 2} Hz are missing, and {self._consequence} (reported once)"
            )
