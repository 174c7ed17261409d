import kaldi_native_fbank
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch.nn.utils.rnn import pad_sequence

from segue.data.features import USUAL_DEVIATION_NATS, LogMel, LogMelSection, Normalization, normalize

Array = NDArray[np.float32]


def kaldi(samples: Array, sample_rate_hz: int, mel_bins: int) -> Array:
    """(S) -> (T, F): what sherpa-onnx computes for models trained in NeMo."""
    options = kaldi_native_fbank.FbankOptions()
    frames, mel = options.frame_opts, options.mel_opts
    frames.samp_freq, frames.frame_length_ms, frames.frame_shift_ms = sample_rate_hz, 25, 10
    frames.snip_edges, frames.remove_dc_offset, frames.dither = False, False, 0
    frames.preemph_coeff, frames.window_type = 0.97, "hann"
    mel.num_bins, mel.low_freq, mel.high_freq, mel.is_librosa = mel_bins, 0, 0, True
    computed = kaldi_native_fbank.OnlineFbank(options)
    computed.accept_waveform(sample_rate_hz, samples.tolist())
    computed.input_finished()
    rows = [computed.get_frame(number) for number in range(computed.num_frames_ready)]
    return np.array(rows, dtype=np.float32).reshape(-1, mel_bins)


