"""How are formats read that libsndfile does not know: m4a, webm, wma, amr, video? By FFmpeg, if PyAV is installed."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from segue.data.containers import Stretch
from segue.errors import UserError, missing_extra, warn

if TYPE_CHECKING:
    from av.container import InputContainer

KINDS = "wav, flac, ogg, mp3"
MORE_KINDS = "m4a, webm, wma, amr and video"
# fmt: off
SUFFIXES = frozenset((
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga", ".aif", ".aiff", ".aifc", ".au", ".snd",
    ".caf", ".w64", ".rf64", ".m4a", ".m4b", ".aac", ".ac3", ".wma", ".amr", ".3gp", ".mp4", ".m4v", ".mov", ".mkv",
    ".mka", ".webm", ".wmv", ".avi", ".ogv", ".flv", ".ts", ".mpg", ".mpeg",
))
# fmt: on
"""Suffixes of files in folders that count as recordings."""
ALONE = {"protocol_whitelist": ""}
"""Nothing else is opened: a text that is called a recording may name other files (ffconcat) or ports (SDP)."""
TEXT = "it is a text file"
Samples = NDArray[np.float32]


def blocks(path: Path, seconds: float) -> Iterator[tuple[int, Samples]]:
    """(rate, samples (S, C)) of the sound in a file, in blocks of about `seconds` seconds.

    Raises a UserError if PyAV is not installed or finds no sound, and for a damaged or truncated file.
    """
    pending: list[Samples] = []
    pending_rate = 0
    for rate, block in _frames(path):
        if pending and (rate != pending_rate or block.shape[1] != pending[0].shape[1]):
            yield pending_rate, np.concatenate(pending)
            pending = []
        pending_rate = rate
        pending.append(block)
        if sum(map(len, pending)) >= seconds * rate:
            yield rate, np.concatenate(pending)
            pending = []
    if pending:
        yield pending_rate, np.concatenate(pending)


def _frames(path: Path) -> Iterator[tuple[int, Samples]]:
    with _opened(path) as container:
        import av

        [stream, *others] = container.streams.audio
        if others:
            warn(f"{path}: has {1 + len(others)} sound tracks; the first is used")
        resampler, shape = None, None
        num_seconds = 0.0
        try:
            for frame in container.decode(stream):
                if (frame.sample_rate, frame.layout.name, frame.format.name) != shape:
                    shape = (frame.sample_rate, frame.layout.name, frame.format.name)
                    resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
                assert resampler is not None
                frame.pts = None  # gaps in time are not filled
                for converted in resampler.resample(frame):
                    num_seconds += converted.samples / converted.sample_rate
                    yield converted.sample_rate, np.asarray(converted.to_ndarray().T, np.float32)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise UserError(f"{path}: damaged audio: {_reason(error)}") from None
        declared = _declared(container)
        if declared is not None and container.format.name not in ESTIMATED:
            missing = declared - num_seconds
            if missing > max(0.2, 0.01 * declared):  # declared lengths are rounded and include encoder padding
                raise UserError(f"{path}: truncated: {missing:.2f} s are missing")


ESTIMATED = ("aac", "ac3", "eac3", "mp3", "amr", "mpegts", "mpeg")
"""Formats whose length FFmpeg estimates from the bit rate."""


def declared_properties(path: Path) -> tuple[int, int, float | None]:
    """Sample rate, channels, and declared duration in seconds; None if there is none or FFmpeg only estimates it."""
    with _opened(path) as container:
        stream = container.streams.audio[0]
        seconds = None if container.format.name in ESTIMATED else _declared(container)
        return stream.rate or 0, stream.channels, seconds


def _declared(container: "InputContainer") -> float | None:
    stream = container.streams.audio[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # The duration of a video may be longer than its sound.
    is_sound_alone = len(container.streams) == 1
    return container.duration / 1e6 if container.duration is not None and is_sound_alone else None


@contextmanager
def _opened(path: Path) -> "Iterator[InputContainer]":
    try:
        import av
    except ModuleNotFoundError:
        raise UserError(
            f"{path}: not audio that can be read ({KINDS}); {MORE_KINDS} need the package av: "
            "pip install 'segue[media]'"
        ) from None
    try:
        # As a file object: a file name need not be valid Unicode.
        with path.open("rb") as file:
            source = Stretch(file, 0, path.stat().st_size)
            with av.open(source, "r", options=ALONE, metadata_errors="replace") as container:
                if not container.streams.audio:
                    if _is_text(path):  # FFmpeg knows subtitles, too
                        raise _no_audio(path, TEXT)
                    raise UserError(f"{path}: no sound track in it; give a file with the sound")
                if container.streams.audio[0].codec_context is None:
                    raise UserError(f"{path}: its codec is one that FFmpeg does not know")
                yield container
    except (av.FFmpegError, ValueError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        if _lacks_index(path):
            raise UserError(f"{path}: truncated: it has no index (moov), which programs write last") from None
        raise _no_audio(path, TEXT if _is_text(path) else _reason(error)) from None


def _no_audio(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not audio that can be read ({KINDS}, {MORE_KINDS}): {reason}")


def _is_text(path: Path) -> bool:
    """Whether a file begins like a text: in UTF-8, or in UTF-16, which without a byte order mark has zeros."""
    with path.open("rb") as file:
        start = file.read(1024)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _is_seen(start, "utf-16")
    wide = ("utf-16-le", "utf-16-be") if b"\0" in start else ()
    return any(_is_seen(start, encoding) for encoding in ("utf-8-sig", *wide))


def _is_seen(start: bytes, encoding: str) -> bool:
    """Whether bytes are a text in this encoding, whose last character may be cut off."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return False
    # Cf: characters that are not seen, such as soft hyphens.
    return bool(text) and all(each.isprintable() or each.isspace() or category(each) == "Cf" for each in text)


def _lacks_index(path: Path) -> bool:
    """Whether a file is an MP4 file (m4a) without a `moov` box (ISO/IEC 14496-12, sections 4.2 and 8.2)."""
    place, end = 0, path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(16)) >= 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if kind == b"moov" or (place == 0 and kind != b"ftyp"):
                return False
            size = int.from_bytes(head[8:], "big") if size == 1 else size
            place += size
            if size < 8 or place >= end:  # 0: up to the end of the file
                return True
            file.seek(place)
    return place > 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def arriving(source: Any, form: Literal["webm", "ogg"], rate_hz: int) -> Iterator[NDArray[np.int16]]:
    """The sound of a recording while it is being made, mono at `rate_hz`, (S) at a time.

    `source` has a method `read(size)`, which blocks until there are bytes, and returns none at the end. Raises a
    UserError if this is no such container, or a damaged one.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "av", "media") from None
    try:
        # FFmpeg would read ahead for seconds to find out what the header already says.
        eager = {"probesize": "4096", "analyzeduration": "0", "fflags": "nobuffer"}
        with av.open(source, "r", format=form, options=eager, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise UserError(f"no sound in this {form}")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
            for frame in container.decode(container.streams.audio[0]):
                frame.pts = None
                for converted in resampler.resample(frame):
                    yield np.asarray(converted.to_ndarray(), np.int16).reshape(-1)
            for converted in resampler.resample(None):
                yield np.asarray(converted.to_ndarray(), np.int16).reshape(-1)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"this is no {form} that can be read: {_reason(error)}") from None
