"""How are audio files decoded? wav, flac, ogg and mp3 of any rate and number of channels to mono float32 in [-1, 1].

`containers.py` finds the recordings in a file, libsndfile decodes them; `media.py` reads formats it does not know.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from segue.data import channels, containers, media
from segue.data.channels import Channel
from segue.data.mpeg import Part
from segue.errors import UserError, warn

Samples = NDArray[np.float32]
Mono = Iterator[Samples]
Blocks = Iterator[tuple[int, Samples]]
"""(rate in Hz, samples (S, C)) per block."""

# Headers count samples and manifests round: a difference above this is missing audio, not rounding.
TRUNCATION_SECONDS = 0.1

# An mp3 frame depends on earlier ones: when reading starts inside a file, this much is decoded before and dropped.
LEAD_SECONDS = 0.5

BLOCK_SECONDS = 10.0
MOST_VALUES = 1 << 24
"""Largest number of values in a block, over all channels."""
NO_COUNT = 1 << 48
"""libsndfile reports an unknown number of samples as a count of at least this."""
USUAL_RATE_HZ = 16000
"""There is little speech above half of this rate."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 1_000_000


_watch: ContextVar[Callable[[float], None] | None] = ContextVar("watch", default=None)


@contextmanager
def watched(check: Callable[[float], None]) -> Iterator[None]:
    """Inside, in the same thread, `check` is called with the seconds of each decoded block, and may raise.

    So what a stranger's file costs can be limited, whatever its headers say. A file may be decoded up to three times:
    to count its samples, to compare its channels, and to use them.
    """
    before = _watch.set(check)
    try:
        yield
    finally:
        _watch.reset(before)


class Properties(NamedTuple):
    """Properties of an audio file."""

    sample_rate_hz: int
    """The highest one, if a file contains several recordings."""
    num_channels: int
    """The largest one, if a file contains several recordings."""
    seconds: float


