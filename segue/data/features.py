"""What is the input of a speech model? Log-mel features, the same code in training, inference and the exported graph.

They equal those that sherpa-onnx computes: 25 ms frames every 10 ms, Kaldi's reflection at the ends of each utterance,
pre-emphasis within each frame, periodic Hann window, power spectrum, Slaney mel filters, and the same floor, except for
quiet recordings with `normalization = "speech"`.

Shape letters: B batch, S samples, T frames, F mel bins.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from segue.data.augmentation import FeatureAugmentation
from segue.layers.mask import length_mask
from segue.recipe import Section

FRAME_MS = 25
SHIFT_MS = 10
PRE_EMPHASIS = 0.97
FLOOR = 1.1920929e-07  # float32's epsilon: the floor of the mel power in Kaldi and sherpa-onnx
# Floor for normalization over speech: speech in quiet recordings is below Kaldi's floor, which was designed for samples
# of +-32768. This one is below the rounding of 16-bit samples, and has no effect at usual levels, where the
# normalization's own floor is far above.
QUIET_FLOOR = 1e-10
VARIANCE_EPSILON = 1e-5

# Parameters of normalization over speech, chosen by the experiments in bench/RESULTS.md.
LOUD_NATS = 1.0
SPEECH_NATS = 3.0
RANGE_NATS = 7.0  # floor, below the loudness of an average bin
SPEECH_VARIANCE_EPSILON = 0.1  # so that a bin mostly at the floor is not amplified
USUAL_DEVIATION_NATS = 3.0  # of a bin, where all are divided by the same number

Normalization = Literal["utterance", "speech"]

Count = TypeVar("Count", int, Tensor)


class LogMelSection(Section):
    """Log-mel features."""

    kind: Literal["log_mel"] = "log_mel"
    """Log-mel features that equal those of sherpa-onnx."""

    sample_rate_hz: Annotated[int, Field(ge=4000, le=48000)] = 16000
    """Audio at other rates is resampled to this one."""

    mel_bins: Annotated[int, Field(gt=0, le=256)] = 64
    """Mel filters from 0 Hz to `top_hz`."""

    top_hz: Annotated[float, Field(gt=1000)] | None = None
    """Upper end of the highest mel filter; None: half the sample rate. sherpa-onnx's models of voices need 400 Hz less
    than that."""

    normalization: Normalization = "utterance"
    """Which frames determine mean and variance of each bin: all of an utterance, or only speech, within 13 dB of its
    loudness. "speech" also floors features 30 dB below the loudness, so that the features of speech depend neither on
    pauses, however long and quiet, nor on the level of a recording."""

    unit_variance: bool = True
    """Whether each bin is divided by its own standard deviation, or, only with normalization over speech, all by the
    same number. A bin's deviation in a single word tells which word it is: classes of single words of new
    voices are found far better without the division (bench/RESULTS.md)."""

    removed_spectrum: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of an utterance's mean spectrum that is subtracted: 1 makes the mean of each bin 0, which removes what a
    microphone adds; 0, only without unit variance, subtracts the mean of all bins, the level, alone. In a single word
    the mean spectrum is largely that of its vowel: subtracting all of it leaves little of a word like "two"."""

    @property
    def highest_hz(self) -> float:
        """Upper end of the highest mel filter."""
        return self.sample_rate_hz / 2 if self.top_hz is None else self.top_hz

    def build(self) -> "LogMel":
        """The front end."""
        return LogMel(self)

    @model_validator(mode="after")
    def _is_below_half_the_rate(self) -> Self:
        if self.highest_hz > self.sample_rate_hz / 2:
            raise ValueError(f"top_hz: {self.top_hz:g} is above half the sample rate ({self.sample_rate_hz / 2:g})")
        return self

    @model_validator(mode="after")
    def _is_over_speech(self) -> Self:
        if not self.unit_variance and self.normalization != "speech":
            raise ValueError('unit_variance: false needs normalization = "speech"')
        if self.unit_variance and self.removed_spectrum < 1:  # a quiet bin's mean would be multiplied by hundreds
            raise ValueError("removed_spectrum: below 1 it needs unit_variance = false")
        return self


class FrontEnd(Protocol):
    """Waveforms to normalized features: the first part of a speech model."""

    shift: int
    """Samples between the starts of two frames."""

    def num_frames(self, num_samples: Count) -> Count:
        """Number of frames for a number of samples."""
        ...

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B) lengths -> (B, F, T) features, (B) numbers of frames; later frames are arbitrary."""
        ...

    def normalize(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, T), (B) -> (B, F, T): normalized over an utterance's frames; padding becomes 0."""
        ...


