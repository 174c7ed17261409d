"""How is speech varied while it is learnt? Speed, noise, vocal tract, SpecAugment, joined utterances.

Every draw comes from a generator that the caller seeds by (seed, epoch, example): order and workers change nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from segue.data import audio
from segue.data.audio import Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.recipe import Section

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Indices = NDArray[np.int64]

# Between speech and the noise of a pause: from a busy street to a recording booth.
PAUSE_SNR_DB = (10.0, 80.0)


class AugmentationSection(Section):
    """Variation of the training speech; the defaults vary nothing."""

    speeds: Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], Field(min_length=1)] = (1.0,)
    """One is drawn per utterance; 1.1 is a tenth faster, pitch included (Ko et al. 2015, Interspeech)."""

    joined_utterances: Annotated[int, Field(ge=1, le=100)] = 1
    """Up to this many utterances of one speaker become one, joined afresh each epoch."""

    pause_probability: Share = 0.0
    """Share of (joined) utterances with pauses before, between and after their parts."""

    longest_pause_seconds: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Longest pause; its noise is anything from a street's to none."""

    noise_probability: Share = 0.0
    """Share of utterances with added noise."""

    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    """Lowest and highest signal-to-noise ratio in dB."""

    noise_manifest: str | None = None
    """Manifest of noise recordings, in `data.root`; without one the noise is white."""

    vocal_tract_warp: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The mel axis is stretched by a factor from 1 - this to 1 + this (after Jaitly and Hinton 2013)."""

    frequency_masks: Count = 0
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): number of masked bands."""

    frequency_width: Count = 6
    """Widest masked band in mel bins."""

    time_masks: Count = 0
    """SpecAugment: number of masked spans."""

    time_width: Count = 6
    """Longest masked span in frames of 10 ms; never over a fifth of the utterance."""

    @field_validator("noise_snr_db")
    @classmethod
    def _in_order(cls, lowest_and_highest: tuple[float, float]) -> tuple[float, float]:
        if lowest_and_highest[0] > lowest_and_highest[1]:
            raise ValueError("the lowest comes first")
        return lowest_and_highest


class FeatureAugmentation(NamedTuple):
    """What happens to one utterance's features, drawn beforehand so that a model needs no randomness."""

    warp: float
    """Factor on the mel axis."""
    frequency_spans: NDArray[np.int64]
    """(masks, 2): first bin, and the bin after the last."""
    time_spans: NDArray[np.int64]
    """(masks, 2): first frame, and the frame after the last."""


