"""How do sound files become samples? Any rate, any channels, wav, flac, ogg and mp3, to mono float32 in [-1, 1]."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from segue.errors import UserError

Samples = NDArray[np.float32]

# Headers count samples, manifests round: more than this is missing audio, not rounding.
TRUNCATION_SECONDS = 0.1


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
        if offset_seconds:
            file.seek(min(round(offset_seconds * file.samplerate), file.frames))
        wanted = -1 if seconds is None else round(seconds * file.samplerate)
        try:
            samples = file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path}: damaged audio: {error}") from None
        rate = file.samplerate
        missing = (wanted if seconds is not None else file.frames) - len(samples)
    if not len(samples):
        raise UserError(f"{path}: holds no audio" + (f" after {offset_seconds} s" if offset_seconds else ""))
    if missing > TRUNCATION_SECONDS * rate:
        raise UserError(f"{path}: truncated: {missing / rate:.2f} s are missing")
    return resample(_mono(samples, path), rate, sample_rate_hz)


def stream(path: Path, sample_rate_hz: int, block_seconds: float = 10.0) -> Iterator[Samples]:
    """The same samples as `read`, block by block, in memory that does not grow with the file."""
    with _open(path) as file:
        resampler = None
        if file.samplerate != sample_rate_hz:
            resampler = soxr.ResampleStream(file.samplerate, sample_rate_hz, 1, dtype="float32")
        blocks = file.blocks(blocksize=round(block_seconds * file.samplerate), dtype="float32", always_2d=True)
        found = False
        try:
            for block in blocks:
                found = True
                samples = _mono(block, path)
                yield samples if resampler is None else resampler.resample_chunk(samples)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path}: damaged audio: {error}") from None
        if not found:
            raise UserError(f"{path}: holds no audio")
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def write(path: Path, samples: Samples, sample_rate_hz: int) -> None:
    """Writes mono samples with 16 bits, in the format of the suffix; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate_hz, subtype="PCM_16")


def resample(samples: Samples, from_hz: float, to_hz: float) -> Samples:
    """`samples` at another rate; rates need not be whole."""
    return samples if from_hz == to_hz else np.asarray(soxr.resample(samples, from_hz, to_hz), dtype=np.float32)


def _mono(samples: Samples, path: Path) -> Samples:
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: holds NaN or infinite samples")
    return np.asarray(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1))  # (S, channels) -> (S,)


def _open(path: Path) -> soundfile.SoundFile:
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        return soundfile.SoundFile(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read this audio file: {error.strerror}") from None
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: not audio that can be read (wav, flac, ogg, mp3): {error.error_string}") from None
