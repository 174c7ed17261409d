"""How is training speech augmented? Speed, noise, band, level, codec, vocal tract, SpecAugment, joined utterances.

All random numbers come from a generator that the caller seeds with (seed, epoch, example), so results depend neither on
the order of examples nor on workers.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from segue.data import audio
from segue.data.audio import Codec, Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.errors import UserError
from segue.recipe import Section

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=1000)]
Indices = NDArray[np.int64]

# Signal-to-noise ratio of speech and the noise in pauses, from that of a busy street on. Noise further below is silence
# to a model whose features are normalized over speech: these are floored 30 dB below it.
PAUSE_SNR_DB = (0.0, 35.0)

# Number of examples that contain only noise, as a fraction of the (joined) utterances, if there are pauses at all.
NOISE_ALONE = 0.03

# Range of band limits: rumble filters cut below 50 Hz; a telephone transmits 300 to 3400 Hz.
LOWEST_BAND_HZ = (50.0, 350.0)
NARROWEST_BAND_HZ = 3200.0

# Codecs of telephones, recorders and messengers, at their rates.
CODECS = (
    Codec("WAV", "ULAW", 8000),
    Codec("WAV", "GSM610", 8000),
    Codec("MP3", "MPEG_LAYER_III", 8000),
    Codec("MP3", "MPEG_LAYER_III", 16000),
    Codec("OGG", "OPUS", 8000),
    Codec("OGG", "OPUS", 16000),
)


class AugmentationSection(Section):
    """Data augmentation of the training speech; with the defaults there is none."""

    speeds: Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], Field(min_length=1)] = (1.0,)
    """Speed factors, one drawn per utterance; 1.1 is 10 % faster, pitch included (Ko et al. 2015, Interspeech)."""

    joined_utterances: Annotated[int, Field(ge=1, le=100)] = 1
    """Up to this many utterances of one speaker are joined to one, differently in each epoch; if no line of the
    manifest names a speaker, of any speakers."""

    pause_probability: Share = 0.0
    """Fraction of (joined) utterances with pauses before, between and after their parts."""

    longest_pause_seconds: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Longest pause; half of the pauses are shorter than a quarter of it. They contain noise of a random level, from
    that of a street to none."""

    noise_probability: Share = 0.0
    """Fraction of utterances with added noise."""

    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    """Lowest and highest signal-to-noise ratio in dB."""

    noise_manifest: str | None = None
    """Manifest of noise recordings, in `data.root`; without one the noise is synthetic, white to brown."""

    level_db: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest gain in dB, one drawn per utterance; samples beyond full scale are clipped."""

    band_probability: Share = 0.0
    """Fraction of utterances that are band-limited, as by microphones and telephones."""

    codec_probability: Share = 0.0
    """Fraction of utterances passed through a codec: mu-law, GSM, MP3 or Opus."""

    vocal_tract_warp: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The mel axis is stretched by a factor from 1 - this to 1 + this (after Jaitly and Hinton 2013)."""

    fricatives_db: Annotated[float, Field(ge=0, le=30)] = 0.0
    """Frames with most of their power in the upper half of the mel bins, fricatives and the bursts of stops, become up
    to this much louder or quieter: how loud they are beside vowels differs between voices."""

    frequency_masks: Count = 0
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): number of masked bands."""

    frequency_width: Count = 6
    """Widest masked band in mel bins."""

    time_masks: Count = 0
    """SpecAugment: number of masked spans."""

    time_width: Count = 6
    """Longest masked span in frames of 10 ms; at most a fifth of the utterance."""

    @field_validator("noise_snr_db", "level_db")
    @classmethod
    def _in_order(cls, lowest_and_highest: tuple[float, float]) -> tuple[float, float]:
        if lowest_and_highest[0] > lowest_and_highest[1]:
            raise ValueError("the lowest value must come first")
        return lowest_and_highest


class FeatureAugmentation(NamedTuple):
    """Augmentation of one utterance's features, drawn in advance so that the model needs no random numbers."""

    warp: float
    """Factor on the mel axis."""
    fricatives_db: float
    """Added to the level of fricatives."""
    frequency_spans: NDArray[np.int64]
    """(masks, 2): first bin (inclusive), last bin (exclusive)."""
    time_spans: NDArray[np.int64]
    """(masks, 2): first frame (inclusive), last frame (exclusive)."""


