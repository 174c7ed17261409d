"""Translation of files: texts line by line, as a stream; subtitles as whole files. Independent of models."""

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
"""Maps lines to their translations, one to one and in order; reads only a few lines ahead."""

TEXT = ("", ".txt")  # suffixes of files with one text per line
SUBTITLES: dict[str, Form] = {".srt": "srt", ".vtt": "vtt", ".ass": "ass", ".ssa": "ass"}


def lines(file: BinaryIO, name: str) -> Iterator[str]:
    """The decoded lines of a stream, without line ends. Raises a UserError for a line that is not Unicode text."""
    for _, line in lines_of(file, name):
        if isinstance(line, UserError):
            raise line
        yield line


def of_file(path: Path) -> Iterator[str]:
    """The lines of a file. Raises a UserError if it is not a file, or for a line that is not Unicode text."""
    _check(path)
    with path.open("rb") as file:
        yield from lines(file, str(path))


def targets(sources: list[Path], out: Path | None, language: str) -> list[Path]:
    """The files for the translations: NAME.LANG.srt next to each NAME.srt or in the folder `out`; or the file `out`.

    Raises a UserError for files that cannot be translated, or if a translation would overwrite another file.
    """
    known = (*TEXT, *SUBTITLES)
    for source in sources:
        if source.suffix.lower() not in known:
            raise UserError(f"{source}: what kind of file is this? Known: {', '.join(filter(None, known))}")
    if out is not None and out.suffix.lower() in known and out.suffix and not out.is_dir():
        if len(sources) > 1:
            raise UserError(f"--out {out}: one file cannot hold {len(sources)} translations; give a folder")
        if out.suffix.lower() != sources[0].suffix.lower():
            raise UserError(f"--out {out}: the name has to end in {sources[0].suffix}, the format of {sources[0]}")
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
    """Translates a file into another of the same format, in UTF-8; warns of lines that a person should check.

    `target` is replaced only when the translation is complete. Raises a UserError if the file cannot be read.
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
    """Raises a UserError if there is no such file."""
    if source.is_dir():
        raise UserError(f"{source}: a folder; give the files in it, as {source}/*")
    if not source.is_file():
        is_there = source.exists()
        raise UserError(f"{source}: {'no file; a pipe is read as standard input' if is_there else 'no such file'}")
