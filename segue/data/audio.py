"""How do sound files become samples? Any rate, any channels, wav, flac, ogg and mp3, to mono float32 in [-1, 1]."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from segue.errors import UserError

Samples = NDArray[np.float32]

# Headers count samples, manifests round: more than this is missing audio, not rounding.
TRUNCATION_SECONDS = 0.1

# An mp3 frame is made from those before it: where reading starts inside a file, so much is decoded and dropped.
LEAD_SECONDS = 0.5


def duration(path: Path) -> float:
    """Seconds of audio that the file's header declares."""
    with _open(path) as file:
        if file.frames <= 0:
            raise UserError(f"{path}: holds no audio")
        return float(file.frames / file.samplerate)


def read(path: Path, sample_rate_hz: int, offset_seconds: float = 0.0, seconds: float | None = None) -> Samples:
    """Mono samples of a file, or of `seconds` of it from `offset_seconds` on: (samples,).

    Raises a UserError for a file that is missing, not audio, empty, shorter than asked for, or holds NaN or infinity.
    """
    with _open(path) as file:
        rate = file.samplerate
        first = round(offset_seconds * rate)
        lead = min(first, round(LEAD_SECONDS * rate))
        wanted = max(file.frames - first, 0) if seconds is None else round(seconds * rate)
        try:
            if offset_seconds:
                file.seek(min(first - lead, file.frames))
            samples = file.read(lead + wanted, dtype="float32", always_2d=True)[lead:]
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path}: damaged audio: {error}") from None
        missing = wanted - len(samples)
    resampled = resample(_mono(samples, path), rate, sample_rate_hz)
    if not len(resampled):
        raise UserError(f"{path}: holds no audio" + (f" after {offset_seconds} s" if offset_seconds else ""))
    _check_missing(missing, rate, path)
    return resampled


def stream(path: Path, sample_rate_hz: int, block_seconds: float = 10.0) -> Iterator[Samples]:
    """The same samples as `read`, block by block, in memory that does not grow with the file."""
    with _open(path) as file:
        resampler = None
        if file.samplerate != sample_rate_hz:
            resampler = soxr.ResampleStream(file.samplerate, sample_rate_hz, 1, dtype="float32")
        # Otherwise soundfile seeks after each block, and the next one of an mp3 file starts with noise.
        file.seekable = lambda: False
        num_read = num_yielded = 0
        is_last = False
        while not is_last:
            try:
                # Not file.blocks(): where samples are missing it hands out what its buffer held before.
                block = file.read(round(block_seconds * file.samplerate), dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise UserError(f"{path}: damaged audio: {error}") from None
            num_read += len(block)
            is_last = not len(block)
            samples = _mono(block, path)
            if resampler is not None:
                samples = resampler.resample_chunk(samples, last=is_last)
            num_yielded += len(samples)
            yield samples
        if not num_yielded:
            raise UserError(f"{path}: holds no audio")
        _check_missing(file.frames - num_read, file.samplerate, path)


def write(path: Path, samples: Samples, sample_rate_hz: int) -> None:
    """Writes mono samples with 16 bits, in the format of the suffix; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate_hz, subtype="PCM_16")


def encoded(samples: Samples, sample_rate_hz: int) -> bytes:
    """Mono samples as the bytes of an ogg file, which browsers play."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate_hz, format="OGG", subtype="VORBIS")
    return file.getvalue()


class Codec(NamedTuple):
    """A lossy encoding, in libsndfile's words."""

    format: str
    subtype: str
    sample_rate_hz: int


def recoded(samples: Samples, codec: Codec) -> Samples:
    """Mono samples at the codec's rate, encoded as by default and decoded: (S) -> (about S)."""
    file = io.BytesIO()
    soundfile.write(file, samples, codec.sample_rate_hz, codec.subtype, format=codec.format)
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="float32")[0])


def resample(samples: Samples, from_hz: float, to_hz: float) -> Samples:
    """`samples` at another rate; rates need not be whole."""
    return samples if from_hz == to_hz else np.asarray(soxr.resample(samples, from_hz, to_hz), dtype=np.float32)


def padded(waveforms: Sequence[Samples]) -> tuple[Samples, NDArray[np.int64]]:
    """(B, longest) with zeros after each waveform, (B) lengths."""
    lengths = np.array([len(waveform) for waveform in waveforms], np.int64)
    rows = np.zeros((len(waveforms), lengths.max(initial=0)), np.float32)
    for row, waveform in zip(rows, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return rows, lengths


def mono(samples: NDArray[Any], name: str = "samples") -> Samples:
    """Mono float32 of floats in [-1, 1], or of signed whole numbers: (samples,) or (samples, channels) -> (samples,).

    Raises a UserError, with `name`, for other shapes and kinds, for no samples, and for NaN or infinity.
    """
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
    return _mono(samples.reshape(len(samples), -1).astype(np.float32), name)


def _mono(samples: Samples, name: str | Path) -> Samples:
    if not np.isfinite(samples).all():
        raise UserError(f"{name}: holds NaN or infinite samples")
    return np.asarray(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1))  # (S, channels) -> (S,)


def _check_missing(missing: int, rate: int, path: Path) -> None:
    if missing > TRUNCATION_SECONDS * rate:
        raise UserError(f"{path}: truncated: {missing / rate:.2f} s are missing")


def _open(path: Path) -> soundfile.SoundFile:
    try:
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path}: the file is empty")
        if path.suffix.lower() == ".raw":  # soundfile asks for a rate then, whatever the file holds
            raise UserError(f"{path}: not audio that can be read (wav, flac, ogg, mp3): .raw has no header")
        file = soundfile.SoundFile(path)
        declared = _riff_size(path) if file.format in ("WAV", "WAVEX") else 0
    except OSError as error:
        raise UserError(f"{path}: cannot read this audio file: {error.strerror}") from None
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: not audio that can be read (wav, flac, ogg, mp3): {error.error_string}") from None
    # libsndfile takes a wav file that was cut for a shorter one, but its first chunk tells.
    _check_missing(round((declared / size - 1) * file.frames), file.samplerate, path)
    return file


def _riff_size(path: Path) -> int:
    """Bytes that a wav file declares; 0 for other files, and where a program that wrote to a pipe could not know."""
    with path.open("rb") as file:
        header = file.read(8)
    size = int.from_bytes(header[4:], "little") + 8
    return size if header[:4] == b"RIFF" and size < 0x7FFF0000 else 0
