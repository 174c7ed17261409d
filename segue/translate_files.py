"""How are files translated? Lines of text, in a stream; subtitles, as whole files. Knows no model."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from segue.data.encodings import lines_of
from segue.data.subtitles import translation
from segue.data.subtitles.lines import Form
from segue.data.subtitles.translation import Shape
from segue.errors import UserError, warn
from segue.files import replacing
from segue.progress import progress

Translate = Callable[[Iterable[str]], Iterator[str]]
"""Lines to their translations, in order, one for one, reading few lines ahead."""

TEXT = ("", ".txt")  # suffixes of files that hold a text a line
SUBTITLES: dict[str, Form] = {".srt": "srt", ".vtt": "vtt", ".ass": "ass", ".ssa": "ass"}


def lines(file: BinaryIO, name: str) -> Iterator[str]:
    """The lines of a stream in Unicode, without their ends; a UserError names one that is not."""
    for _, line in lines_of(file, name):
        if isinstance(line, UserError):
            raise line
        yield line


def of_file(path: Path) -> Iterator[str]:
    """The lines of a file; a UserError where it is none, or names one that is not Unicode."""
    _check(path)
    with path.open("rb") as file:
        yield from lines(file, str(path))


def targets(sources: list[Path], out: Path | None, language: str) -> list[Path]:
    """Where the translations go: NAME.LANG.srt beside each NAME.srt or in the folder `out`; or the one file `out`.

    Raises a UserError for files that cannot be translated, and where one would be written over another.
    """
    known = (*TEXT, *SUBTITLES)
    for source in sources:
        if source.suffix.lower() not in known:
            raise UserError(f"{source}: what kind of file is this? Known: {', '.join(filter(None, known))}")
    if out is not None and out.suffix.lower() in known and out.suffix and not out.is_dir():
        if len(sources) > 1:
            raise UserError(f"--out {out}: one file cannot hold {len(sources)} translations; give a folder")
        if out.suffix.lower() != sources[0].suffix.lower():
            raise UserError(
                f"--out {out}: {sources[0]} stays of its kind, so the name has to end in {sources[0].suffix}"
            )
        found = [out]
    else:
        names = [f"{source.stem}.{language}{source.suffix}" for source in sources]
        found = [(source.parent if out is None else out) / name for source, name in zip(sources, names, strict=True)]
    taken = [path.resolve() for path in sources]
    for path in found:
        if path.resolve() in taken:
            raise UserError(f"{path}: is to be read or written already; give another --out")
        taken.append(path.resolve())
    return found


def translate(source: Path, target: Path, translator: Translate, shape: Shape) -> None:
    """Translates a file into another of its kind, in UTF-8; warns of what a person should look at.

    `target` is replaced at once when all of it is done. A UserError if the file cannot be read.
    """
    _check(source)
    with replacing(target) as partial, partial.open("w", encoding="utf-8", newline="") as written:
        if source.suffix.lower() in TEXT:
            for line in progress(translator(of_file(source)), f"translates {source.name}", unit="lines"):
                written.write(line + "\n")
            return
        form = SUBTITLES[source.suffix.lower()]

        def every(texts: list[str]) -> list[str]:
            return list(progress(translator(texts), f"translates {source.name}", len(texts), "sentences"))

        found = translation.translate(source.read_bytes(), form, every, shape, str(source))
        for warning in found.warnings:
            warn(f"{source}: {warning}")
        written.write(found.text)


def _check(source: Path) -> None:
    """A UserError where there is no such file."""
    if source.is_dir():
        raise UserError(f"{source}: a folder; give the files in it, as {source}/*")
    if not source.is_file():
        is_there = source.exists()
        raise UserError(f"{source}: {'no file; a pipe is read as standard input' if is_there else 'no such file'}")
