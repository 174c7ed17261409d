"""Which channels of a recording are heard? Their mean, unless they cancel each other or hold different speakers.

Shape letters: S samples, C channels.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError

Samples = NDArray[np.float32]
Channel = int | Literal["mix"] | None
"""The number of one, from 1; "mix": the mean of all; None: the mean where it makes sense."""

NAMES: dict[str, Channel] = {"left": 1, "right": 2, "mix": "mix"}


def parse(value: Any) -> Channel:
    """A channel as people write it: left, right, mix or a number from 1; a ValueError for anything else."""
    if value is None or (isinstance(value, str) and value in NAMES):
        return NAMES[value] if value is not None else None
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"left, right, mix or a number from 1 wanted, got {value!r}")
    return int(value)


def pick(block: Samples, channel: Channel, name: str | Path) -> Samples:
    """(S, C) -> (S): one channel, or the mean of all.

    A UserError, with `name`, where there is no such channel, and for NaN or infinity.
    """
    _check_finite(block, name)
    num_channels = block.shape[1]
    if isinstance(channel, int):
        if channel > num_channels:
            raise UserError(f"{name}: no channel {channel}: it has {num_channels}")
        return np.asarray(block[:, channel - 1])
    return np.asarray(block[:, 0] if num_channels == 1 else block.mean(axis=1))


def choose(blocks: Iterable[tuple[int, Samples]], name: str | Path) -> Channel:
    """What to hear of a recording whose user did not say; `blocks`, rates and samples (S, C), are all of it.

    Channels of opposite phase, whose mean is silence, are copies of each other: the loudest is taken. A UserError, with
    `name`, where two channels hold sounds that have nothing in common: their mean is two speakers at once.
    """
    balance = None
    for rate, block in blocks:
        if balance is None and block.shape[1] == 1:
            return None
        if balance is None:
            balance = _Balance(rate, block.shape[1])
        _check_finite(block, name)
        balance.add(block)
    if balance is None:
        return None
    loudest = balance.cancelling()
    if loudest is not None:
        return loudest
    if balance.is_different():
        raise UserError(
            f"{name}: its two channels hold different speakers or sounds; say which to hear: --channel left, --channel "
            'right, or --channel mix ("channel": 1, 2 or "mix" in a manifest or in Python)'
        )
    return None


def _check_finite(block: Samples, name: str | Path) -> None:
    if not np.isfinite(block).all():
        raise UserError(f"{name}: holds NaN or infinite samples")


WINDOW_SECONDS = 1.0
LAG_SECONDS = 0.02
"""Sound needs so long over 7 m: microphones of one recording are not farther apart."""
FRAME_SECONDS = 0.02
MOST_COMPARED = 60
"""Windows whose channels are compared at all lags: it takes longer than the rest."""

# How alike the channels are where one is moved against the other (the peak), and when they are loud (the envelopes).
# Measured on sounds of different speakers and on one voice at two microphones of a room, with as much as four times the
# power from its walls as from the mouth: this tells 95 % of single digits (FSDD, half a second each) and all longer
# ones and sentences (LJSpeech) from any voice in a room.
LARGEST_PRODUCT, LARGEST_PEAK, ENVELOPE_WEIGHT, LARGEST_SUM = 0.4, 0.45, 0.7, 0.8
SHORTEST_SECONDS = 0.25
QUIET = 3e-3
"""A channel with less than this share of the other's power (-25 dB) is not in use."""


class _Balance:
    """What the channels have in common, window by window."""

    def __init__(self, rate: int, num_channels: int) -> None:
        self.rate, self.num_channels = rate, num_channels
        self.num_samples = 0
        self.power = np.zeros(num_channels)
        self.cancelled_power = 0.0
        self.product = 0.0
        """Of the two channels."""
        self.num_compared = 0
        self.compared_power = np.zeros(2)
        self.at_lags: NDArray[np.float64] = np.zeros(2 * round(LAG_SECONDS * rate) + 1)
        self.frames: list[NDArray[np.float64]] = []
        """(frames, 2) mean powers."""

    def add(self, block: Samples) -> None:
        """Takes the next samples (S, C) into account."""
        if block.shape[1] != self.num_channels:  # another recording in the same file
            return
        size = round(WINDOW_SECONDS * self.rate)
        for start in range(0, len(block), size):
            self._add_window(block[start : start + size].astype(np.float64))

    def _add_window(self, window: NDArray[np.float64]) -> None:
        self.num_samples += len(window)
        power = (window**2).sum(axis=0)
        self.power += power
        # 1 for channels that know nothing of each other, C for equal ones, 0 where their mean is silence.
        likeness = self.num_channels * (window.mean(axis=1) ** 2).sum() / max(power.mean(), 1e-20)
        if likeness < SMALLEST_LIKENESS:
            self.cancelled_power += power.sum()
        if self.num_channels != 2:
            return
        product = float(window[:, 0] @ window[:, 1])
        self.product += product
        frame = round(FRAME_SECONDS * self.rate)
        whole = window[: len(window) // frame * frame]
        self.frames.append((whole.reshape(-1, frame, 2) ** 2).mean(axis=1))
        is_unclear = abs(product) < 0.5 * np.sqrt(power[0] * power[1])
        if is_unclear and self.num_compared < MOST_COMPARED:
            self.num_compared += 1
            self.compared_power += power
            self.at_lags += _products_at_lags(window, len(self.at_lags) // 2)

    def cancelling(self) -> int | None:
        """The loudest channel where in a twentieth of the sound or more the mean of all is next to silence."""
        if self.cancelled_power <= 0.05 * self.power.sum() or not self.power.any():
            return None
        return int(self.power.argmax()) + 1

    def is_different(self) -> bool:
        """Do two channels, both in use, hold different sounds?"""
        if self.num_channels != 2 or self.power.min() <= QUIET * self.power.max():
            return False
        if abs(self.product) > LARGEST_PRODUCT * np.sqrt(self.power.prod()):
            return False
        if self.num_samples < SHORTEST_SECONDS * self.rate:
            return False
        peak = 0.0  # they are never in use at once
        if self.compared_power.all():
            peak = float(np.abs(self.at_lags).max() / np.sqrt(self.compared_power.prod()))
        return peak < LARGEST_PEAK and peak + ENVELOPE_WEIGHT * max(self._envelopes(), 0.0) < LARGEST_SUM

    def _envelopes(self) -> float:
        """How alike the two channels are in when they are loud, from -1 to 1."""
        decibels = 10 * np.log10(np.concatenate(self.frames).T + 1e-12)
        decibels = np.maximum(decibels, decibels.max(axis=1, keepdims=True) - 40)
        if decibels.shape[1] < 2 or (decibels.std(axis=1) < 1e-6).any():
            return 1.0
        return float(np.corrcoef(decibels)[0, 1])


SMALLEST_LIKENESS = 0.25


def _products_at_lags(window: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """(S, 2) -> (2 most + 1): the channels' product, one moved against the other by -most to most samples."""
    size = 1 << (2 * len(window)).bit_length()
    spectra = np.fft.rfft(window, size, axis=0)
    products = np.fft.irfft(spectra[:, 0] * spectra[:, 1].conj(), size)
    return np.concatenate([products[-most:], products[: most + 1]])
