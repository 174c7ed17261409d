"""How are the documents of a file read? Plain text, JSON lines and parquet, as a stream, without changing the texts.

Nothing is normalized: line ends, tabs and double spaces stay as they are. Only a byte order mark at the start of a file
is left out, and what divides documents: line ends for split = "line", blank lines for "paragraph".
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from segue.data.manifest import unreadable
from segue.errors import UserError, missing_extra

Split = Literal["file", "paragraph", "line"]
TEXT_SUFFIXES = (".txt", ".text", ".md", ".tokens", ".raw", ".abc")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
PACKED_SUFFIXES = (".gz", ".zst")
PARQUET = ".parquet"
KNOWN = f"{', '.join((*TEXT_SUFFIXES, *JSON_SUFFIXES))} (each also with {' or '.join(PACKED_SUFFIXES)}), {PARQUET}"
"""The suffixes that `read` knows, for messages."""

_CHUNK_BYTES = 1 << 20
_PART_CHARACTERS = 4_000_000
_ROWS = 256
_CUT_OFF = "cannot read this text: the file is cut off"
# Where a tokenizer splits in any case: GPT-2's pattern has white space only at the start of a token or as a whole one,
# and a single space or line end between two other characters is never part of a longer run. Python's white space has
# all characters of Unicode's, and four more.
_CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S)(?= \S)")


class Document(NamedTuple):
    """A document, or a part of a long one; the parts follow each other."""

    text: str
    """Exactly as in the file."""
    origin: str
    """"file:line" or "file:row"; "file" for a whole file."""
    is_first: bool = True
    """Whether the document begins here."""
    is_last: bool = True
    """Whether it ends here."""


def is_known(path: Path) -> bool:
    """Whether the name of a file says how to read it."""
    return _suffix(path) in (*TEXT_SUFFIXES, *JSON_SUFFIXES, PARQUET)


def read(
    path: Path, split: Split, text_key: str, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Document | UserError]:
    """The documents of a file; for what cannot be read, a UserError in its place. Memory is that of the longest line.

    `split` is what a document is in a text, `text_key` where it is in JSON and parquet. A text of more than 4 million
    characters comes in parts, which are cut where tokens end in any case (`cuts`). `advance` is called with the number
    of bytes of the file that were read. Raises a UserError if a package is missing.
    """
    suffix = _suffix(path)
    if path.suffix.lower() == ".zst" and find_spec("zstandard") is None:
        raise missing_extra("zstandard", "corpora")
    if suffix == PARQUET:
        found = _of_parquet(path, text_key, advance)
    elif suffix in JSON_SUFFIXES:
        found = _of_json(path, text_key, advance)
    elif split == "file":
        found = _of_text(path, advance)
    else:
        found = (_of_lines if split == "line" else _of_paragraphs)(path, advance)
    is_empty = True
    try:
        for each in found:
            is_empty = False
            yield each
    except UnicodeDecodeError as error:
        yield UserError(
            f"{path}: not UTF-8: {error.reason} at byte {error.start}; this part of the file and what follows are not "
            "used: save it as UTF-8 (`iconv -f ENCODING -t UTF-8`)"
        )
        return
    if is_empty:
        yield UserError(f"{path}: empty: no text in it; remove the file, or leave it out of data.train and data.dev")


def cuts(text: str, size: int) -> Iterator[str]:
    """The text in pieces of `size` characters, or a little more, whose tokens are together those of the text.

    A piece ends after a single line end or before a single space, between two characters that are no white space. If
    there is no such place, the piece is longer.
    """
    start = 0
    while start < len(text):
        found = _CUT.search(text, start + size) if start + size < len(text) else None
        end = found.start() if found else len(text)
        yield text[start:end]
        start = end


# --- Formats ---


def _of_text(path: Path, advance: Callable[[int], None]) -> Iterator[Document | UserError]:
    """The whole file, in parts if it is long."""
    held, text, searched, is_first = "", "", _PART_CHARACTERS, True
    problem: Exception | None = None
    texts = _decoded(_chunks(path, advance))
    while problem is None:
        try:
            more = next(texts, None)
        except (UnicodeDecodeError, UserError) as error:  # what was read before is a document
            problem, more = error, None
        if more is None:
            break
        text += more
        while (found := _CUT.search(text, searched) if len(text) > searched + 1 else None) is not None:
            if held:
                yield Document(held, str(path), is_first, is_last=False)
                is_first = False
            held, text, searched = text[: found.start()], text[found.start() :], _PART_CHARACTERS
        searched = max(searched, len(text) - 1)
    if held and text:
        yield Document(held, str(path), is_first, is_last=False)
        is_first = False
    if held or text.strip():
        yield Document(text or held, str(path), is_first)
    if isinstance(problem, UserError):
        yield problem
    elif problem is not None:
        raise problem


def _of_lines(path: Path, advance: Callable[[int], None]) -> Iterator[Document | UserError]:
    for number, line in _lines(path, advance):
        if isinstance(line, UserError):
            yield line
        elif line.strip():
            yield Document(line.rstrip("\r\n"), f"{path}:{number}")


def _of_paragraphs(path: Path, advance: Callable[[int], None]) -> Iterator[Document | UserError]:
    lines, first = list[str](), 0
    for number, line in _lines(path, advance):
        if isinstance(line, UserError):
            yield line
        elif line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield Document("".join(lines).rstrip("\r\n"), f"{path}:{first}")
            lines = []
    if lines:
        yield Document("".join(lines).rstrip("\r\n"), f"{path}:{first}")


def _of_json(path: Path, key: str, advance: Callable[[int], None]) -> Iterator[Document | UserError]:
    for number, line in _lines(path, advance):
        if isinstance(line, UserError):
            yield line
        elif number == 1 and line.startswith("["):
            yield UserError(
                f"{path}: one JSON array, where each line should be an object; `jq -c '.[]' {path.name}` writes such "
                "lines"
            )
            return
        elif line.strip():
            yield _parsed(line, key, f"{path}:{number}")


def _parsed(line: str, key: str, origin: str) -> Document | UserError:
    try:
        values = json.loads(line)
    except RecursionError:
        return UserError(f"{origin}: not JSON that can be read: too many brackets")
    except ValueError as error:
        return UserError(f"{origin}: not JSON: {error}; each line should be an object")
    if not isinstance(values, dict):
        return UserError(f"{origin}: not a JSON object")
    if key not in values:
        return UserError(f"{origin}: {_missing(key, values)}")
    return _checked(values[key], key, origin)


def _missing(key: str, keys: Iterable[str]) -> str:
    there = ", ".join(list(keys)[:8])
    return f"the key {key!r} is missing (there are: {there}); data.text_key is the one that holds the text"


def _checked(text: Any, key: str, origin: str) -> Document | UserError:
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        return UserError(f"{origin}: {key}: should be a text, not {kind}; data.text_key is the key that holds the text")
    if not text.strip():
        return UserError(f"{origin}: {key}: no text in it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return UserError(f"{origin}: {key}: half a character (a lone surrogate) at character {error.start}")
    return Document(text, origin)


def _of_parquet(path: Path, key: str, advance: Callable[[int], None]) -> Iterator[Document | UserError]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise missing_extra("pyarrow", "corpora") from None
    done = 0
    try:
        with parquet.ParquetFile(path) as file:
            names, size, num_rows = file.schema_arrow.names, path.stat().st_size, file.metadata.num_rows
            if key not in names:
                yield UserError(f"{path}: {_missing(key, names)}")
                return
            for batch in file.iter_batches(batch_size=_ROWS, columns=[key]):
                for row, text in enumerate(batch.column(0).to_pylist(), done + 1):
                    yield _checked(text, key, f"{path}:{row}")
                done += batch.num_rows
                advance(size * batch.num_rows // num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        yield UserError(f"{path}: cannot read this parquet file: {error}")


# --- Bytes, texts and lines of a file ---


def _suffix(path: Path) -> str:
    name = path.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _chunks(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The content of a file, decompressed, by the megabyte. Raises a UserError if it cannot be read."""
    packed, done = path.suffix.lower(), 0
    try:
        with path.open("rb") as raw:
            if packed == ".zst":
                content = _unpacked(raw, path)
            elif packed == ".gz":
                content = _blocks(gzip.GzipFile(fileobj=raw))
            else:
                content = _blocks(raw)
            for chunk in content:
                yield chunk
                advance(raw.tell() - done)
                done = raw.tell()
    except EOFError:
        raise UserError(f"{path}: {_CUT_OFF}") from None
    except (OSError, zlib.error) as error:
        raise unreadable(path, "text", error) from None


