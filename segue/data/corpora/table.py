"""Tables with a header: csv or tsv, one example per row, as written by Excel, Common Voice, OpenSeq2Seq and others.

SOURCE is one table, or a folder with train, dev and test; each may end in .gz. Columns are separated by commas,
semicolons, tabs or |, whichever the header has. A row is an audio file and its text, or, without a column of audio
files, a text and its translation; with label=COLUMN an audio file or a text, and its class. Audio paths are relative to
the table, or to its `clips/`. Columns offset and duration, or start and end, in seconds, select a part of a file. A
column `split` can assign rows to train, dev and test.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from segue.data import channels
from segue.data.corpora import Example, Found, checked, measured
from segue.data.corpora.splits import SplitOptions, divide, named, sources, unpacked_or_packed
from segue.data.encodings import decode, split_lines
from segue.data.examples import Labeled, Pair, Utterance
from segue.data.manifest import read_content
from segue.data.media import SUFFIXES
from segue.data.text import seen
from segue.errors import UserError, note
from segue.files import is_file

AUDIO = ("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav_filename")
TEXT = ("text", "sentence", "transcript", "transcription")
SPEAKER = ("speaker", "speaker_id", "client_id")
LANGUAGE = ("lang", "language", "locale")
PARTS = (("offset", "duration"), ("start", "end"), ("start_time", "end_time"), ("begin", "end"))
"""Columns with the start of a part of a file, and its duration or end."""
SOURCE = ("source", "src")
TARGET = ("target", "tgt")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
OTHERS = {
    b"PK\x03\x04": "an Excel, LibreOffice or zip file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"\x1f\x8b": "a compressed file, whose name should end in .gz",
    b"PAR1": "a Parquet file",
}
_DIRECTIVE = re.compile(r'"?sep=([^\r\n"])"?\1*[^\S\r\n]*(?:\r\n|\n|\r|\Z)', re.IGNORECASE)  # an Excel extension
_LONE_RETURN = re.compile("\r(?!\n)")
_HIDDEN_RETURN = "\ufdd0"  # noncharacter for a return, which Python's reader would take for the end of a row

Row = list[str]
Reader = Callable[[Row, str], Found | UserError]
"""A row and its `file:line` -> its example."""


class Options(SplitOptions):
    """Tables with a header."""

    audio: str | None = None
    """Name of the column of audio paths; usual names are detected."""
    text: str | None = None
    """Name of the column of texts; usual names are detected."""
    speaker: str | None = None
    """Name of the column of speakers; optional, usual names are detected."""
    split: str | None = None
    """Name of the column with train, dev or test; optional, `split` is detected."""
    label: str | None = None
    """Name of the column of classes, for classification; never detected."""
    language: str | None = None
    """Language of recordings without one in a column lang, language or locale."""
    source: str | None = None
    """Name of the column of texts to translate; usual names are detected."""
    target: str | None = None
    """Name of the column of translations; usual names are detected."""
    source_language: str | None = None
    """Source language of rows without one in a column source_language."""
    target_language: str | None = None
    """Target language of rows without one in a column target_language."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Rows of all tables."""
    del out
    suffix = ".tsv" if unpacked_or_packed(source / "train.tsv") else ".csv"
    rows = (row for split, table in sources(source, suffix).items() for row in _rows(split, table, options))
    yield from divide(rows, options)


class _Header(NamedTuple):
    """The first row of a table."""

    table: Path
    line: int
    separator: str
    names: list[str]
    used: set[int]
    """Indices of the columns that are used."""

    def column(
        self, key: str, asked: str | None, usual: tuple[str, ...], *, is_needed: bool = True, hint: str = ""
    ) -> int | None:
        """Index of a column, ignoring case; None if it is missing and not needed. Raises a UserError otherwise."""
        candidates = usual if asked is None else (asked,)
        for candidate in candidates:
            places = [place for place, name in enumerate(self.names) if name.casefold() == candidate.casefold()]
            if len(places) > 1:
                raise UserError(
                    f"{self.table}:{self.line}: {len(places)} columns are named {candidate}; rename all but one"
                )
            if places:
                self.used.add(places[0])
                return places[0]
        if is_needed or asked is not None:
            raise UserError(
                f"{self.table}:{self.line}: no column {' or '.join(candidates)}; give {key}=NAME{hint} (columns, "
                f"between {SEPARATORS.get(self.separator, self.separator)}: {', '.join(self.names)})"
            )
        return None


