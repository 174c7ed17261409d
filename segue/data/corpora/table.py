"""Tables with a header: csv or tsv, an example a row, as Common Voice, OpenSeq2Seq and others write them.

SOURCE is one table, or a folder with train, dev and test; each may end in .gz. A row is an audio file and its text, or,
where there is no column of audio files, a text and its translation. Audio paths are relative to the table, or to its
`clips/`.
"""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from segue.data.corpora import Example, measured
from segue.data.corpora.splits import SplitOptions, divide, sources, unpacked_or_packed
from segue.data.examples import Pair, Utterance
from segue.data.manifest import read_content
from segue.errors import UserError

AUDIO = ("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav_filename")
TEXT = ("text", "sentence", "transcript", "transcription")
SPEAKER = ("speaker", "speaker_id", "client_id")
SOURCE = ("source", "src")
TARGET = ("target", "tgt")

Row = dict[str, str]
Reader = Callable[[Row, str], Utterance | Pair | UserError]
"""A row and its `file:line` -> its example."""


class Options(SplitOptions):
    """Tables with a header."""

    audio: str | None = None
    """Name of the column of audio paths; usual names are found."""
    text: str | None = None
    """Name of the column of texts; usual names are found."""
    speaker: str | None = None
    """Name of the column of speakers; usual names are found, and there may be none."""
    source: str | None = None
    """Name of the column of texts to translate; usual names are found."""
    target: str | None = None
    """Name of the column of translations; usual names are found."""
    source_language: str | None = None
    """Language of rows that a column source_language does not give one."""
    target_language: str | None = None
    """Language of rows that a column target_language does not give one."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Rows of all tables."""
    del out
    suffix = ".tsv" if unpacked_or_packed(source / "train.tsv") else ".csv"
    rows = (row for split, table in sources(source, suffix).items() for row in _rows(split, table, options))
    yield from divide(rows, options)


def _rows(split: str, table: Path, options: Options) -> Iterator[Example]:
    try:
        content = read_content(table, "table").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{table}:{line}: not UTF-8") from None
    # Tab-separated tables seldom quote, and their texts may hold quotation marks.
    is_tab = table.name.removesuffix(".gz").endswith(".tsv")
    reader = csv.DictReader(
        io.StringIO(content),  # not a list of lines: a quoted text may hold line ends
        delimiter="\t" if is_tab else ",",
        quoting=csv.QUOTE_NONE if is_tab else csv.QUOTE_MINIMAL,
        strict=True,  # an open quote would swallow the rest of the table
    )
    columns = list(reader.fieldnames or [])
    read = _pair_reader(table, columns, options) or _utterance_reader(table, columns, options)
    try:
        for row in reader:
            origin = f"{table}:{reader.line_num}"
            if any(row.get(None, ())):
                yield split, UserError(f"{origin}: more columns than the header; quote texts that hold the separator")
                continue
            yield split, read(row, origin)
    except csv.Error as error:
        raise UserError(f"{table}:{reader.line_num + 1}: {error}") from None


def _utterance_reader(table: Path, columns: list[str], options: Options) -> Reader:
    hint = "a header line, or source=NAME target=NAME for text pairs, or for speech "
    audio_column = _column(table, "audio", columns, options.audio, AUDIO, hint=hint)
    text_column = _column(table, "text", columns, options.text, TEXT)
    speaker_column = _column(table, "speaker", columns, options.speaker, SPEAKER, is_needed=False)

    def read(row: Row, origin: str) -> Utterance | UserError:
        name, text = row[audio_column], row[text_column]
        if not name or text is None:
            return UserError(f"{origin}: {audio_column if not name else text_column}: missing")
        file = table.parent / name
        if not file.is_file() and (table.parent / "clips" / name).is_file():
            file = table.parent / "clips" / name
        return measured(file, text, origin, row.get(speaker_column) or None)

    return read


def _pair_reader(table: Path, columns: list[str], options: Options) -> Reader | None:
    """What reads text pairs, where the options or the columns say that the table holds some."""
    is_asked = options.source is not None or options.target is not None
    is_speech = options.audio is not None or any(name in columns for name in AUDIO)
    if not is_asked and (is_speech or not any(name in columns for name in (*SOURCE, *TARGET))):
        return None
    wanted = (("source", options.source, SOURCE), ("target", options.target, TARGET))
    texts = [_column(table, key, columns, asked, usual) for key, asked, usual in wanted]

    def read(row: Row, origin: str) -> Pair | UserError:
        empty = next((column for column in texts if not (row[column] or "").strip()), None)
        if empty is not None:
            return UserError(f"{origin}: {empty}: {'missing' if row[empty] is None else 'empty'}")
        source_language = row.get("source_language") or options.source_language
        target_language = row.get("target_language") or options.target_language
        return Pair(origin, row[texts[0]], row[texts[1]], (), source_language, target_language, origin)

    return read


def _column(
    table: Path,
    key: str,
    columns: list[str],
    asked: str | None,
    usual: tuple[str, ...],
    *,
    is_needed: bool = True,
    hint: str = "",
) -> str:
    """The name of a column; "" where it is not needed and not there."""
    candidates = usual if asked is None else (asked,)
    found = next((name for name in candidates if name in columns), "")
    if not found and (is_needed or asked is not None):
        raise UserError(
            f"{table}:1: no column {' or '.join(candidates)}; give {hint}{key}=NAME (columns: {', '.join(columns)})"
        )
    return found