def _blocks(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK_BYTES), b"")


def _unpacked(raw: BinaryIO, path: Path) -> Iterator[bytes]:
    """The content of a file that zstandard compressed, of one or more frames."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame, is_begun, block = decompressor.decompressobj(), False, b""
    try:
        while block := block or raw.read(_CHUNK_BYTES // 8):
            is_begun = True
            if content := frame.decompress(block):
                yield content
            block = b""
            if frame.eof:
                frame, is_begun, block = decompressor.decompressobj(), False, frame.unused_data
    except zstandard.ZstdError as error:
        raise UserError(f"{path}: cannot read this text: {error}") from None
    if is_begun:
        raise UserError(f"{path}: {_CUT_OFF}")


def _decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """Raises a UnicodeDecodeError whose `start` is the place in the whole file."""
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    is_start = True
    for chunk, is_final in _with_end(chunks):
        before = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, is_final)
        except UnicodeDecodeError as error:
            place = done - before + error.start
            raise UnicodeDecodeError("utf-8", b"", place, place + 1, error.reason) from None
        done += len(chunk)
        if is_start and text:
            text, is_start = text.removeprefix("\ufeff"), False
        yield text


def _with_end(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for chunk in chunks:
        yield chunk, False
    yield b"", True


def _lines(path: Path, advance: Callable[[int], None]) -> Iterator[tuple[int, str | UserError]]:
    """(number from 1, line with its end) of a file; for a line that is not UTF-8, a UserError in its place."""
    rest, number, place = list[bytes](), 0, 0
    try:
        for chunk, is_final in _with_end(_chunks(path, advance)):
            if is_final or b"\n" in chunk:
                lines = _split(rest, chunk)
                rest = [] if is_final else [lines.pop()]
                for line in filter(None, lines):
                    number += 1
                    yield number, _line(line, path, number, place)
                    place += len(line)
            else:
                rest.append(chunk)
    except UserError as problem:
        yield number, problem


def _split(rest: list[bytes], chunk: bytes) -> list[bytes]:
    *lines, last = b"".join((*rest, chunk)).split(b"\n")
    return [*(line + b"\n" for line in lines), last]


def _line(line: bytes, path: Path, number: int, place: int) -> str | UserError:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        return UserError(
            f"{path}:{number}: not UTF-8: {error.reason} at byte {place + error.start} of the file; save it as UTF-8"
        )
