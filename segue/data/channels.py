"""Which channels of a recording are used? Their mean, unless they cancel each other or contain different speakers.

Shape letters: S samples, C channels.
"""

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError

Samples = NDArray[np.float32]
Channel = int | Literal["mix"] | None
"""Number of a channel, from 1; "mix": the mean of all; None: chosen automatically (`choose`)."""

NAMES: dict[str, Channel] = {"left": 1, "right": 2, "mix": "mix"}


def parse(value: Any) -> Channel:
    """The channel for left, right, mix or a number from 1. Raises a ValueError for anything else."""
    if value is None or (isinstance(value, str) and value in NAMES):
        return NAMES[value] if value is not None else None
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"left, right, mix or a number from 1 wanted, got {value!r}")
    return int(value)


def pick(block: Samples, channel: Channel, name: str | Path) -> Samples:
    """(S, C) -> (S): one channel, or the mean of all.

    Raises a UserError, prefixed by `name`, if there is no such channel, and for NaN or infinity.
    """
    _check_finite(block, name)
    num_channels = block.shape[1]
    if isinstance(channel, int):
        if channel > num_channels:
            raise UserError(f"{name}: no channel {channel}: it has {num_channels}")
        return np.asarray(block[:, channel - 1])
    return np.asarray(block[:, 0] if num_channels == 1 else block.mean(axis=1))


class DifferentChannelsError(UserError):
    """Two channels hold unrelated sounds, and none was chosen. `fact` says so without the options of commands."""

    def __init__(self, fact: str, advice: str = "") -> None:
        super().__init__("; ".join(filter(None, (fact, advice))))
        self.fact = fact


def choose(blocks: Iterable[tuple[int, Samples]], name: str | Path) -> Channel:
    """Chooses the channel to use if the user names none; `blocks` are (rate, samples (S, C)) of the whole recording.

    The result is None for the mean of all channels. Channels of opposite phase, whose mean is silence, are copies of
    each other: the loudest is chosen. Raises a UserError, prefixed by `name`, if two channels contain unrelated sounds,
    whose mean would be two speakers at once. Recordings with more than MOST_CHANNELS, as of microphone arrays, are not
    examined: their mean is used.
    """
    balance = None
    for rate, block in blocks:
        if block.shape[1] == 1:  # nothing to choose; a later recording in the file may have two
            continue
        if balance is None:
            balance = _Balance(rate, block.shape[1])
        _check_finite(block, name)
        balance.add(block)
    if balance is None:
        return None
    loudest = balance.canceling()
    if loudest is not None:
        return loudest
    different = balance.different()
    if different is not None:
        one, other = different
        if balance.num_channels == 2:
            whose, options, numbers = "its two channels", "--channel left, --channel right, or", "1, 2 or"
        else:
            whose = f"channels {one} and {other} of its {balance.num_channels}"
            options, numbers = f"--channel {one}, --channel {other}, another number, or", "a number or"
        raise DifferentChannelsError(
            f"{name}: {whose} hold different speakers or sounds",
            f"say which to use: {options} --channel mix "
            f'("channel": {numbers} "mix" in a manifest or in Python); segue transcribe --channels keeps them apart',
        )
    return None


def _check_finite(block: Samples, name: str | Path) -> None:
    if not np.isfinite(block).all():
        raise UserError(f"{name}: holds NaN or infinite samples")


WINDOW_SECONDS = 1.0
LAG_SECONDS = 0.02
"""Time of flight over 7 m: microphones of one recording are assumed not to be farther apart."""
FRAME_SECONDS = 0.02
MOST_COMPARED, MOST_COMPARISONS = 60, 360
"""Windows in which channels are compared at all lags, which is the slowest part: per pair, and over all pairs."""
MOST_CHANNELS = 16

# Thresholds of the similarity of two channels: of their cross-correlation (peak) and of their envelopes.
# Measured on recordings of different speakers, and on one voice at two microphones in a room with up to four times as
# much reverberant as direct power: these values distinguish 95 % of single digits (FSDD, half a second each) and all
# longer ones and sentences (LJSpeech) from any single voice in a room.
LARGEST_PRODUCT, LARGEST_PEAK, ENVELOPE_WEIGHT, LARGEST_SUM = 0.4, 0.45, 0.7, 0.8
SHORTEST_SECONDS = 0.25
QUIET = 3e-3
"""A channel with less than this fraction of the loudest one's power (-25 dB) counts as unused."""