class Augmentation:
    """Draws and applies the augmentation that a section describes."""

    def __init__(self, section: AugmentationSection, sample_rate_hz: int, mel_bins: int, root: Path) -> None:
        if section.fricatives_db and mel_bins < 2:
            raise UserError("augmentation.fricatives_db needs two mel bins (features.mel_bins)")
        self.section = section
        self.sample_rate_hz = sample_rate_hz
        self.mel_bins = mel_bins
        self.noise = None if section.noise_manifest is None else Manifest(Utterance, [root / section.noise_manifest])

    def join(self, pieces: Sequence[Samples], pauses: Sequence[float], draw: np.random.Generator) -> Samples:
        """Joins utterances of shape (S) each, with `pauses` in seconds before, between and after them -> (S').

        With empty `pauses` the utterances are concatenated. With a pause and no utterances the result is noise.
        """
        if not pauses:
            return np.concatenate(pieces)
        powers = [np.square(piece).mean() for piece in pieces]
        speech = float(np.sqrt(np.mean(powers))) if powers else 1.0
        quiet = speech * 10 ** (-draw.uniform(*PAUSE_SNR_DB) / 20) if draw.random() < 0.8 else 0.0  # or digital silence
        lengths = [int(seconds * self.sample_rate_hz) for seconds in pauses]
        noise = np.float32(quiet) * _colored_noise(sum(lengths), self.sample_rate_hz, draw)
        first, *others = np.split(noise, np.cumsum(lengths[:-1]))
        return np.concatenate([first, *(part for pair in zip(pieces, others, strict=True) for part in pair)])

    def waveform(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """(S) -> (S'): speed, noise, then the effects of a recording chain: band, level, codec."""
        section = self.section
        speed = float(draw.choice(section.speeds))
        samples = audio.resample(samples, self.sample_rate_hz * speed, self.sample_rate_hz)
        if draw.random() < section.noise_probability:
            noise = self._noise(len(samples), draw)
            decibels = draw.uniform(*section.noise_snr_db)
            power = np.square(samples).mean() / max(float(np.square(noise).mean()), 1e-12)
            samples = samples + noise * np.float32(np.sqrt(power / 10 ** (decibels / 10)))
        if draw.random() < section.band_probability:
            samples = self._band(samples, draw)
        if section.level_db != (0.0, 0.0):
            samples = (samples * np.float32(10 ** (draw.uniform(*section.level_db) / 20))).clip(-1, 1)
        if draw.random() < section.codec_probability:
            samples = self._coded(samples, draw)
        return samples

    def _band(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """(S) -> (S): band-pass filter with random limits; each edge is a quarter of an octave wide."""
        nyquist = self.sample_rate_hz / 2
        low = LOWEST_BAND_HZ[0] * (LOWEST_BAND_HZ[1] / LOWEST_BAND_HZ[0]) ** draw.random()
        high = min(NARROWEST_BAND_HZ, nyquist) * max(1.0, nyquist / NARROWEST_BAND_HZ) ** draw.random()
        hertz = np.fft.rfftfreq(len(samples), 1 / self.sample_rate_hz).clip(min=1.0)
        octaves = np.minimum(np.log2(hertz / low), np.log2(high / hertz))  # inside the band; negative outside
        gain = 1 / (1 + np.exp(-16 * octaves.clip(-4, 4)))
        return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples)).astype(np.float32)

    def _coded(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """(S) -> (S): encoded and decoded with a random codec."""
        usable = [codec for codec in CODECS if codec.sample_rate_hz <= max(8000, self.sample_rate_hz)]
        codec = usable[int(draw.integers(len(usable)))]
        coded = audio.recoded(audio.resample(samples, self.sample_rate_hz, codec.sample_rate_hz), codec)
        coded = audio.resample(coded, codec.sample_rate_hz, self.sample_rate_hz)[: len(samples)]
        return np.pad(coded, (0, len(samples) - len(coded)))

    def features(self, num_frames: int, draw: np.random.Generator) -> FeatureAugmentation | None:
        """What is done to features of `num_frames` frames; None if the section has none of it."""
        section = self.section
        if not (section.vocal_tract_warp or section.fricatives_db or section.frequency_masks or section.time_masks):
            return None
        longest = min(section.time_width, num_frames // 5)
        return FeatureAugmentation(
            warp=1.0 + section.vocal_tract_warp * float(draw.uniform(-1, 1)),
            # Drawn only where it is used: other recipes' random numbers stay what they were.
            fricatives_db=section.fricatives_db * float(draw.uniform(-1, 1)) if section.fricatives_db else 0.0,
            frequency_spans=_spans(section.frequency_masks, section.frequency_width, self.mel_bins, draw),
            time_spans=_spans(section.time_masks, longest, num_frames, draw),
        )

    def _noise(self, num_samples: int, draw: np.random.Generator) -> Samples:
        if self.noise is None:
            return _colored_noise(num_samples, self.sample_rate_hz, draw)
        recording = self.noise[int(draw.integers(len(self.noise)))]
        samples = audio.read(
            recording.audio,
            self.sample_rate_hz,
            recording.offset_seconds,
            recording.seconds,
            recording.channel or "mix",
        )
        start = int(draw.integers(len(samples)))
        return np.resize(np.roll(samples, -start), num_samples)


class Joining:
    """Chooses which utterances are joined: each is used exactly once per epoch, joined with different ones each time.

    A speaker's utterances are sorted by length and cut into groups. A joined utterance is a fixed list of slots in
    these groups, and in each epoch the members of a group are assigned to its slots at random. So combinations change,
    while the length of each joined utterance has a bound that is known in advance, as the batch plan needs it.
    """

    GROUP = 24  # large enough for new combinations in each epoch, small enough for a tight bound

    def __init__(
        self,
        seconds: NDArray[np.float64],
        speakers: list[str | None],
        section: AugmentationSection,
        seed: int,
        *,
        has_noise_alone: bool = True,
    ) -> None:
        """`seconds` and `speakers` of each utterance; one without a speaker is not joined, unless none has one.

        With `has_noise_alone` and pauses, some training examples are noise without speech.
        """
        draw = np.random.default_rng([seed, 1])
        self._seed = seed
        self.groups: list[Indices] = []
        places: list[tuple[int, ...]] = []  # for each joined utterance: positions in the concatenated groups
        bound = np.zeros(len(seconds))
        start = 0
        by_speaker: dict[str | None, list[int]] = {}
        if section.joined_utterances == 1:
            speakers = [None] * len(seconds)
        elif all(speaker is None for speaker in speakers):
            # As if all were of one speaker: a model trained on single words does not output two in a row.
            speakers = [""] * len(seconds)
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
                size = 1 if speaker is None else int(draw.integers(1, section.joined_utterances + 1))
                places.append(tuple(left[:size]))
                left = left[size:]
        self.pauses = [
            tuple((section.longest_pause_seconds * draw.random(len(place) + 1) ** 2).tolist())
            if draw.random() < section.pause_probability
            else ()
            for place in places
        ]
        """Seconds of pause before, between and after the parts of each joined utterance; () for no pauses."""
        if section.pause_probability and has_noise_alone:  # the model must also learn to output nothing
            num_alone = math.ceil(NOISE_ALONE * len(places))
            self.pauses += [(section.longest_pause_seconds * draw.uniform(0.2, 1),) for _ in range(num_alone)]
            places += [()] * num_alone
        self.seconds = np.array([bound[list(p)].sum() + sum(q) for p, q in zip(places, self.pauses, strict=True)])
        """Upper bound on the length of each joined utterance, pauses included."""
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def members(self, index: int, epoch: int) -> list[int]:
        """Indices of the utterances that joined utterance `index` consists of in this epoch."""
        if getattr(self, "_epoch", None) != epoch:
            draw = np.random.default_rng([self._seed, 2, epoch])
            self._dealt = np.concatenate([draw.permutation(group) for group in self.groups])
            self._epoch = epoch
        return [int(self._dealt[place]) for place in self._places[index]]


def _spans(count: int, widest: int, size: int, draw: np.random.Generator) -> NDArray[np.int64]:
    widths = draw.integers(0, min(widest, size) + 1, size=count)
    starts = draw.integers(0, size - widths + 1)
    return np.stack([starts, starts + widths], axis=1).astype(np.int64).reshape(count, 2)


def _colored_noise(num_samples: int, sample_rate_hz: int, draw: np.random.Generator) -> Samples:
    """(num_samples) noise of power 1: white, or falling by up to 9 dB per octave, as in rooms, streets and of fans."""
    noise = draw.standard_normal(num_samples, dtype=np.float32)
    slope = draw.uniform(-1.0, 1.5)  # exponent of the amplitude; white below 0
    if slope <= 0 or not num_samples:
        return noise
    hertz = np.fft.rfftfreq(num_samples, 1 / sample_rate_hz).clip(min=20.0)
    colored = np.fft.irfft(np.fft.rfft(noise) * hertz**-slope, num_samples)
    return (colored / max(float(np.sqrt(np.square(colored).mean())), 1e-12)).astype(np.float32)
