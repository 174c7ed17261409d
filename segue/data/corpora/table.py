"""Tables with a header: csv or tsv, an audio file and its text a row, as Common Voice and OpenSeq2Seq write them.

SOURCE is one table, or a folder with train, dev and test. Audio paths are relative to the table, or to its `clips/`.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, measured
from segue.data.corpora.splits import SplitOptions, divide, sources
from segue.errors import UserError

AUDIO = ("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav_filename")
TEXT = ("text", "sentence", "transcript", "transcription")
SPEAKER = ("speaker", "speaker_id", "client_id")


class Options(SplitOptions):
    """Tables with a header."""

    audio: str | None = None
    """Name of the column of audio paths; usual names are found."""
    text: str | None = None
    """Name of the column of texts; usual names are found."""
    speaker: str | None = None
    """Name of the column of speakers; usual names are found, and there may be none."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Rows of all tables."""
    del out
    suffix = ".tsv" if (source / "train.tsv").is_file() else ".csv"
    rows = (row for split, table in sources(source, suffix).items() for row in _rows(split, table, options))
    yield from divide(rows, options)


def _rows(split: str, table: Path, options: Options) -> Iterator[Example]:
    try:
        content = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{table}: not UTF-8") from None
    except OSError as error:
        raise UserError(f"{table}: cannot read this table: {error.strerror}") from None
    # Tab-separated tables seldom quote, and their texts may hold quotation marks.
    is_tab = table.suffix == ".tsv"
    reader = csv.DictReader(
        io.StringIO(content),  # not a list of lines: a quoted text may hold line ends
        delimiter="\t" if is_tab else ",",
        quoting=csv.QUOTE_NONE if is_tab else csv.QUOTE_MINIMAL,
        strict=True,  # an open quote would swallow the rest of the table
    )
    columns = list(reader.fieldnames or [])
    audio_column = _column(table, "audio", columns, options.audio, AUDIO)
    text_column = _column(table, "text", columns, options.text, TEXT)
    speaker_column = _column(table, "speaker", columns, options.speaker, SPEAKER, is_needed=False)
    try:
        for row in reader:
            origin = f"{table}:{reader.line_num}"
            name, text = row[audio_column], row[text_column]
            if not name or text is None:
                yield split, UserError(f"{origin}: {audio_column if not name else text_column}: missing")
                continue
            if any(row.get(None, ())):
                yield split, UserError(f"{origin}: more columns than the header; quote texts that hold the separator")
                continue
            file = table.parent / name
            if not file.is_file() and (table.parent / "clips" / name).is_file():
                file = table.parent / "clips" / name
            yield split, measured(file, text, origin, row.get(speaker_column) or None)
    except csv.Error as error:
        raise UserError(f"{table}:{reader.line_num + 1}: {error}") from None


def _column(
    table: Path, key: str, columns: list[str], asked: str | None, usual: tuple[str, ...], *, is_needed: bool = True
) -> str:
    """The name of a column; "" where it is not needed and not there."""
    candidates = usual if asked is None else (asked,)
    found = next((name for name in candidates if name in columns), "")
    if not found and (is_needed or asked is not None):
        raise UserError(
            f"{table}:1: no column {' or '.join(candidates)}; give {key}=NAME (columns: {', '.join(columns)})"
        )
    return found