def sound(num_samples: int, seed: int = 0) -> Array:
    """Noise, loud and quiet, and stretches of exact silence."""
    draw = np.random.default_rng(seed)
    loudness = np.repeat(draw.choice([0.5, 1e-4, 0.0], size=num_samples // 300 + 1), 300)[:num_samples]
    samples: Array = (draw.uniform(-1, 1, num_samples) * loudness).astype(np.float32)
    return samples


def padded(waveforms: list[Array]) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms as one batch; loud noise stands in the padding."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)
    is_padding = torch.arange(batch.shape[1]) >= lengths.unsqueeze(1)
    noise = torch.rand(batch.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(is_padding, noise, batch), lengths


@pytest.mark.parametrize("sample_rate_hz", [8000, 11025, 16000, 22050, 44100])
@pytest.mark.parametrize("mel_bins", [64, 80])
def test_features_are_what_sherpa_onnx_computes(sample_rate_hz: int, mel_bins: int) -> None:
    half_shift = sample_rate_hz // 200
    lengths = [1, half_shift - 1, half_shift, half_shift + 1, 3 * half_shift, 12 * half_shift + 5, sample_rate_hz]
    waveforms = [sound(length, seed) for seed, length in enumerate(lengths)]
    module = LogMel(LogMelSection(sample_rate_hz=sample_rate_hz, mel_bins=mel_bins))
    features, frames = module(*padded(waveforms))
    for waveform, row, num_frames in zip(waveforms, features, frames.tolist(), strict=True):
        wanted = kaldi(waveform, sample_rate_hz, mel_bins)
        assert num_frames == len(wanted) == module.num_frames(len(waveform))
        np.testing.assert_allclose(row[:, :num_frames].T.numpy(), wanted, atol=1e-3, rtol=0)


OVER: tuple[Normalization, ...] = ("utterance", "speech")


@pytest.mark.parametrize("over", OVER)
def test_too_short_utterances_have_no_frame(over: Normalization) -> None:
    """Even alone in a batch."""
    features, frames = LogMel(LogMelSection())(torch.ones(1, 1), torch.tensor([1]))
    assert frames.tolist() == [0]
    assert normalize(features, frames, over).abs().max() == 0


@pytest.mark.parametrize("over", OVER)
@given(st.lists(st.integers(1, 2000), min_size=2, max_size=4))
@settings(max_examples=30, deadline=None)
def test_padding_never_changes_a_real_frame(over: Normalization, lengths: list[int]) -> None:
    module = LogMel(LogMelSection(sample_rate_hz=8000, mel_bins=20))
    waveforms = [sound(length, seed) for seed, length in enumerate(lengths)]
    features, frames = module(*padded(waveforms))
    normalized = normalize(features, frames, over)
    for number, waveform in enumerate(waveforms):
        alone, alone_frames = module(torch.from_numpy(waveform).unsqueeze(0), torch.tensor([len(waveform)]))
        real = slice(0, int(alone_frames))
        torch.testing.assert_close(features[number, :, real], alone[0, :, real], atol=1e-5, rtol=0)
        together = normalized[number, :, real]
        torch.testing.assert_close(together, normalize(alone, alone_frames, over)[0, :, real], atol=1e-3, rtol=0)
        assert not normalized[number, :, int(alone_frames) :].any()


def test_normalized_bins_have_mean_0_variance_1() -> None:
    """Over real frames."""
    frames = torch.tensor([200, 50])
    noise = 3 * torch.randn(2, 8, 200, generator=torch.Generator().manual_seed(0)) - 5
    for row, count in zip(normalize(noise, frames, "utterance"), frames.tolist(), strict=True):
        torch.testing.assert_close(row[:, :count].mean(dim=1), torch.zeros(8), atol=1e-5, rtol=0)
        torch.testing.assert_close(row[:, :count].var(dim=1, correction=0), torch.ones(8), atol=1e-4, rtol=0)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_silence_and_constants_become_zeros(level: float, over: Normalization) -> None:
    waveforms, lengths = torch.full((2, 160_000), level), torch.tensor([160_000, 100])
    module = LogMel(LogMelSection())
    features, frames = module(waveforms, lengths)
    assert frames.tolist() == [1000, 1]
    # 316 is 1 / sqrt(epsilon): what normalization makes of the last bit of a mean.
    assert normalize(features, frames, over).abs().max() < 316 * 1e-5


def spoken(num_samples: int) -> Array:
    """What is as loud and as varied as speech: bursts of tones of many heights over a little noise."""
    draw = np.random.default_rng(1)
    time = np.arange(num_samples) / 8000
    tones = [np.sin(2 * np.pi * hertz * time) * draw.uniform(0.02, 0.2) for hertz in draw.uniform(200, 3800, 12)]
    bursts = np.repeat(draw.uniform(0.1, 1, (12, num_samples // 800 + 1)), 800, axis=1)[:, :num_samples]
    noise = 0.002 * draw.standard_normal(num_samples)
    samples: Array = (np.sum(tones * bursts, axis=0) + noise).astype(np.float32)
    return samples


def normalized(samples: Array, over: Normalization) -> torch.Tensor:
    """(S) -> (F, T)"""
    features, frames = LogMel(LogMelSection(sample_rate_hz=8000, mel_bins=40))(
        torch.from_numpy(samples).unsqueeze(0), torch.tensor([len(samples)])
    )
    return normalize(features, frames, over)[0]


PAUSES = {
    "silence": np.zeros(24_000, np.float32),
    "noise": 1e-3 * np.random.default_rng(2).standard_normal(24_000).astype(np.float32),
    "a click": np.where(np.arange(24_000) // 16 == 500, np.float32(0.9), np.float32(0)),
}


@pytest.mark.parametrize("name", PAUSES)
def test_speech_normalization_ignores_pauses(name: str) -> None:
    speech, pause = spoken(8000), PAUSES[name]
    changes = {}
    for over in OVER:
        alone = normalized(speech, over)[:, 2:-2]  # the frames at its ends see the pause
        between = normalized(np.concatenate([pause, speech, pause]), over)[:, 302:398]
        changes[over] = float((between - alone).abs().mean())
    assert changes["speech"] < 0.2
    assert changes["utterance"] > 1


def test_normalization_removes_loudness() -> None:
    loud, quiet = normalized(spoken(8000), "speech"), normalized(spoken(8000) * np.float32(0.1), "speech")
    assert (loud - quiet).abs().max() < 0.01


def test_bins_can_keep_their_deviations() -> None:
    """All of them are divided by the same number; means are removed as ever."""
    frames, spread = torch.tensor([400]), torch.tensor([1.0, 0.25, 0.5]).unsqueeze(1)
    features = spread * torch.randn(1, 3, 400, generator=torch.Generator().manual_seed(0)) - 5
    same, kept = (normalize(features, frames, "speech", unit_variance=each)[0] for each in (True, False))
    torch.testing.assert_close(kept.std(dim=1)[1:] / kept.std(dim=1)[0], torch.tensor([0.25, 0.5]), atol=0.1, rtol=0)
    assert (same.std(dim=1)[1:] / same.std(dim=1)[0]).min() > 0.6


def test_half_of_the_mean_spectrum_can_stay() -> None:
    """Of the level nothing stays: a louder recording gives the same features."""
    features = torch.randn(1, 4, 300, generator=torch.Generator().manual_seed(0))
    spectrum = torch.tensor([1.5, 0.5, -0.5, -1.5]).view(1, 4, 1)
    whole, half, louder = (
        normalize(
            features + spectrum + gain, torch.tensor([300]), "speech", unit_variance=False, removed_spectrum=share
        )[0]
        for gain, share in ((0.0, 1.0), (0.0, 0.5), (7.0, 0.5))
    )
    stays = (half - whole) * USUAL_DEVIATION_NATS
    torch.testing.assert_close(stays, (spectrum[0] / 2).expand(4, 300), atol=0.2, rtol=0)
    torch.testing.assert_close(half, louder)


def test_deviations_are_kept_only_over_speech() -> None:
    with pytest.raises(ValidationError, match='unit_variance: false needs normalization = "speech"'):
        LogMelSection(unit_variance=False)
    with pytest.raises(ValidationError, match="removed_spectrum: below 1 it needs unit_variance = false"):
        LogMelSection(normalization="speech", removed_spectrum=0.5)