def properties(path: Path) -> Properties:
    """Properties of an audio file: from its headers if they are reliable, else by decoding it.

    Raises a UserError for a file that is missing, not audio, empty, damaged where the headers show it, or cut.
    """
    try:
        status = path.stat()
        kept = _kept_properties if _watch.get() is None else _recent_properties
        return kept(path, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot read this audio file: {getattr(error, 'strerror', error)}") from None


def check(path: Path, seconds: float) -> Properties:
    """`properties` of a recording that should last `seconds`; reads only the header if that declares enough.

    Raises a UserError as `properties` does.
    """
    try:
        part = containers.declared(path) if path.is_file() else None
    except (OSError, ValueError):
        part = None
    if part is not None:
        try:
            found = _of_parts(path, (part,))
        except UserError:
            return properties(path)
        if found.seconds >= seconds:
            return found
    return properties(path)


def duration(path: Path) -> float:
    """Duration of an audio file in seconds. Raises a UserError as `properties` does."""
    return properties(path).seconds


def inspect(path: Path) -> tuple[Properties, Channel]:
    """Properties of an audio file and the channel to use; the file is decoded if it has several channels.

    Raises a UserError as `properties` and `channels.choose` do.
    """
    found = properties(path)
    if found.num_channels == 1 and containers.parts(path):
        return found, None
    num_seconds = 0.0

    def counted() -> Blocks:
        nonlocal num_seconds
        for rate, block in _blocks(path, BLOCK_SECONDS):
            num_seconds += len(block) / rate
            yield rate, block

    channel = channels.choose(counted(), path)
    return found._replace(seconds=num_seconds), channel


def choose(path: Path, offset_seconds: float = 0.0, seconds: float | None = None) -> Channel:
    """The channel to use of a recording, or of a part of it (`channels.choose`)."""
    return channels.choose(_segment(path, offset_seconds, seconds), path)


def _read_properties(path: Path, size: int, changed_ns: int) -> Properties:
    del size, changed_ns  # cache key: the file changed if these did
    return _of_parts(path, containers.parts(path))


_kept_properties = lru_cache(maxsize=1 << 14)(_read_properties)
_recent_properties = lru_cache(maxsize=64)(_read_properties)
"""Of files that are watched: a server's, each of which is gone soon."""


def _of_parts(path: Path, parts: Sequence[Part | None]) -> Properties:
    rates, counts, seconds = [0], [0], 0.0
    for part in parts or (None,):
        with _opened(path, part) as file:
            if file is None:
                return _media_properties(path)
            rates.append(file.samplerate)
            counts.append(file.channels)
            expected = _expected(file, part)
            if expected is None:
                expected = sum(len(block) for _, block in _decoded(file, path, BLOCK_SECONDS))
            elif file.format == "FLAC" and expected:  # a truncated file has no last sample
                _seek(file, expected - 1, path)
            seconds += expected / file.samplerate
    if not seconds:
        raise UserError(f"{path}: holds no audio")
    return Properties(max(rates), max(counts), seconds)


def _media_properties(path: Path) -> Properties:
    rate, num_channels, seconds = media.declared_properties(path)
    _check_rate(rate, path)
    if seconds is None:
        seconds = sum(len(block) / rate for rate, block in _of_media(path, BLOCK_SECONDS))
    return Properties(rate, num_channels, seconds)


def read(
    path: Path, sample_rate_hz: int, offset_seconds: float = 0.0, seconds: float | None = None, channel: Channel = None
) -> Samples:
    """Mono samples of a file, or of `seconds` of it from `offset_seconds` on: (samples,).

    Raises a UserError for a file that is missing, not audio, empty, shorter than asked for, or holds NaN or infinity,
    and as `channels.choose` does.
    """
    runs = list(_segment(path, offset_seconds, seconds))
    if channel is None:
        channel = channels.choose(runs, path)
    pieces = [
        resample(np.concatenate([channels.pick(block, channel, path) for _, block in run]), rate, sample_rate_hz)
        for rate, run in groupby(runs, key=lambda each: each[0])
    ]
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if not len(samples):
        raise UserError(f"{path}: holds no audio" + (f" after {offset_seconds} s" if offset_seconds else ""))
    if seconds is not None:
        _check_missing(seconds - sum(len(block) / rate for rate, block in runs), path)
    return samples


def stream(path: Path, sample_rate_hz: int, block_seconds: float = BLOCK_SECONDS, channel: Channel = None) -> Mono:
    """The same samples as `read`, in blocks of shape (S), with memory that does not grow with the file.

    If there are several channels and `channel` is None, they are compared first; using a single one gives a warning.
    Raises a UserError as `read` does.
    """
    if channel is None and properties(path).num_channels > 1:
        channel = channels.choose(_blocks(path, BLOCK_SECONDS), path)
        if channel is not None:
            warn(f"{path}: its channels cancel each other (opposite phase); only channel {channel} is used")
    parts = containers.parts(path)
    if (not parts and _is_of_unknown_length(path)) or (parts and not parts[-1].has_end and not parts[-1].is_cut):
        warn(f"{path}: has no end-of-stream mark; it may be truncated, but all of its audio is used")
    num_yielded, last_rate = 0, sample_rate_hz
    resampler = None
    for rate, block in _blocks(path, block_seconds):
        samples = channels.pick(block, channel, path)
        if rate != last_rate:
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            resampler, last_rate = None, rate
            if rate != sample_rate_hz:
                resampler = soxr.ResampleStream(rate, sample_rate_hz, 1, dtype="float32")
        if resampler is not None:
            samples = resampler.resample_chunk(samples)
        num_yielded += len(samples)
        yield samples
    if resampler is not None:
        samples = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        num_yielded += len(samples)
        yield samples
    if not num_yielded:
        raise UserError(f"{path}: holds no audio")


def _is_of_unknown_length(path: Path) -> bool:
    """Is it of one of the kinds that only libsndfile knows, which read a file that was cut as a shorter one?"""
    with _opened(path, None) as file:
        return file is not None and file.format != "HTK"  # which libsndfile itself checks


def write(path: Path, samples: Samples, sample_rate_hz: int) -> None:
    """Writes mono samples with 16 bits, in the format of the suffix; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate_hz, subtype="PCM_16")


def encoded(samples: Samples, sample_rate_hz: int) -> bytes:
    """Mono samples as the bytes of an Ogg Vorbis file, which browsers can play."""
    return encoded_blocks([samples], sample_rate_hz)


def encoded_blocks(blocks: Iterable[Samples], sample_rate_hz: int, compression: float | None = None) -> bytes:
    """The same of a long recording, block by block; `compression` is from 0, the best sound, to 1."""
    file = io.BytesIO()
    settings = {} if compression is None else {"compression_level": compression}
    with soundfile.SoundFile(file, "w", sample_rate_hz, 1, format="OGG", subtype="VORBIS", **settings) as written:
        for block in blocks:
            written.write(block)
    return file.getvalue()


class Codec(NamedTuple):
    """A lossy codec, by libsndfile's names."""

    format: str
    subtype: str
    sample_rate_hz: int


def recoded(samples: Samples, codec: Codec) -> Samples:
    """Mono samples at the codec's rate, encoded with default settings and decoded: (S) -> (about S)."""
    file = io.BytesIO()
    soundfile.write(file, samples, codec.sample_rate_hz, codec.subtype, format=codec.format)
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="float32")[0])


