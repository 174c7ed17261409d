"""What do most public models of voices read? Kaldi's log-mel features, in numpy, as sherpa-onnx computes them.

25 ms frames every 10 ms, reflected at the ends, mean removed, pre-emphasis, Povey window, power spectrum, mel filters
from 20 Hz to 400 Hz below half the sample rate (https://kaldi-asr.org/doc/feat.html); no dither.

Shape letters: S samples, T frames, F mel bins.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LOWEST_HZ, BELOW_NYQUIST_HZ = 20.0, 400.0
PRE_EMPHASIS = np.float32(0.97)
FLOOR = np.float32(1.1920929e-07)


def filter_bank(samples: NDArray[np.float32], sample_rate_hz: int, bins: int) -> NDArray[np.float32]:
    """(S) samples -> (T, F) log-mel features; T is S / shift, rounded, and at least 1."""
    window, shift = sample_rate_hz * 25 // 1000, sample_rate_hz * 10 // 1000
    num_frames = max(1, (len(samples) + shift // 2) // shift)
    # A position before the start or after the end is reflected, again and again for very short recordings.
    position = np.arange(window) + (np.arange(num_frames) * shift + shift // 2 - window // 2)[:, None]
    position %= 2 * len(samples)
    frames = samples[np.minimum(position, 2 * len(samples) - 1 - position)]  # (T, window)
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - PRE_EMPHASIS * before) * _povey(window)
    size = 1 << (window - 1).bit_length()
    spectrum = np.fft.rfft(frames, size)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    found: NDArray[np.float32] = np.log(np.maximum(power @ _filters(bins, size, sample_rate_hz).T, FLOOR))
    return found


@lru_cache
def _povey(window: int) -> NDArray[np.float32]:
    """(window): a Hann window to the power of 0.85."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
    return (hann**0.85).astype(np.float32)


@lru_cache
def _filters(bins: int, size: int, sample_rate_hz: int) -> NDArray[np.float32]:
    """(F, size / 2 + 1): triangles of height 1, evenly spaced and straight in mel, 1127 ln(1 + f / 700)."""

    def mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return 1127 * np.log1p(np.asarray(hertz) / 700)

    corners = np.linspace(mel(LOWEST_HZ), mel(sample_rate_hz / 2 - BELOW_NYQUIST_HZ), bins + 2)
    places = mel(np.arange(size // 2 + 1) * sample_rate_hz / size)
    left, center, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (places - left) / (center - left), (right - places) / (right - center)
    found = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    found[:, -1] = 0  # Kaldi leaves the bin at half the sample rate out
    return found
