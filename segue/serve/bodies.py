"""How is the body of a request read? JSON or a form, checked by a model of its fields; a recording within limits."""

import codecs
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from segue.data import audio, channels
from segue.data.channels import Channel, DifferentChannelsError
from segue.errors import UserError, Warned, gathered
from segue.serve import forms
from segue.serve.forms import Upload
from segue.serve.refusals import RefusedError, of_fields, without_options

Fields = TypeVar("Fields", bound=BaseModel)
JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
DECODED = 3.5
"""A file may be decoded up to three times."""
MOST_DIGITS = 10
"""Of the number of a channel."""


def kind_of(request: Request) -> str:
    """The type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_kind(request: Request, *kinds: str) -> str:
    """The type of the body. Raises a RefusedError if it is none of these, or compressed."""
    kind, encoding = kind_of(request), request.headers.get("content-encoding") or "identity"
    if encoding.lower() != "identity":
        message = f"compressed bodies are not accepted (Content-Encoding: {encoding[:50]})"
        raise RefusedError(415, message, "unsupported_media_type")
    if kind not in kinds:
        given = f"not {kind[:100]!r}" if kind else "which the Content-Type must say"
        raise RefusedError(415, f"the body must be {' or '.join(kinds)}, {given}", "unsupported_media_type")
    return kind


async def of_json(request: Request, fields: type[Fields], longest: int) -> Fields:
    """The fields of a JSON body of at most `longest` bytes."""
    try:
        return fields.model_validate_json((await _whole(request, longest)).removeprefix(codecs.BOM_UTF8))
    except ValidationError as problem:
        raise of_fields(problem) from None


def without_nulls(given: object) -> object:
    """Fields without those that are null, which OpenAI's and LibreTranslate's clients send for what is not asked."""
    return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


@asynccontextmanager
async def of_form(
    request: Request, fields: type[Fields], longest: int | None = None
) -> AsyncIterator[tuple[Fields, Upload | None]]:
    """The fields of a form, and its field `file`, which is gone afterwards.

    Fields that occur several times, and those whose name ends in [], are lists. A body of more than `longest` bytes is
    refused.
    """
    uploads: Uploads = request.scope["segue"].uploads
    form = forms.MultipartForm(uploads.folder)
    try:
        if kind_of(request) == MULTIPART:
            with uploads.place():
                await form.read(_parts(request, longest), request.headers["content-type"])
            pairs = form.fields
        else:
            pairs = forms.of_line(await _whole(request, forms.FIELD_BYTES))
        if any(name == forms.FILE for name, _ in pairs):
            raise forms.no_filename()
        if form.file is not None and not form.file.size:
            raise RefusedError(400, "file: it is empty", "invalid_value", "file")
        try:
            found = fields.model_validate(_values(pairs))
        except ValidationError as problem:
            _check_once(problem, pairs)
            raise of_fields(problem) from None
        yield found, form.file
    finally:
        form.close()


def _check_once(problem: ValidationError, pairs: Sequence[tuple[str, str]]) -> None:
    """Raises a RefusedError if the first wrong field is wrong because it is there several times."""
    name, *inside = problem.errors()[0]["loc"]
    count = sum(each == name for each, _ in pairs)
    if count > 1 and not inside:
        message = f"{name}: one value is wanted, not {count}"
        raise RefusedError(400, message, "invalid_value", str(name))


def _values(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    every: dict[str, list[str]] = {}
    for name, value in pairs:
        every.setdefault(name, []).append(value)
    return {name: texts if name.endswith("[]") or len(texts) > 1 else texts[0] for name, texts in every.items()}


async def _whole(request: Request, longest: int) -> bytes:
    """The body, of at most `longest` bytes."""
    return b"".join([part async for part in _parts(request, longest)])


async def _parts(request: Request, longest: int | None) -> AsyncIterator[bytes]:
    """The body as it arrives, of at most `longest` bytes."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if longest is not None and size > longest:
            raise RefusedError(413, f"the body is longer than {longest:,} bytes", "body_too_large")
        yield part


class Uploads:
    """A private folder for the files of requests."""

    def __init__(self, most: int) -> None:
        """At most `most` requests may send files at a time."""
        self._folder = tempfile.TemporaryDirectory(prefix="segue-")  # its mode is 0700
        self._most, self._num = most, 0

    @property
    def folder(self) -> str:
        """Its path."""
        return self._folder.name

    @contextmanager
    def place(self) -> Iterator[None]:
        """Inside, a request may send a file. Raises a RefusedError with 429 if too many do."""
        if self._num >= self._most:
            message = f"{self._most} requests send files already; try again in a second"
            raise RefusedError(429, message, "queue_full", headers={"retry-after": "1"})
        self._num += 1
        try:
            yield
        finally:
            self._num -= 1

    def close(self) -> None:
        """Removes it."""
        self._folder.cleanup()


@contextmanager
def recording(path: Path, longest_seconds: float, check: Any, channel: Channel) -> Iterator[list[Warned]]:
    """Inside, in the same thread, a recording is read: the warnings about it, which do not name its path.

    `check` is called for each block. Raises a RefusedError for one that cannot be read, has no such channel, or is too
    long, whatever its headers say.
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
            _, num_channels, seconds = audio.properties(path)
            if isinstance(channel, int) and channel > num_channels:
                message = f"channel: there is no channel {channel}: the file has {num_channels}"
                raise RefusedError(400, message, "invalid_value", "channel")
            if seconds > longest_seconds:
                raise too_long(longest_seconds, seconds)
            yield warned
    except DifferentChannelsError as problem:
        advice = "the field channel says which to use: left, right, a number from 1, or mix"
        raise RefusedError(400, f"{said(problem.fact, path)}; {advice}", "different_channels", "channel") from None
    except UserError as problem:
        raise RefusedError(400, said(str(problem), path), "invalid_audio", "file") from None


def channel_of(given: str | None) -> Channel:
    """The channel that a form asks for. Raises a RefusedError."""
    if not given:
        return None
    try:
        if len(given) > MOST_DIGITS or not (given.isascii() and given.isalnum()):
            raise ValueError(given)
        return channels.parse(given)
    except ValueError:
        message = f"channel: left, right, mix or a number from 1 wanted, got {given[:50]!r}"
        raise RefusedError(400, message, "invalid_value", "channel") from None


def too_long(longest_seconds: float, seconds: float | None = None) -> RefusedError:
    """The refusal of a recording that is too long."""
    given = f"lasts {seconds:.1f} s" if seconds else "is longer"
    return RefusedError(
        413, f"file: the recording {given}; at most {longest_seconds:g} s are accepted", "audio_too_long", "file"
    )


def said(message: str, path: Path) -> str:
    """A message without the path of the temporary file, and without options of commands, which requests do not have."""
    message = message.replace(str(path), "the file").replace(path.name, "the file")
    return without_options(message)