def resample(samples: Samples, from_hz: float, to_hz: float) -> Samples:
    """`samples` at another rate; rates need not be integers."""
    return samples if from_hz == to_hz else np.asarray(soxr.resample(samples, from_hz, to_hz), dtype=np.float32)


def padded(waveforms: Sequence[Samples]) -> tuple[Samples, NDArray[np.int64]]:
    """(B, longest) with zeros after each waveform, (B) lengths."""
    lengths = np.array([len(waveform) for waveform in waveforms], np.int64)
    rows = np.zeros((len(waveforms), lengths.max(initial=0)), np.float32)
    for row, waveform in zip(rows, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return rows, lengths


def mono(samples: NDArray[Any], sample_rate_hz: float, channel: Channel = None, name: str = "samples") -> Samples:
    """Mono float32 from floats in [-1, 1] or signed integers: (samples,) or (samples, channels) -> (samples,).

    Raises a UserError, prefixed by `name`, for other shapes and dtypes, for no samples, NaN or infinity, and as
    `channels.choose` does.
    """
    block = _checked(samples, name)
    if channel is None:
        channel = channels.choose([(round(sample_rate_hz), block)], name)
    return channels.pick(block, channel, name)


def _checked(samples: NDArray[Any], name: str) -> Samples:
    """(S) or (S, C) -> (S, C) float32."""
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fi":
        raise UserError(
            f"{name}: floats in [-1, 1] or signed whole numbers of shape (samples,) or (samples, channels) wanted, got "
            f"{samples.dtype} of shape {samples.shape}"
        )
    if not samples.size:
        raise UserError(f"{name}: holds no audio")
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise UserError(f"{name}: (samples, channels) wanted, got shape {samples.shape}: transpose it")
    if samples.dtype.kind == "i":
        samples = samples / np.float32(np.iinfo(samples.dtype).max + 1)
    return samples.reshape(len(samples), -1).astype(np.float32)


def _check_missing(seconds: float, path: Path) -> None:
    if seconds > TRUNCATION_SECONDS:
        raise UserError(f"{path}: truncated: {seconds:.2f} s are missing")


def _check_rate(rate: int, path: Path) -> None:
    if not LOWEST_RATE_HZ <= rate <= HIGHEST_RATE_HZ:
        raise UserError(f"{path}: {rate} samples a second; from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} can be read")


def _segment(path: Path, offset_seconds: float, seconds: float | None) -> Blocks:
    """The blocks of a part of a file; seeks to it where that is possible."""
    parts = containers.parts(path)
    if len(parts) < 2:
        with _opened(path, parts[0] if parts else None) as file:
            expected = None if file is None else _expected(file, parts[0] if parts else None)
            if file is not None and (not offset_seconds or expected is not None):
                yield from _jumped(file, expected, path, offset_seconds, seconds)
                return
    place = 0.0
    for rate, block in _blocks(path, BLOCK_SECONDS):
        start = round((offset_seconds - place) * rate)
        end = len(block) if seconds is None else round((offset_seconds + seconds - place) * rate)
        place += len(block) / rate
        if end <= 0:
            return
        if len(found := block[max(start, 0) : end]):
            yield rate, found


def _jumped(
    file: soundfile.SoundFile,
    expected: int | None,
    path: Path,
    offset_seconds: float,
    seconds: float | None,
) -> Blocks:
    rate = file.samplerate
    first = round(offset_seconds * rate)
    lead = min(first, round(LEAD_SECONDS * rate))
    if offset_seconds:
        assert expected is not None
        if first - lead >= expected:
            return
        _seek(file, first - lead, path)
    most = None if seconds is None else lead + round(seconds * rate)
    if most is None and expected is not None:
        expected -= first - lead
    for _, block in _decoded(file, path, BLOCK_SECONDS, most=most, expected=expected if most is None else None):
        yield rate, block[lead:]
        lead = max(0, lead - len(block))


def _blocks(path: Path, seconds: float) -> Blocks:
    """(rate, (S, C)) of all recordings in a file, one after the other."""
    for part in containers.parts(path) or [None]:
        with _opened(path, part) as file:
            if file is None:
                yield from _of_media(path, seconds)
                return
            yield from _decoded(file, path, seconds, expected=_expected(file, part))


def _of_media(path: Path, seconds: float) -> Blocks:
    for rate, block in media.blocks(path, seconds):
        _check_rate(rate, path)
        _count(len(block) / rate)
        yield rate, block


def _count(seconds: float) -> None:
    if (check := _watch.get()) is not None:
        check(seconds)


def _decoded(
    file: soundfile.SoundFile,
    path: Path,
    seconds: float,
    most: int | None = None,
    expected: int | None = None,
) -> Blocks:
    """The blocks from the current position on, at most `most` samples.

    Raises a UserError if there are fewer than `expected` samples.
    """
    # Otherwise soundfile seeks after each block, and the next block of an mp3 file starts with noise.
    file.seekable = lambda: False
    rate, num_read = file.samplerate, 0
    size = max(1, min(round(seconds * rate), MOST_VALUES // file.channels))
    while most is None or num_read < most:
        wanted = size if most is None else min(size, most - num_read)
        if expected is not None:  # read() zeroes its whole buffer first, which takes longer than reading
            wanted = min(wanted, max(expected - num_read, 1024))
        try:
            # Not file.blocks(): where samples are missing it returns stale contents of its buffer.
            block = file.read(wanted, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, ValueError, MemoryError) as error:
            raise UserError(f"{path}: damaged audio: {_reason(error)}") from None
        if not len(block):
            break
        num_read += len(block)
        _count(len(block) / rate)
        yield rate, block
    if expected is not None:
        _check_missing((expected - num_read) / rate, path)


def _expected(file: soundfile.SoundFile, part: Part | None) -> int | None:
    """Declared number of samples per channel; None if only decoding can count them."""
    if part is not None and part.num_frames is not None:
        return part.num_frames
    return file.frames if 0 <= file.frames < NO_COUNT else None


def _seek(file: soundfile.SoundFile, place: int, path: Path) -> None:
    """Seeks to a sample. Raises a UserError if it is not there."""
    try:
        file.seek(min(place, file.frames))
    except (soundfile.SoundFileError, ValueError):
        raise UserError(f"{path}: damaged or truncated audio: its end cannot be read") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", None) or error or type(error).__name__)


@contextmanager
def _opened(path: Path, part: Part | None) -> Iterator[soundfile.SoundFile | None]:
    """Opens a recording in a file, or with `part` None a whole file of unknown format, with libsndfile.

    Yields None if libsndfile cannot read it but FFmpeg may. Raises a UserError for truncated or unreadable files.
    """
    if part is None and path.suffix.lower() == ".raw":  # soundfile would require a rate, whatever the file contains
        raise UserError(f"{path}: not audio that can be read ({media.KINDS}): .raw has no header")
    with ExitStack() as stack:
        yield _open(path, part, stack)


def _open(path: Path, part: Part | None, stack: ExitStack) -> soundfile.SoundFile | None:
    try:
        source: Any = os.fsencode(path)  # a file name need not be valid Unicode
        if part is not None and (part.start or part.end < path.stat().st_size or part.prefix):
            file = stack.enter_context(path.open("rb"))
            source = containers.Stretch(file, part.start, part.end, part.prefix)
        sound = stack.enter_context(soundfile.SoundFile(source))
    except OSError as error:
        raise UserError(f"{path}: cannot read this audio file: {error.strerror}") from None
    except (soundfile.SoundFileError, ValueError, TypeError, MemoryError) as error:
        if part is None or (part.form in ("ogg", "other") and not part.is_cut and part.missing_share < 0.01):
            return None
        raise UserError(
            f"{path}: truncated or damaged audio, or of a kind that cannot be read: {_reason(error)}"
        ) from None
    _check_rate(sound.samplerate, path)
    if part is not None:
        if part.is_cut:
            raise UserError(f"{path}: truncated: it ends in the middle of a page; what followed is missing")
        present = _expected(sound, part)
        if part.missing_share and present is not None:
            _check_missing(part.missing_share * present / sound.samplerate, path)
    return sound
