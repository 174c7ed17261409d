"""What is the input of a model that was trained in NeMo? Its log-mel features, in both of their generations.

`AudioToMelSpectrogramPreprocessor` (nemo/collections/asr/parts/preprocessing/features.py): pre-emphasis of the whole
signal, a symmetric Hann window in the center of each FFT, frames centered on multiples of the shift, Slaney mel
filters, logarithm of power plus a small number, unbiased standard deviation. In July 2025 (pull request 13827, version
2.5.0), NeMo replaced the reflection at the ends of a signal by zeros, and dropped the last frame.

Shape letters: B batch, S samples, T frames, F mel bins.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from segue.data.features import PRE_EMPHASIS, Count, slaney_filters, transformed
from segue.layers.mask import length_mask
from segue.recipe import Section

GUARD = 2.0**-24  # log_zero_guard_value of FilterbankFeatures
DEVIATION_GUARD = 1e-5  # CONSTANT there, added to the standard deviation

Samples = Annotated[int, Field(gt=0, le=1 << 16)]


class NemoSection(Section):
    """Log-mel features as NeMo computes them, for models that were trained there."""

    kind: Literal["nemo"]
    """NeMo's log-mel features; not for models of one's own: sherpa-onnx cannot run them."""

    sample_rate_hz: Annotated[int, Field(ge=4000, le=48000)]
    """Audio at other rates is resampled to this one."""

    mel_bins: Annotated[int, Field(gt=0, le=256)]
    """Mel filters from 0 Hz to half the sample rate."""

    window_samples: Samples
    """Length of the Hann window."""

    shift_samples: Samples
    """Samples between the centers of two frames."""

    fft_samples: Samples
    """Length of the Fourier transform."""

    padding: Literal["reflect", "zeros"]
    """What continues a recording at its ends: its reflection, and floor(samples / shift) + 1 frames (NeMo before
    2.5.0), or zeros, and floor(samples / shift) frames."""

    pre_emphasis: Annotated[float, Field(ge=0, lt=1)] = PRE_EMPHASIS
    """Share of the previous sample that is subtracted from each one."""

    guard: Annotated[float, Field(gt=0)] = GUARD
    """What is added to the mel power before the logarithm."""

    @property
    def normalization(self) -> Literal["utterance"]:
        """Which frames determine mean and variance: all."""
        return "utterance"

    def build(self) -> "NemoLogMel":
        """The front end."""
        return NemoLogMel(self)


class NemoLogMel(nn.Module):
    """Waveforms in [-1, 1] to log-mel features: a `FrontEnd`."""

    def __init__(self, section: NemoSection) -> None:
        super().__init__()
        self.shift, self._window = section.shift_samples, section.window_samples
        self._fft, self._guard, self._pre_emphasis = section.fft_samples, section.guard, section.pre_emphasis
        self._reflects = section.padding == "reflect"
        self.filters: Tensor
        self.spectrum: Tensor
        filters = slaney_filters(section.mel_bins, self._fft, section.sample_rate_hz)
        # As in LogMel: not saved, since computed from the recipe; tiled for real and imaginary parts.
        self.register_buffer("filters", torch.from_numpy(np.tile(filters, 2)), persistent=False)
        self.register_buffer("spectrum", torch.from_numpy(_spectrum(self._window, self._fft)), persistent=False)

    def num_frames(self, num_samples: Count) -> Count:
        """Number of frames for a number of samples."""
        return num_samples // self.shift + int(self._reflects)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B) lengths -> (B, F, T) log-mel features, (B) numbers of frames.

        Each utterance is continued at its own ends, as NeMo does without a batch.
        """
        frames = self.num_frames(lengths)
        # At least one frame: the convolution needs one, even if an utterance is too short to have any.
        longest: int = torch.sym_max(self.num_frames(waveforms.shape[1]), 1)  # type: ignore[no-untyped-call]
        total = (longest - 1) * self.shift + self._window
        # The window is in the center of the transform, which is around a multiple of the shift; torch.stft rounds down.
        first = (self._fft - self._window) // 2 - self._fft // 2
        emphasized = torch.cat([waveforms[:, :1], waveforms[:, 1:] - self._pre_emphasis * waveforms[:, :-1]], dim=1)
        position = (torch.arange(total, device=waveforms.device) + first).unsqueeze(0)  # (1, total)
        last = (lengths.unsqueeze(1) - 1).clamp(min=0)  # (B, 1)
        if self._reflects:  # without repeating the sample at the end; a triangle wave for very short recordings
            period = (2 * last).clamp(min=1)
            position = torch.remainder(position, period)
            framed = emphasized.gather(1, torch.minimum(position, period - position).minimum(last))
        else:
            is_real = (position >= 0) & (position < lengths.unsqueeze(1))
            framed = emphasized.gather(1, position.clamp(min=0).minimum(last)).masked_fill(~is_real, 0.0)
        parts = transformed(framed.unsqueeze(1), self.spectrum, self.shift)  # (B, 2 * bins, T)
        mel = torch.matmul(self.filters, parts * parts)  # (B, F, T)
        return (mel + self._guard).log(), frames

    def normalize(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, T), (B) -> (B, F, T): each bin to mean 0 and standard deviation 1; padding becomes 0.

        The deviation is unbiased, and 0 for a single frame.
        """
        real = length_mask(frames, features.shape[2])
        count = frames.view(-1, 1, 1)
        mean = features.masked_fill(~real, 0.0).sum(dim=2, keepdim=True) / count.clamp(min=1)
        centered = (features - mean).masked_fill(~real, 0.0)
        variance = centered.square().sum(dim=2, keepdim=True) / (count - 1).clamp(min=1)
        return centered / (variance.sqrt() + DEVIATION_GUARD)


def _spectrum(window: int, bins: int) -> NDArray[np.float32]:
    """(2 * (bins / 2 + 1), 1, window): Hann window and real Fourier transform as kernels; phases are those of a window
    at the start of the transform, which powers do not show."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / max(1, window - 1))  # symmetric: periodic=False
    angle = 2 * np.pi * np.outer(np.arange(bins // 2 + 1), np.arange(window)) / bins
    return (np.concatenate([np.cos(angle), -np.sin(angle)]) * hann).astype(np.float32)[:, None, :]
