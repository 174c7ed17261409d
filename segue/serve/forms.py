"""How is a form read whose file may be large? While it arrives: fields into memory, the file to a private one on disk.

The file has no name of the client's, and is removed with the form.
"""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any
from urllib.parse import parse_qsl

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from segue.serve.refusals import RefusedError

MOST_FIELDS = 64
FIELD_BYTES = 1 << 20
"""Largest field that is no file."""
HEADER_BYTES = 1 << 13
"""Largest header of a field."""
EVENTS = (
    "part_begin",
    "part_data",
    "part_end",
    "header_field",
    "header_value",
    "header_end",
    "headers_finished",
    "end",
)
"""Of the parser; a form has a method for each."""
FILE = "file"
"""The field of the file."""


@dataclass
class Upload:
    """The file of a form."""

    path: Path
    name: str
    """As the client calls it. It is not used for files."""
    size: int = 0
    is_taken: bool = False
    """Whether somebody else removes it."""

    @property
    def suffix(self) -> str:
        """The suffix of its name, in lower case and without the dot."""
        return PurePath(self.name).suffix.lower().lstrip(".")

    def remove(self) -> None:
        """Removes it, unless it is taken."""
        if not self.is_taken:
            self.path.unlink(missing_ok=True)

    def take(self) -> Path:
        """The path, for somebody who will remove it."""
        self.is_taken = True
        return self.path


class MultipartForm:
    """Fields and file of a multipart form."""

    def __init__(self, folder: str) -> None:
        """The file is written to `folder`."""
        self.fields: list[tuple[str, str]] = []
        self.file: Upload | None = None
        self._folder = folder
        self._header = [b"", b""]
        self._disposition = b""
        self._name = ""
        self._text = bytearray()
        self._open: IO[bytes] | None = None
        self._is_complete = False

    async def read(self, stream: AsyncIterator[bytes], content_type: str) -> None:
        """Reads the body of a request. Raises a RefusedError for one that is no form."""
        _, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise _broken("its Content-Type names no boundary")
        callbacks: Any = {f"on_{name}": getattr(self, f"_on_{name}") for name in EVENTS}
        try:
            parser = MultipartParser(boundary, callbacks)
            async for part in stream:
                parser.write(part)
            parser.finalize()
        except (FormParserError, ValueError) as problem:
            raise _broken(f"it does not keep to its boundary ({problem})") from None
        if not self._is_complete:
            raise _broken("it ends before its last boundary")

    def close(self) -> None:
        """Removes the file."""
        if self._open is not None:
            self._open.close()
        if self.file is not None:
            self.file.remove()

    def _on_part_begin(self) -> None:
        self._disposition, self._header, self._text = b"", [b"", b""], bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._extend(0, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._extend(1, data[start:end])

    def _extend(self, side: int, data: bytes) -> None:
        self._header[side] += data
        if len(self._header[side]) > HEADER_BYTES:
            raise _broken("a header of a field is too long")

    def _on_header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def _on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        if b"name" not in parameters:
            raise _broken("a field has no name")
        self._name = parameters[b"name"].decode("utf-8", "replace")
        if b"filename" not in parameters:
            if self._name == FILE:  # before its content is found to be no text
                raise no_filename()
            return
        if self._name != FILE:
            message = f"{self._name[:100]}: a text, not a file; the field of the file is called {FILE!r}"
            raise RefusedError(400, message, "invalid_value", self._name[:100])
        if self.file is not None:
            raise RefusedError(400, f"{FILE}: one file is wanted", "invalid_value", FILE)
        self._open = tempfile.NamedTemporaryFile(dir=self._folder, delete=False)  # noqa: SIM115 (closed in `close`)
        self.file = Upload(Path(self._open.name), parameters[b"filename"].decode("utf-8", "replace"))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._open is not None and self.file is not None:
            self._open.write(data[start:end])
            self.file.size += end - start
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES:
            raise RefusedError(413, f"{self._name[:100]}: longer than {FIELD_BYTES:,} bytes", "body_too_large")

    def _on_part_end(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            return
        if len(self.fields) >= MOST_FIELDS:
            raise _broken(f"it has more than {MOST_FIELDS} fields")
        try:
            self.fields.append((self._name, self._text.decode()))
        except UnicodeDecodeError:
            raise RefusedError(400, f"{self._name[:100]}: not UTF-8", "invalid_value", self._name[:100]) from None

    def _on_end(self) -> None:
        self._is_complete = True


def of_line(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form in one line (application/x-www-form-urlencoded). Raises a RefusedError."""
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError as problem:
        raise _broken(str(problem)) from None


def no_filename() -> RefusedError:
    """The refusal of a file that is sent as a text."""
    message = f"{FILE}: a file is wanted, with a filename in its Content-Disposition"
    return RefusedError(400, message, "invalid_value", FILE)


def _broken(problem: str) -> RefusedError:
    return RefusedError(400, f"the form cannot be read: {problem}", "invalid_form")