class _Balance:
    """Accumulates the similarity of channels, window by window."""

    def __init__(self, rate: int, num_channels: int) -> None:
        self.rate, self.num_channels = rate, num_channels
        self.num_samples = 0
        self.power = np.zeros(num_channels)
        self.canceled_power = 0.0
        count = num_channels if num_channels <= MOST_CHANNELS else 0
        self.pairs = {each: _Pair(rate) for each in combinations(range(count), 2)}
        self.frames: list[NDArray[np.float64]] = []
        """(frames, C) mean powers."""

    def add(self, block: Samples) -> None:
        """Adds the next samples (S, C)."""
        if block.shape[1] != self.num_channels:  # another recording in the same file
            return
        size = round(WINDOW_SECONDS * self.rate)
        for start in range(0, len(block), size):
            self._add_window(block[start : start + size].astype(np.float64))

    def _add_window(self, window: NDArray[np.float64]) -> None:
        self.num_samples += len(window)
        power = (window**2).sum(axis=0)
        self.power += power
        # 1 for uncorrelated channels, C for equal ones, 0 if their mean is silence.
        likeness = self.num_channels * (window.mean(axis=1) ** 2).sum() / max(power.mean(), 1e-20)
        if likeness < SMALLEST_LIKENESS:
            self.canceled_power += power.sum()
        if not self.pairs:
            return
        frame = round(FRAME_SECONDS * self.rate)
        whole = window[: len(window) // frame * frame]
        self.frames.append((whole.reshape(-1, frame, self.num_channels) ** 2).mean(axis=1))
        products = window.T @ window
        most = min(MOST_COMPARED, max(1, MOST_COMPARISONS // len(self.pairs)))
        spectra: NDArray[np.complex128] | None = None
        for two, pair in self.pairs.items():
            product = float(products[two])
            pair.product += product
            both = power[list(two)]
            if abs(product) < 0.5 * np.sqrt(both.prod()) and pair.is_compared(both, most):
                if spectra is None:
                    spectra = np.fft.rfft(window, 1 << (2 * len(window)).bit_length(), axis=0)
                pair.compare(spectra[:, list(two)], both)

    def canceling(self) -> int | None:
        """The loudest channel if the mean of all is nearly silent in more than a twentieth of the power, else None."""
        if self.canceled_power <= 0.05 * self.power.sum() or not self.power.any():
            return None
        return int(self.power.argmax()) + 1

    def different(self) -> tuple[int, int] | None:
        """Numbers of two channels, both in use, that contain different sounds; None if there are none."""
        if self.num_samples < SHORTEST_SECONDS * self.rate:
            return None
        is_used = self.power > QUIET * self.power.max()
        for (one, other), pair in self.pairs.items():
            if is_used[one] and is_used[other] and self._is_different(one, other, pair):
                return one + 1, other + 1
        return None

    def _is_different(self, one: int, other: int, pair: "_Pair") -> bool:
        if abs(pair.product) > LARGEST_PRODUCT * np.sqrt(self.power[one] * self.power[other]):
            return False
        peak = pair.peak()
        return peak < LARGEST_PEAK and peak + ENVELOPE_WEIGHT * max(self._envelopes(one, other), 0.0) < LARGEST_SUM

    def _envelopes(self, one: int, other: int) -> float:
        """Correlation of two channels' levels in dB over time, from -1 to 1."""
        decibels = 10 * np.log10(np.concatenate(self.frames)[:, [one, other]].T + 1e-12)
        decibels = np.maximum(decibels, decibels.max(axis=1, keepdims=True) - 40)
        if decibels.shape[1] < 2 or (decibels.std(axis=1) < 1e-6).any():
            return 1.0
        return float(np.corrcoef(decibels)[0, 1])


class _Pair:
    """Accumulates the similarity of two channels."""

    def __init__(self, rate: int) -> None:
        self.product = 0.0
        self.num_compared = 0
        self.compared_power = np.zeros(2)
        self.at_lags: NDArray[np.float64] = np.zeros(2 * round(LAG_SECONDS * rate) + 1)

    def is_compared(self, power: NDArray[np.float64], most: int) -> bool:
        """Whether to compare a window at all lags: the first `most`, then only ones with more power than all before."""
        return self.num_compared < most or bool(power.prod() > self.compared_power.prod())

    def compare(self, spectra: NDArray[np.complex128], power: NDArray[np.float64]) -> None:
        """Adds a window; `spectra`: (frequencies, 2)."""
        self.num_compared += 1
        self.compared_power += power
        most = len(self.at_lags) // 2
        products = np.fft.irfft(spectra[:, 0] * spectra[:, 1].conj())
        self.at_lags += np.concatenate([products[-most:], products[: most + 1]])

    def peak(self) -> float:
        """Maximum of the normalized cross-correlation, from 0 to 1; 0 if the channels are never in use at once."""
        if not self.compared_power.all():
            return 0.0
        return float(np.abs(self.at_lags).max() / np.sqrt(self.compared_power.prod()))


SMALLEST_LIKENESS = 0.25