def _rows(split: str, table: Path, options: Options) -> Iterator[Example]:
    text = _text(table)
    directive = _DIRECTIVE.match(text)
    first = 1 if directive is None else 2
    text = text if directive is None else text[directive.end() :]
    separator = _separator(table, text, options) if directive is None else directive[1]
    rows = _quoted(table, text, separator, first) if _is_quoted(text, separator) else _plain(text, separator, first)
    line, names = next((each for each in rows if any(map(seen, each[1]))), (first, []))
    if not names:
        raise UserError(f"{table}: empty: no column names, and no rows")
    header = _Header(table, line, separator, [seen(name) for name in names], set())
    _check_header(header)
    if options.label is not None:
        read = _labeled_reader(header, options)
    else:
        read = _pair_reader(header, options) or _utterance_reader(header, options, options.text, TEXT)
    splits = None if split else header.column("split", options.split, ("split",), is_needed=False)
    unused = [name for place, name in enumerate(header.names) if name and place not in header.used]
    if unused:
        note(f"{table}: columns that are not used: {', '.join(unused[:12])}{', ...' if len(unused) > 12 else ''}")
    for line, row in rows:
        origin = f"{table}:{line}"
        if not any(map(str.strip, row)):
            continue
        if any(map(str.strip, row[len(names) :])):
            yield split, UserError(f"{origin}: more columns than the header; quote texts that contain the separator")
            continue
        if splits is None:
            yield split, read(row, origin)
            continue
        try:
            yield named(_cell(row, splits) or "", f"{origin}: {header.names[splits]}"), read(row, origin)
        except UserError as problem:
            yield split, problem


def _check_header(header: _Header) -> None:
    """Raises a UserError if it is a row of data, or not divided into columns."""
    origin = f"{header.table}:{header.line}"
    recording = next((name for name in header.names if Path(name).suffix.lower() in SUFFIXES), None)
    if recording is not None:
        raise UserError(
            f"{origin}: names of columns are wanted in the first line, not the recording {recording}: put a line above "
            "it, such as path, sentence, with the same separator"
        )
    if len(header.names) == 1:
        raise UserError(
            f"{origin}: a single column, {header.names[0]!r}; columns are separated by tabs, commas, semicolons or |"
        )


def _text(table: Path) -> str:
    if table.is_dir():
        tables = [path for kind in ("csv", "tsv") for path in sorted(table.glob(f"*.{kind}*"))]
        recording = next((path for path in sorted(table.iterdir()) if path.suffix.lower() in SUFFIXES), None)
        hint = ""
        if tables:
            hint = f", such as {tables[0]}"
        elif recording is not None:
            hint = f", with a first line path,text and a line for each recording: {recording.name},WHAT IS SAID"
        raise UserError(f"{table}: a folder without train.csv or train.tsv (dev, test); SOURCE is one table{hint}")
    content = read_content(table, "table")
    for start, what in OTHERS.items():
        if content.startswith(start):
            raise UserError(f"{table}: {what}, not a table of text; in Excel: File, Save As, CSV UTF-8")
    return decode(content, table).replace("\r\r\n", "\r\n")  # from converting a file twice


def _separator(table: Path, text: str, options: Options) -> str:
    """The separator that gives the most known column names in the header; on a tie that of the file's suffix, if the
    header has it, else one that it has.
    """
    header = next((line for line in split_lines(text[:100_000]) if any(map(str.isalnum, line))), "")
    asked = (options.audio, options.text, options.speaker, options.split, options.source, options.target, options.label)
    usual = (*AUDIO, *TEXT, *SPEAKER, *LANGUAGE, *SOURCE, *TARGET, "split", *filter(None, asked))
    known = {name.casefold() for name in usual}
    by_name = "\t" if table.name.removesuffix(".gz").lower().endswith(".tsv") else ","

    def num_known(separator: str) -> tuple[int, bool]:
        names = {seen(name.strip(' "')).casefold() for name in header.split(separator)}
        return len(names & known), len(names) > 1

    return max([by_name, *SEPARATORS], key=num_known)