class Augmentation:
    """Draws and applies the variation that a section describes."""

    def __init__(self, section: AugmentationSection, sample_rate_hz: int, mel_bins: int, root: Path) -> None:
        self.section = section
        self.sample_rate_hz = sample_rate_hz
        self.mel_bins = mel_bins
        self.noise = None if section.noise_manifest is None else Manifest(Utterance, [root / section.noise_manifest])

    def join(self, pieces: Sequence[Samples], draw: np.random.Generator) -> Samples:
        """Utterances of (S) each, one after the other -> (S'), with pauses."""
        if draw.random() >= self.section.pause_probability:
            return np.concatenate(pieces)
        speech = float(np.sqrt(np.mean([np.square(piece).mean() for piece in pieces])))
        quiet = speech * 10 ** (-draw.uniform(*PAUSE_SNR_DB) / 20) if draw.random() < 0.9 else 0.0  # or digital silence
        parts = [self._pause(quiet, draw)]
        for piece in pieces:
            parts += [piece, self._pause(quiet, draw)]
        return np.concatenate(parts)

    def _pause(self, level: float, draw: np.random.Generator) -> Samples:
        seconds = draw.uniform(0, self.section.longest_pause_seconds)
        noise = draw.standard_normal(int(seconds * self.sample_rate_hz), dtype=np.float32)
        return noise * np.float32(level)

    def waveform(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """(S) -> (S'): speed, then noise."""
        speed = float(draw.choice(self.section.speeds))
        samples = audio.resample(samples, self.sample_rate_hz * speed, self.sample_rate_hz)
        if draw.random() < self.section.noise_probability:
            noise = self._noise(len(samples), draw)
            decibels = draw.uniform(*self.section.noise_snr_db)
            power = np.square(samples).mean() / max(float(np.square(noise).mean()), 1e-12)
            samples = samples + noise * np.float32(np.sqrt(power / 10 ** (decibels / 10)))
        return samples

    def features(self, num_frames: int, draw: np.random.Generator) -> FeatureAugmentation | None:
        """The warp and the masks for features of so many frames; None where the section has neither."""
        section = self.section
        if not (section.vocal_tract_warp or section.frequency_masks or section.time_masks):
            return None
        longest = min(section.time_width, num_frames // 5)
        return FeatureAugmentation(
            warp=1.0 + section.vocal_tract_warp * float(draw.uniform(-1, 1)),
            frequency_spans=_spans(section.frequency_masks, section.frequency_width, self.mel_bins, draw),
            time_spans=_spans(section.time_masks, longest, num_frames, draw),
        )

    def _noise(self, num_samples: int, draw: np.random.Generator) -> Samples:
        if self.noise is None:
            return draw.standard_normal(num_samples, dtype=np.float32)
        recording = self.noise[int(draw.integers(len(self.noise)))]
        samples = audio.read(recording.audio, self.sample_rate_hz, recording.offset_seconds, recording.seconds)
        start = int(draw.integers(len(samples)))
        return np.resize(np.roll(samples, -start), num_samples)


class Joining:
    """Which utterances are heard as one: each is heard exactly once an epoch, in other company each time.

    A speaker's utterances are sorted by length into groups of neighbours. A joined utterance is a fixed list of
    places in such groups, and an epoch deals each group's members out to its places anew: so the company changes,
    while the length stays below a bound that is known beforehand, as the batch plan needs it.
    """

    GROUP = 24  # many enough for new company each epoch, few enough for a tight bound

    def __init__(self, seconds: NDArray[np.float64], speakers: list[str | None], maximum: int, seed: int) -> None:
        """`seconds` and `speakers` of each utterance; an utterance without a speaker stays alone."""
        draw = np.random.default_rng([seed, 1])
        self._seed = seed
        self.groups: list[Indices] = []
        places: list[tuple[int, ...]] = []  # of each joined utterance: positions in the groups laid end to end
        bound = np.zeros(len(seconds))
        start = 0
        by_speaker: dict[str | None, list[int]] = {}
        for index, speaker in enumerate(speakers):
            by_speaker.setdefault(speaker, []).append(index)
        for speaker, members in by_speaker.items():
            ordered = np.array(members)[np.argsort(seconds[members], kind="stable")]
            for group in np.array_split(ordered, max(1, len(ordered) // self.GROUP)):
                bound[start : start + len(group)] = seconds[group].max()
                self.groups.append(group)
                start += len(group)
            left = draw.permutation(np.arange(start - len(ordered), start)).tolist()
            while left:
                size = 1 if speaker is None else int(draw.integers(1, maximum + 1))
                places.append(tuple(left[:size]))
                left = left[size:]
        self._places = places
        self.counts = np.array([len(place) for place in places])
        """Utterances in each joined utterance."""
        self.seconds = np.array([bound[list(place)].sum() for place in places])
        """Upper bound on the length of each joined utterance."""

    def __len__(self) -> int:
        return len(self._places)

    def members(self, index: int, epoch: int) -> list[int]:
        """The utterances that are joined utterance `index` in this epoch."""
        if getattr(self, "_epoch", None) != epoch:
            draw = np.random.default_rng([self._seed, 2, epoch])
            self._dealt = np.concatenate([draw.permutation(group) for group in self.groups])
            self._epoch = epoch
        return [int(self._dealt[place]) for place in self._places[index]]


def _spans(count: int, widest: int, size: int, draw: np.random.Generator) -> NDArray[np.int64]:
    widths = draw.integers(0, min(widest, size) + 1, size=count)
    starts = draw.integers(0, size - widths + 1)
    return np.stack([starts, starts + widths], axis=1).astype(np.int64).reshape(count, 2)
