"""NeMo's front end against its formulas, written again in numpy and double precision."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from segue import recipe
from segue.data.features import LogMelSection
from segue.data.nemo_features import NemoLogMel, NemoSection
from segue.errors import UserError
from segue.tasks.speech_recognition import Recipe

Padding = Literal["reflect", "zeros"]
PADDINGS: tuple[Padding, ...] = ("reflect", "zeros")
Doubles = NDArray[np.float64]


def section_of(padding: Padding, rate: int = 16000) -> NemoSection:
    """NeMo's defaults: 20 ms every 10 ms."""
    window = rate // 50
    fft = 1 << (window - 1).bit_length()
    sizes = {"window_samples": window, "shift_samples": rate // 100, "fft_samples": fft}
    return NemoSection.model_validate(
        {"kind": "nemo", "sample_rate_hz": rate, "mel_bins": 40, "padding": padding, **sizes}
    )


def slaney(rate: int, bins: int, mel_bins: int) -> Doubles:
    """(F, bins / 2 + 1): librosa.filters.mel, one triangle at a time."""

    def hertz(mel: float) -> float:
        return 200 / 3 * mel if mel < 15 else 1000.0 * 6.4 ** ((mel - 15) / 27)

    top = 15 + np.log(rate / 2000) / (np.log(6.4) / 27)
    corners = [hertz(top * number / (mel_bins + 1)) for number in range(mel_bins + 2)]
    filters = np.zeros((mel_bins, bins // 2 + 1))
    for row, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for column in range(bins // 2 + 1):
            here = column * rate / bins
            height = min((here - low) / (middle - low), (high - here) / (high - middle))
            filters[row, column] = max(0.0, height) * 2 / (high - low)
    return filters


def expected(samples: Doubles, section: NemoSection) -> tuple[Doubles, Doubles]:
    """(S) -> (F, T), (F, T): features, and normalized ones, as NeMo computes them for one recording."""
    emphasized = np.concatenate([samples[:1], samples[1:] - 0.97 * samples[:-1]])
    half, window = section.fft_samples // 2, section.window_samples
    padded = np.pad(emphasized, half, mode="reflect" if section.padding == "reflect" else "constant")
    hann = np.zeros(section.fft_samples)
    left = (section.fft_samples - window) // 2
    hann[left : left + window] = np.hanning(window)
    starts = range(0, len(samples) + 1, section.shift_samples)
    frames = np.stack([padded[start : start + section.fft_samples] * hann for start in starts])
    power = np.abs(np.fft.rfft(frames)) ** 2
    features = np.log(slaney(section.sample_rate_hz, section.fft_samples, section.mel_bins) @ power.T + 2.0**-24)
    if section.padding == "zeros":
        features = features[:, : len(samples) // section.shift_samples]
    mean, deviation = features.mean(axis=1, keepdims=True), features.std(axis=1, ddof=1, keepdims=True)
    return features, (features - mean) / (deviation + 1e-5)


def sound(num_samples: int, seed: int) -> NDArray[np.float32]:
    """Noise of changing loudness, between silence."""
    draw = np.random.default_rng(seed)
    loudness = np.repeat(draw.choice([0.5, 1e-3, 0.0], size=num_samples // 500 + 1), 500)[:num_samples]
    samples: NDArray[np.float32] = (draw.uniform(-1, 1, num_samples) * loudness).astype(np.float32)
    return samples


def padded(waveforms: list[NDArray[np.float32]]) -> tuple[torch.Tensor, torch.Tensor]:
    """As one batch, with noise in the padding."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)
    noise = torch.rand(batch.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(torch.arange(batch.shape[1]) >= lengths.unsqueeze(1), noise, batch), lengths


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_features_follow_nemo_s_formulas(padding: Padding, rate: int) -> None:
    section = section_of(padding, rate)
    module = section.build()
    shift = section.shift_samples
    lengths = [rate, 60 * shift, 60 * shift - 1, 60 * shift + 1, section.fft_samples]
    waveforms = [sound(length, seed) for seed, length in enumerate(lengths)]
    features, frames = module(*padded(waveforms))
    normalized = module.normalize(features, frames)
    for row, (waveform, count) in enumerate(zip(waveforms, frames.tolist(), strict=True)):
        raw, wanted = expected(waveform.astype(np.float64), section)
        assert count == raw.shape[1] == module.num_frames(len(waveform))
        np.testing.assert_allclose(features[row, :, :count].numpy(), raw, atol=1e-3, rtol=0)
        np.testing.assert_allclose(normalized[row, :, :count].numpy(), wanted, atol=2e-3, rtol=0)
        assert not normalized[row, :, count:].any()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("num_samples", [0, 1, 2, 5, 100, 159, 161])
def test_very_short_sounds_have_finite_features(padding: Padding, num_samples: int) -> None:
    module = section_of(padding).build()
    features, frames = module(torch.ones(1, max(1, num_samples)), torch.tensor([num_samples]))
    assert int(frames) == num_samples // 160 + (padding == "reflect")
    assert module.normalize(features, frames).isfinite().all()


def test_the_front_end_is_chosen_by_kind(tiny_recipe: Path) -> None:
    assert isinstance(LogMelSection().build().normalization, str)
    draft = recipe.read(tiny_recipe, ["features.kind=nemo"])
    with pytest.raises(UserError, match=r"features\.padding: missing \('reflect' or 'zeros': What continues"):
        recipe.validate(draft, Recipe)
    words = ["features.window_samples=160", "features.shift_samples=80", "features.fft_samples=256"]
    whole = recipe.validate(
        recipe.read(tiny_recipe, ["features.kind=nemo", "features.padding=zeros", *words]),
        Recipe,
    )
    assert isinstance(whole.features.build(), NemoLogMel)
    assert recipe.loads(recipe.dump(whole), Recipe) == whole
    with pytest.raises(UserError, match=r"features\.kind: no such kind: \"nemoo\" \(kinds: log_mel, nemo; did you"):
        recipe.validate(recipe.read(tiny_recipe, ["features.kind=nemoo"]), Recipe)