def _is_quoted(text: str, separator: str) -> bool:
    """Whether the table uses csv quoting: always, except in tables with tabs or |.

    These rarely quote, and their texts may contain quotation marks. They count as quoted if a mark is doubled inside a
    quoted text, or a column name is quoted, and no cell contradicts it; or if only then all rows have the same length.
    """
    if separator not in "\t|":
        return True
    is_seen = False
    for number, line in enumerate(split_lines(text)):
        for cell in line.split(separator) if '"' in line else ():
            if cell.startswith('"'):
                inside = cell[1:-1]
                if len(cell) < 2 or not cell.endswith('"') or '"' in inside.replace('""', ""):
                    return not _is_even(_plain(text, separator, 1)) and _is_even(_quoted(Path(), text, separator, 1))
                is_seen = is_seen or '""' in inside or number == 0
    return is_seen


def _is_even(rows: Iterator[tuple[int, Row]]) -> bool:
    """Whether all rows can be read and have the same length."""
    try:
        return len({len(row) for _, row in rows}) == 1
    except UserError:
        return False


def _plain(text: str, separator: str, first: int) -> Iterator[tuple[int, Row]]:
    """The rows of a table without quoting, each with its line number."""
    for number, line in enumerate(split_lines(text), first):
        if line.strip():
            yield number, line.split(separator)


def _quoted(table: Path, text: str, separator: str, first: int) -> Iterator[tuple[int, Row]]:
    """The rows of a table with quoting, each with the line number at which it begins."""
    text = text if "\n" in text else text.replace("\r", "\n")
    has_returns = _LONE_RETURN.search(text) is not None
    if has_returns:
        text = _LONE_RETURN.sub(_HIDDEN_RETURN, text)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # the default is 131,072
    reader = csv.reader(
        io.StringIO(text),  # not a list of lines: a quoted text may contain line ends
        delimiter=separator,
        strict=True,  # an open quote would swallow the rest of the table
    )
    while True:
        line = first + reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = (
                "a quotation mark opens a text here and is never closed"
                if "end of data" in str(error)
                else f"a quoted text continues after its closing quotation mark: double the marks inside it ({error})"
            )
            raise UserError(f"{table}:{line}: {problem}") from None
        if row:
            yield line, [cell.replace(_HIDDEN_RETURN, "\r") for cell in row] if has_returns else row


def _cell(row: Row, place: int | None) -> str | None:
    """The cell in a column, without surrounding white space; None if the row is too short or the cell is blank."""
    return None if place is None or place >= len(row) or not seen(row[place]) else row[place].strip()


def _labeled_reader(header: _Header, options: Options) -> Reader:
    """A reader for recordings, or texts if there is no column of audio files, with their classes."""
    label = options.label
    assert label is not None
    if header.column("audio", options.audio, AUDIO, is_needed=False) is not None:
        read_sound = _utterance_reader(header, options, label, ())

        def read(row: Row, origin: str) -> Found | UserError:
            found = read_sound(row, origin)
            return Labeled.of(replace(found, text=found.text.strip())) if isinstance(found, Utterance) else found

        return read
    places = header.column("text", options.text, TEXT), header.column("label", label, ())
    id_column = header.column("id", None, ("id",), is_needed=False)

    def read_text(row: Row, origin: str) -> Labeled | UserError:
        text, label = (_cell(row, place) for place in places)
        if text is None or label is None:
            return UserError(f"{origin}: {header.names[places[text is not None] or 0]}: empty")
        given = _cell(row, id_column)
        return Labeled(given or origin, label, text=text, origin=origin, has_id=given is not None)

    return read_text


