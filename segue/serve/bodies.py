"""How is the body of a request read? JSON or a form, checked by a model of its fields; a file in it goes to a private
temporary file that has no name of the client's."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from segue.data import audio
from segue.errors import UserError, Warned, gathered
from segue.serve.refusals import RefusedError, of_fields

Fields = TypeVar("Fields", bound=BaseModel)
MOST_FIELDS = 64
FIELD_BYTES = 1 << 20
"""Largest field of a form that is no file."""
JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
DECODED = 3.5
"""A file may be decoded up to three times."""


def kind_of(request: Request) -> str:
    """The type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_kind(request: Request, *kinds: str) -> str:
    """The type of the body. Raises a RefusedError if it is none of these."""
    kind = kind_of(request)
    if kind not in kinds:
        given = f"not {kind[:100]!r}" if kind else "which the Content-Type must say"
        raise RefusedError(415, f"the body must be {' or '.join(kinds)}, {given}", "unsupported_media_type")
    return kind


async def of_json(request: Request, fields: type[Fields], longest: int) -> Fields:
    """The fields of a JSON body of at most `longest` bytes."""
    size, parts = 0, list[bytes]()
    async for part in request.stream():
        size += len(part)
        if size > longest:
            raise RefusedError(413, f"the JSON body is longer than {longest} bytes", "body_too_large")
        parts.append(part)
    try:
        return fields.model_validate_json(b"".join(parts))
    except ValidationError as problem:
        raise of_fields(problem) from None


@asynccontextmanager
async def of_form(request: Request, fields: type[Fields]) -> AsyncIterator[tuple[Fields, UploadFile | None]]:
    """The fields of a form, and its field `file`, which is gone afterwards.

    Fields that occur several times, and those whose name ends in [], are lists.
    """
    try:
        form = await request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES)
    except HTTPException as problem:
        raise RefusedError(400, f"the form cannot be read: {problem.detail}", "invalid_form") from None
    try:
        file, values = _values(form)
        try:
            found = fields.model_validate(values)
        except ValidationError as problem:
            raise of_fields(problem) from None
        yield found, file
    finally:
        await form.close()


def _values(form: FormData) -> tuple[UploadFile | None, dict[str, Any]]:
    file: UploadFile | None = None
    values: dict[str, Any] = {}
    for key in form:
        every = form.getlist(key)
        texts = [each for each in every if isinstance(each, str)]
        if key == "file" and not texts:
            [upload] = every
            assert isinstance(upload, UploadFile)
            file = upload
        elif len(texts) < len(every):
            raise RefusedError(
                400, f"{key[:100]}: a text, not a file; the file's field is called 'file'", "invalid_value", key[:100]
            )
        else:
            values[key] = texts if key.endswith("[]") or len(texts) > 1 else texts[0]
    if "file" in values:
        raise RefusedError(
            400, "file: a file is wanted, with a filename in its Content-Disposition", "invalid_value", "file"
        )
    return file, values


class Uploads:
    """A private folder for the files of requests."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="segue-")  # its mode is 0700

    def close(self) -> None:
        """Removes the folder."""
        self._folder.cleanup()

    async def saved(self, upload: UploadFile) -> Path:
        """A file with the upload's content, which the caller removes. Raises a RefusedError if it is empty."""
        handle, name = tempfile.mkstemp(dir=self._folder.name)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                await asyncio.to_thread(shutil.copyfileobj, upload.file, file, 1 << 20)
                if not file.tell():
                    raise RefusedError(400, "file: it is empty", "invalid_value", "file")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    @asynccontextmanager
    async def kept(self, upload: UploadFile) -> AsyncIterator[Path]:
        """The same file, for as long as this lasts."""
        path = await self.saved(upload)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def recording(path: Path, longest_seconds: float, check: Any) -> Iterator[list[Warned]]:
    """Inside, in the same thread, a recording is read: the warnings about it, which do not name its path.

    `check` is called for each block. Raises a RefusedError for one that cannot be read, or is too long,
    whatever its headers say.
    """
    decoded = 0.0

    def count(seconds: float) -> None:
        nonlocal decoded
        check()
        decoded += seconds
        if decoded > DECODED * longest_seconds:
            raise too_long(longest_seconds)

    try:
        with gathered() as warned, audio.watched(count):
            seconds = audio.properties(path).seconds
            if seconds > longest_seconds:
                raise too_long(longest_seconds, seconds)
            yield warned
    except UserError as problem:
        raise RefusedError(400, said(str(problem), path), "invalid_audio", "file") from None


def too_long(longest_seconds: float, seconds: float | None = None) -> RefusedError:
    """The refusal of a recording that is too long."""
    given = f"lasts {seconds:.1f} s" if seconds else "is longer"
    return RefusedError(
        413, f"file: the recording {given}; at most {longest_seconds:g} s are accepted", "audio_too_long", "file"
    )


def said(message: str, path: Path) -> str:
    """A message without the path of the temporary file."""
    return message.replace(str(path), "the file").replace(path.name, "the file")