class LogMel(nn.Module):
    """Waveforms in [-1, 1] to log-mel features."""

    def __init__(self, section: LogMelSection) -> None:
        super().__init__()
        self.window = section.sample_rate_hz * FRAME_MS // 1000  # rounded down, as Kaldi does
        self.shift = section.sample_rate_hz * SHIFT_MS // 1000
        self.normalization = section.normalization
        self.unit_variance, self.removed_spectrum = section.unit_variance, section.removed_spectrum
        self._floor = QUIET_FLOOR if section.normalization == "speech" else FLOOR
        self.filters: Tensor
        self.spectrum: Tensor
        bins = 1 << (self.window - 1).bit_length()  # FFT size: the next power of two of the frame length
        filters = slaney_filters(section.mel_bins, bins, section.sample_rate_hz, section.highest_hz)
        # Constants rather than weights: computed from the recipe, so not saved.
        # Tiled: the squares of real and imaginary parts are filtered and summed in one product.
        self.register_buffer("filters", torch.from_numpy(np.tile(filters, 2)), persistent=False)
        self.register_buffer("spectrum", torch.from_numpy(_spectrum(self.window, bins)), persistent=False)

    def num_frames(self, num_samples: Count) -> Count:
        """Number of frames for a number of samples, rounded as Kaldi does with snip_edges=False."""
        return (num_samples + self.shift // 2) // self.shift

    def normalize(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, T), (B) -> (B, F, T): see `normalize`."""
        return normalize(
            features,
            frames,
            self.normalization,
            unit_variance=self.unit_variance,
            removed_spectrum=self.removed_spectrum,
        )

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B) lengths -> (B, F, T) log-mel features, (B) numbers of frames.

        Frames beyond an utterance's end are arbitrary. Computed in float32, whatever the model's precision.
        """
        frames = self.num_frames(lengths)
        # At least one frame: the convolution needs one, even if an utterance is too short to have any.
        longest: int = torch.sym_max(self.num_frames(waveforms.shape[1]), 1)  # type: ignore[no-untyped-call]
        total = (longest - 1) * self.shift + self.window
        first = self.shift // 2 - self.window // 2
        # Kaldi's reflection at the ends of each utterance, repeated for very short ones: positions are a triangle wave.
        # int32, since its remainder takes a fifth of the time of int64 on a CPU.
        position = torch.arange(total, dtype=torch.int32, device=waveforms.device) + first
        period = 2 * lengths.to(torch.int32).clamp(min=1).unsqueeze(1)
        position = torch.remainder(position.unsqueeze(0), period)  # (B, total)
        position = torch.minimum(position, period - 1 - position)
        framed = waveforms.gather(1, position.long()).unsqueeze(1)  # (B, 1, total)
        # Framing, pre-emphasis, window and Fourier transform are linear, so they are one convolution.
        parts = transformed(framed, self.spectrum, self.shift)
        mel = torch.matmul(self.filters, parts * parts)  # (B, F, T)
        return mel.clamp(min=self._floor).log(), frames


def prepare(
    front_end: FrontEnd, waveforms: Tensor, lengths: Tensor, augmentation: "FeatureTensors | None" = None
) -> tuple[Tensor, Tensor]:
    """(B, S) samples, (B) lengths -> (B, F, T) normalized features, (B) numbers of frames: an encoder's input."""
    with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
        features, frames = front_end(waveforms, lengths)
        if augmentation is not None:
            features = balance(warp(features, augmentation.warps), augmentation.fricatives_db)
        features = front_end.normalize(features, frames)
        if augmentation is not None:
            features = mask(features, augmentation)
    return features, frames


def transformed(framed: Tensor, spectrum: Tensor, shift: int) -> Tensor:
    """(B, 1, samples), kernels (2 * bins, 1, window) -> (B, 2 * bins, T): real, then imaginary parts of spectra."""
    if framed.device.type == "cuda":
        from segue.data.exact_convolution import exact_conv1d

        return exact_conv1d(framed, spectrum, shift)  # type: ignore[no-any-return]
    return F.conv1d(framed, spectrum, stride=shift)


def normalize(
    features: Tensor,
    frames: Tensor,
    over: Normalization,
    *,
    unit_variance: bool = True,
    removed_spectrum: float = 1.0,
) -> Tensor:
    """(B, F, T), (B) -> (B, F, T): each bin to mean 0 and variance 1 over an utterance's frames; padding becomes 0.

    `over`, `unit_variance` and `removed_spectrum` are those of `LogMelSection`. The variance is biased, plus an
    epsilon, so that a silent recording gives zeros.
    """
    mask = length_mask(frames, features.shape[2])
    weight, epsilon = mask.to(features.dtype), VARIANCE_EPSILON
    if over == "speech":
        level = features.masked_fill(~mask, -100.0).logsumexp(dim=1, keepdim=True)  # (B, 1, T): of all bins together
        # Loudness: mean level of the frames, weighted by amplitude, so that a single click has little effect. Computed
        # a second time over loud frames only, since long noisy pauses lower the first estimate.
        amplitude = (level / 2).softmax(dim=2)
        loudness = (amplitude * level).sum(dim=2, keepdim=True)
        amplitude = amplitude * _above(level, loudness - LOUD_NATS)
        loudness = (amplitude * level).sum(dim=2, keepdim=True) / amplitude.sum(dim=2, keepdim=True)
        features = features.maximum(loudness - math.log(features.shape[1]) - RANGE_NATS)
        weight = weight * _above(level, loudness - SPEECH_NATS)
        epsilon = SPEECH_VARIANCE_EPSILON
    count = weight.sum(dim=2, keepdim=True).clamp(min=1)
    mean = (features * weight).sum(dim=2, keepdim=True) / count
    centered = features - mean
    if unit_variance:
        variance = (centered.square() * weight).sum(dim=2, keepdim=True) / count
        found = centered * torch.rsqrt(variance + epsilon)
    else:
        found = centered + (1 - removed_spectrum) * (mean - mean.mean(dim=1, keepdim=True))
        found = found / USUAL_DEVIATION_NATS
    return found.masked_fill(~mask, 0.0)


def _above(level: Tensor, threshold: Tensor) -> Tensor:
    """1 above and 0 below the threshold, with a soft edge: rounding errors of a level must not switch a frame."""
    return torch.sigmoid(4 * (level - threshold))


class FeatureTensors(NamedTuple):
    """`FeatureAugmentation`s of a batch."""

    warps: Tensor
    """(B)"""
    fricatives_db: Tensor
    """(B)"""
    frequency_spans: Tensor
    """(B, masks, 2)"""
    time_spans: Tensor
    """(B, masks, 2)"""


def stacked(drawn: Sequence[FeatureAugmentation]) -> FeatureTensors:
    """The augmentations of a batch as tensors."""
    return FeatureTensors(
        torch.tensor([each.warp for each in drawn], dtype=torch.float32),
        torch.tensor([each.fricatives_db for each in drawn], dtype=torch.float32),
        torch.from_numpy(np.stack([each.frequency_spans for each in drawn])),
        torch.from_numpy(np.stack([each.time_spans for each in drawn])),
    )


def warp(features: Tensor, warps: Tensor) -> Tensor:
    """(B, F, T), (B) -> (B, F, T): bin f is interpolated linearly at f x warp, clamped to the last bin."""
    bins = features.shape[1]
    place = (torch.arange(bins, device=features.device) * warps.unsqueeze(1)).clamp(max=bins - 1)  # (B, F)
    below = place.floor().long()
    share = (place - below).unsqueeze(2)
    below = below.unsqueeze(2).expand_as(features)
    above = (below + 1).clamp(max=bins - 1)
    return torch.lerp(features.gather(1, below), features.gather(1, above), share)


def balance(features: Tensor, fricatives_db: Tensor) -> Tensor:
    """(B, F, T), (B) -> (B, F, T): frames with more power in the upper half of the bins are changed by that many dB.

    Frames with equal power in both halves are changed by half of it, vowels hardly.
    """
    lower, upper = (half.logsumexp(dim=1, keepdim=True) for half in features.chunk(2, dim=1))
    nats = fricatives_db.view(-1, 1, 1) * (math.log(10) / 10)
    return features + nats * torch.sigmoid(upper - lower)


def mask(features: Tensor, augmentation: FeatureTensors) -> Tensor:
    """(B, F, T) -> (B, F, T) with masked bands and spans set to 0, the level of normalized features."""
    for axis, spans in ((1, augmentation.frequency_spans), (2, augmentation.time_spans)):
        place = torch.arange(features.shape[axis], device=features.device)
        inside = (place >= spans[..., :1]) & (place < spans[..., 1:])  # (B, masks, size)
        features = features.masked_fill(inside.any(dim=1).unsqueeze(3 - axis), 0.0)
    return features


def slaney_filters(
    mel_bins: int, bins: int, sample_rate_hz: int, highest_hz: float | None = None
) -> NDArray[np.float32]:
    """(F, bins / 2 + 1): triangles of equal area, evenly spaced in Slaney's mel (Auditory Toolbox, 1998).

    They end at `highest_hz`, by default half the sample rate.
    """
    top = _hertz_to_mel(np.array(sample_rate_hz / 2 if highest_hz is None else highest_hz))
    corners = _mel_to_hertz(np.linspace(0.0, top, mel_bins + 2))
    hertz = np.arange(bins // 2 + 1) * sample_rate_hz / bins
    left, center, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (hertz - left) / (center - left), (right - hertz) / (right - center)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * 2.0 / (right - left)).astype(np.float32)


# Slaney's scale: linear (200/3 Hz a mel) up to 1000 Hz = 15 mel, logarithmic above (27 mel a factor of 6.4).
def _hertz_to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000) / np.log(6.4))


def _mel_to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def _spectrum(window: int, bins: int) -> NDArray[np.float32]:
    """(2 * (bins / 2 + 1), 1, window): a frame's pre-emphasis, Hann window and real Fourier transform as kernels."""
    emphasis = np.eye(window) - PRE_EMPHASIS * np.eye(window, k=-1)
    emphasis[0, 0] = 1 - PRE_EMPHASIS  # as in Kaldi, the sample before the first equals the first
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    angle = 2 * np.pi * np.outer(np.arange(bins // 2 + 1), np.arange(window)) / bins
    transform = np.concatenate([np.cos(angle), -np.sin(angle)]) * hann
    return (transform @ emphasis).astype(np.float32)[:, None, :]