def _utterance_reader(header: _Header, options: Options, text: str | None, usual: tuple[str, ...]) -> Reader:
    """A reader for recordings; their transcripts are in the column `text`, or else in one of the `usual` ones."""
    hint = ", for text pairs source=NAME target=NAME, or a first line with names"
    audio_column = header.column("audio", options.audio, AUDIO, hint=hint)
    text_column = header.column("text", text, usual)
    speaker_column = header.column("speaker", options.speaker, SPEAKER, is_needed=False)
    language_column = header.column("language", None, LANGUAGE, is_needed=False)
    id_column = header.column("id", None, ("id",), is_needed=False)
    channel_column = header.column("channel", None, ("channel",), is_needed=False)
    part_columns = _part_columns(header)
    assert audio_column is not None
    assert text_column is not None

    def read(row: Row, origin: str) -> Utterance | UserError:
        name = _cell(row, audio_column)
        if name is None or len(row) <= text_column:
            return UserError(f"{origin}: {header.names[audio_column if name is None else text_column]}: missing")
        if _cell(row, text_column) is None:
            return UserError(f"{origin}: {header.names[text_column]}: empty")
        try:
            channel = channels.parse(_cell(row, channel_column))
        except ValueError as problem:
            return UserError(f"{origin}: {header.names[channel_column or 0]}: {problem}")
        paths = (name, name.replace("\\", "/"), seen(name))
        places = [header.table.parent / each / path for path in paths for each in ("", "clips")]
        file = next((place for place in places if is_file(place)), None)
        if file is None and PureWindowsPath(name).is_absolute():
            folder = name[: max(name.rfind("/"), name.rfind("\\"))]
            return UserError(
                f"{origin}: {header.names[audio_column]}: no folder {folder} here; remove it from the paths, which are "
                "relative to the table"
            )
        file = file or places[0]
        if part_columns is not None:
            try:
                offset, seconds = _part(header, row, part_columns)
            except ValueError as problem:
                return UserError(f"{origin}: {problem}")
            given = _cell(row, id_column)
            return checked(
                Utterance(
                    id=given or origin,
                    audio=file,
                    seconds=seconds,
                    text=row[text_column],
                    offset_seconds=offset,
                    speaker=_cell(row, speaker_column),
                    language=_cell(row, language_column) or options.language,
                    origin=origin,
                    has_id=given is not None,
                    channel=channel,
                )
            )
        return measured(
            file,
            row[text_column],
            origin,
            _cell(row, speaker_column),
            language=_cell(row, language_column) or options.language,
            given_id=_cell(row, id_column),
            channel=channel,
        )

    return read


def _part_columns(header: _Header) -> tuple[int, int] | None:
    """The columns that select a part of a file; None if each row is a whole file."""
    names = [name.casefold() for name in header.names]
    for pair in PARTS:
        if all(names.count(name) == 1 for name in pair):
            header.used.update(map(names.index, pair))
            return names.index(pair[0]), names.index(pair[1])
    return None


def _part(header: _Header, row: Row, columns: tuple[int, int]) -> tuple[float, float]:
    """(offset, duration) of a part in seconds. Raises a ValueError if these are not valid."""
    numbers = []
    for place in columns:
        written = _cell(row, place) or ""
        try:
            numbers.append(float(written.replace(",", ".")))
        except ValueError:
            raise ValueError(f"{header.names[place]}: seconds wanted, got {written!r}") from None
    offset, seconds = numbers
    if header.names[columns[1]].casefold() != "duration":
        seconds -= offset
    if not (0 <= offset < float("inf") and 0 < seconds < float("inf") and round(seconds, 6)):
        raise ValueError(f"{' and '.join(header.names[place] for place in columns)}: a part of the file wanted")
    return offset, seconds


def _pair_reader(header: _Header, options: Options) -> Reader | None:
    """A reader for text pairs; None unless the options or columns indicate that the table contains pairs."""
    names = [name.casefold() for name in header.names]
    is_asked = options.source is not None or options.target is not None
    is_speech = options.audio is not None or any(name in names for name in AUDIO)
    if not is_asked and (is_speech or not any(name in names for name in (*SOURCE, *TARGET))):
        return None
    wanted = (("source", options.source, SOURCE), ("target", options.target, TARGET))
    texts = [place for each in wanted if (place := header.column(*each)) is not None]
    languages = [header.column(name, None, (name,), is_needed=False) for name in ("source_language", "target_language")]
    id_column = header.column("id", None, ("id",), is_needed=False)

    def read(row: Row, origin: str) -> Pair | UserError:
        empty = next((place for place in texts if _cell(row, place) is None), None)
        if empty is not None:
            return UserError(f"{origin}: {header.names[empty]}: {'missing' if empty >= len(row) else 'empty'}")
        source_language = _cell(row, languages[0]) or options.source_language
        target_language = _cell(row, languages[1]) or options.target_language
        given = _cell(row, id_column)
        source, target = (row[place] for place in texts)
        return Pair(
            given or origin, source, target, (), source_language, target_language, origin, has_id=given is not None
        )

    return read
