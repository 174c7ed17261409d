"""What does a speech model read? Log-mel features, the same code in training, inference and the exported graph.

They are what sherpa-onnx computes on a user's device: 25 ms frames every 10 ms, Kaldi's reflection at each utterance's
own ends, pre-emphasis within each frame, periodic Hann window, power spectrum, Slaney mel filters, and, but for quiet
recordings that are normalized over speech, its floor.

Shape letters: B batch, S samples, T frames, F mel bins.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segue.data.augmentation import FeatureAugmentation
from segue.layers.mask import length_mask
from segue.recipe import Section

FRAME_MS = 25
SHIFT_MS = 10
PRE_EMPHASIS = 0.97
FLOOR = 1.1920929e-07  # float32's epsilon, Kaldi's floor under the logarithm: sherpa-onnx has it
# Where features are normalized over speech: what quiet recordings say stands below Kaldi's floor, which is made for
# samples of +-32768. This is below the rounding of 16 bits, and never reached in recordings of usual level, for
# normalization has a floor of its own far above.
QUIET_FLOOR = 1e-10
VARIANCE_EPSILON = 1e-5

# Of normalization over speech; bench/RESULTS.md has the trials.
LOUD_NATS = 1.0
SPEECH_NATS = 3.0
RANGE_NATS = 7.0  # below the loudness of a mean bin
SPEECH_VARIANCE_EPSILON = 0.1  # a bin that the range has cut off does not blow up what little is left of it

Normalization = Literal["utterance", "speech"]

Count = TypeVar("Count", int, Tensor)


class FeaturesSection(Section):
    """Log-mel features."""

    sample_rate_hz: Annotated[int, Field(ge=4000, le=48000)] = 16000
    """Audio at other rates is resampled to this one."""

    mel_bins: Annotated[int, Field(gt=0, le=256)] = 64
    """Mel filters from 0 Hz to half the sample rate."""

    normalization: Normalization = "utterance"
    """Which frames give the mean and variance of each bin: all of an utterance, or those of its speech, within 13 dB of
    its loudness. With "speech", what lies 30 dB below the loudness is raised to there: pauses, however long and quiet,
    then change nothing of the speech, and a quiet recording gives the features of a loud one."""


class LogMel(nn.Module):
    """Waveforms in [-1, 1] to log-mel features."""

    def __init__(self, section: FeaturesSection) -> None:
        super().__init__()
        self.window = section.sample_rate_hz * FRAME_MS // 1000  # rounded down, as Kaldi does
        self.shift = section.sample_rate_hz * SHIFT_MS // 1000
        self.normalization = section.normalization
        self._floor = QUIET_FLOOR if section.normalization == "speech" else FLOOR
        self.filters: Tensor
        self.spectrum: Tensor
        bins = 1 << (self.window - 1).bit_length()  # the power of two that holds a frame
        filters = slaney_filters(section.mel_bins, bins, section.sample_rate_hz)
        # Constants of the front end, not weights: rebuilt from the recipe, so never saved.
        # Both parts of the spectrum go through the same filters, and are summed by them.
        self.register_buffer("filters", torch.from_numpy(np.tile(filters, 2)), persistent=False)
        self.register_buffer("spectrum", torch.from_numpy(_spectrum(self.window, bins)), persistent=False)

    def num_frames(self, num_samples: Count) -> Count:
        """Frames of utterances with so many samples: rounded, as Kaldi does with snip_edges=False."""
        return (num_samples + self.shift // 2) // self.shift

    def prepare(
        self, waveforms: Tensor, lengths: Tensor, augmentation: "FeatureTensors | None" = None
    ) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B) their numbers -> (B, F, T) normalized features, (B) frames: what an encoder is given."""
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            features, frames = self(waveforms, lengths)
            if augmentation is not None:
                features = warp(features, augmentation.warps)
            features = normalize(features, frames, self.normalization)
            if augmentation is not None:
                features = mask(features, augmentation)
        return features, frames

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B) their numbers -> (B, F, T) log-mel, (B) frames; frames after an utterance's end are junk.

        Constants are float32 and the result is too, whatever precision the model runs in.
        """
        frames = self.num_frames(lengths)
        # One frame at the least: the convolution needs one, even where an utterance is too short to have any.
        longest: int = torch.sym_max(self.num_frames(waveforms.shape[1]), 1)  # type: ignore[no-untyped-call]
        total = (longest - 1) * self.shift + self.window
        first = self.shift // 2 - self.window // 2
        # Kaldi's reflection about each utterance's own ends, as often as a very short one needs: a triangular wave.
        # In int32, whose remainder takes a fifth of the time on a CPU.
        position = torch.arange(total, dtype=torch.int32, device=waveforms.device) + first
        period = 2 * lengths.to(torch.int32).clamp(min=1).unsqueeze(1)
        position = torch.remainder(position.unsqueeze(0), period)  # (B, total)
        position = torch.minimum(position, period - 1 - position)
        framed = waveforms.gather(1, position.long()).unsqueeze(1)  # (B, 1, total)
        # Framing, pre-emphasis, window and Fourier transform are linear: one convolution does them.
        convolve = _exact_conv1d if waveforms.device.type == "cuda" else F.conv1d
        parts = convolve(framed, self.spectrum, stride=self.shift)  # (B, 2 * bins, T): real, then imaginary
        mel = torch.matmul(self.filters, parts * parts)  # (B, F, T)
        return mel.clamp(min=self._floor).log(), frames


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it could not follow the switch
def _exact_conv1d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """TF32 is for models: in a Fourier transform of its 10 bits, what is loud would drown the quiet bins."""
    switch: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    chosen, switch.fp32_precision = switch.fp32_precision, "ieee"
    try:
        return F.conv1d(x, weight, stride=stride)
    finally:
        switch.fp32_precision = chosen


def normalize(features: Tensor, frames: Tensor, over: Normalization) -> Tensor:
    """(B, F, T), (B) -> (B, F, T): each bin to mean 0 and variance 1 over an utterance's frames; padding is 0.

    `over` is `FeaturesSection.normalization`. The variance is biased, with an epsilon: a silent recording gives zeros,
    not infinities.
    """
    mask = length_mask(frames, features.shape[2])
    weight, epsilon = mask.to(features.dtype), VARIANCE_EPSILON
    if over == "speech":
        level = features.masked_fill(~mask, -100.0).logsumexp(dim=1, keepdim=True)  # (B, 1, T): of all bins together
        # The mean level of loud frames, each weighed by its amplitude: one click does not decide. It is taken twice,
        # for long pauses with some noise in them draw the first one down.
        amplitude = (level / 2).softmax(dim=2)
        loudness = (amplitude * level).sum(dim=2, keepdim=True)
        amplitude = amplitude * _above(level, loudness - LOUD_NATS)
        loudness = (amplitude * level).sum(dim=2, keepdim=True) / amplitude.sum(dim=2, keepdim=True)
        features = features.maximum(loudness - math.log(features.shape[1]) - RANGE_NATS)
        weight = weight * _above(level, loudness - SPEECH_NATS)
        epsilon = SPEECH_VARIANCE_EPSILON
    count = weight.sum(dim=2, keepdim=True).clamp(min=1)
    mean = (features * weight).sum(dim=2, keepdim=True) / count
    centered = (features - mean).masked_fill(~mask, 0.0)
    variance = (centered.square() * weight).sum(dim=2, keepdim=True) / count
    return centered * torch.rsqrt(variance + epsilon)


def _above(level: Tensor, threshold: Tensor) -> Tensor:
    """1 above and 0 below, with a soft edge: the last bit of a level decides over no frame."""
    return torch.sigmoid(4 * (level - threshold))


class FeatureTensors(NamedTuple):
    """`FeatureAugmentation` of a batch."""

    warps: Tensor
    """(B)"""
    frequency_spans: Tensor
    """(B, masks, 2)"""
    time_spans: Tensor
    """(B, masks, 2)"""


def stacked(drawn: Sequence[FeatureAugmentation]) -> FeatureTensors:
    """Of a batch."""
    return FeatureTensors(
        torch.tensor([each.warp for each in drawn], dtype=torch.float32),
        torch.from_numpy(np.stack([each.frequency_spans for each in drawn])),
        torch.from_numpy(np.stack([each.time_spans for each in drawn])),
    )


def warp(features: Tensor, warps: Tensor) -> Tensor:
    """(B, F, T), (B) -> (B, F, T): bin f is read at f x warp, between its neighbors; past the last bin, from it."""
    bins = features.shape[1]
    place = (torch.arange(bins, device=features.device) * warps.unsqueeze(1)).clamp(max=bins - 1)  # (B, F)
    below = place.floor().long()
    share = (place - below).unsqueeze(2)
    below = below.unsqueeze(2).expand_as(features)
    above = (below + 1).clamp(max=bins - 1)
    return torch.lerp(features.gather(1, below), features.gather(1, above), share)


def mask(features: Tensor, augmentation: FeatureTensors) -> Tensor:
    """(B, F, T) -> (B, F, T) with masked bands and spans set to 0, the mean of normalized features."""
    for axis, spans in ((1, augmentation.frequency_spans), (2, augmentation.time_spans)):
        place = torch.arange(features.shape[axis], device=features.device)
        inside = (place >= spans[..., :1]) & (place < spans[..., 1:])  # (B, masks, size)
        features = features.masked_fill(inside.any(dim=1).unsqueeze(3 - axis), 0.0)
    return features


def slaney_filters(mel_bins: int, bins: int, sample_rate_hz: int) -> NDArray[np.float32]:
    """(F, bins / 2 + 1): triangles of equal area, evenly spaced in Slaney's mel (Auditory Toolbox, 1998)."""
    top = _hertz_to_mel(np.array(sample_rate_hz / 2))
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
    emphasis[0, 0] = 1 - PRE_EMPHASIS  # Kaldi takes the sample before the first to equal the first
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    angle = 2 * np.pi * np.outer(np.arange(bins // 2 + 1), np.arange(window)) / bins
    transform = np.concatenate([np.cos(angle), -np.sin(angle)]) * hann
    return (transform @ emphasis).astype(np.float32)[:, None, :]
