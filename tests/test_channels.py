from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from segue.data import audio, channels
from segue.errors import UserError

RATE = 8000


def voice(seconds: float, seed: int) -> audio.Samples:
    """Syllables of different length, pitch and loudness, with pauses: (samples,)."""
    draw = np.random.default_rng(seed)
    pieces = list[NDArray[np.float64]]()
    while sum(map(len, pieces)) < seconds * RATE:
        time = np.arange(round(draw.uniform(0.1, 0.3) * RATE)) / RATE
        tones = sum(np.sin(2 * np.pi * f * time) for f in draw.uniform(150, 2500, 5))
        noise = draw.standard_normal(len(time))
        pieces.append(draw.uniform(0.02, 0.1) * (tones + noise) * np.hanning(len(time)))
        pieces.append(1e-4 * draw.standard_normal(round(draw.uniform(0.0, 0.2) * RATE)))
    return np.concatenate(pieces)[: round(seconds * RATE)].astype(np.float32)


def saved(path: Path, *columns: audio.Samples) -> Path:
    soundfile.write(path, np.stack(columns, axis=1), RATE, subtype="FLOAT")
    return path


def streamed(path: Path, channel: channels.Channel = None) -> audio.Samples:
    return np.concatenate(list(audio.stream(path, RATE, 0.7, channel)))


@pytest.mark.parametrize("seconds", [0.5, 5.0])
@pytest.mark.parametrize("gain", [-1.0, -0.7, -1.3])
def test_canceling_channels_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float, gain: float
) -> None:
    """The loudest is heard alone, which is said."""
    left = voice(seconds, 1)
    path = saved(tmp_path / "x.wav", left, np.float32(gain) * left)
    loudest = left if abs(gain) <= 1 else np.float32(gain) * left
    for samples in (audio.read(path, RATE), streamed(path)):
        np.testing.assert_allclose(samples, loudest, atol=1e-6)
    number = 1 if abs(gain) <= 1 else 2
    assert f"{path}: its channels cancel each other (opposite phase); only channel {number}" in capsys.readouterr().err
    assert audio.inspect(path)[1] == number


def test_a_part_that_cancels_is_not_lost(tmp_path: Path) -> None:
    left = voice(20.0, 1)
    right = np.concatenate([left[: 15 * RATE], -left[15 * RATE :]])
    np.testing.assert_allclose(streamed(saved(tmp_path / "x.wav", left, right)), left, atol=1e-6)


def test_channels_of_appended_files_are_checked(tmp_path: Path) -> None:
    left = voice(3.0, 1)
    alone, cancels = saved(tmp_path / "a.wav", left), saved(tmp_path / "b.wav", left, -left)
    path = tmp_path / "x.wav"
    path.write_bytes(alone.read_bytes() + cancels.read_bytes())
    np.testing.assert_allclose(streamed(path), np.tile(left, 2), atol=1e-6)
    found, channel = audio.inspect(path)
    assert (found.seconds, channel) == (6.0, 1)


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_different_speakers_are_not_mixed_unasked(tmp_path: Path, seconds: float) -> None:
    left, right = voice(seconds, 1), voice(seconds, 2)
    path = saved(tmp_path / "x.wav", left, right)
    for attempt in (lambda: audio.read(path, RATE), lambda: streamed(path), lambda: audio.inspect(path)):
        with pytest.raises(
            UserError, match=r"different speakers or sounds; say which to use: --channel left"
        ) as raised:
            attempt()
        assert str(raised.value).startswith(f"{path}: ")
    for channel, wanted in ((1, left), (2, right), ("mix", (left + right) / 2)):
        assert isinstance(channel, int | str)
        np.testing.assert_allclose(audio.read(path, RATE, channel=channels.parse(channel)), wanted, atol=1e-6)
        np.testing.assert_allclose(streamed(path, channels.parse(channel)), wanted, atol=1e-6)


def test_speakers_who_take_turns_are_not_mixed(tmp_path: Path) -> None:
    one, other, nothing = voice(4.0, 1), voice(4.0, 2), np.zeros(4 * RATE, np.float32)
    path = saved(tmp_path / "x.wav", np.concatenate([one, nothing]), np.concatenate([nothing, other]))
    with pytest.raises(UserError, match="different speakers"):
        audio.read(path, RATE)


def in_a_room(mouth: audio.Samples, delays: tuple[int, ...], draw: np.random.Generator) -> list[audio.Samples]:
    """What microphones hear, so many samples late, with walls as loud as what comes straight."""
    heard = []
    for delay in delays:
        walls = draw.standard_normal(RATE * 4 // 10) * np.exp(-6.9 * np.arange(RATE * 4 // 10) / (RATE * 4 // 10))
        walls /= np.linalg.norm(walls)
        walls[delay] += 1
        noise = 1e-3 * draw.standard_normal(len(mouth))
        heard.append((np.convolve(mouth, walls)[: len(mouth)] + noise).astype(np.float32))
    return heard


@pytest.mark.parametrize("delays", [(0, 40), (0, 40, 80, 20)])
def test_one_voice_at_microphones_in_a_room_is_mixed(tmp_path: Path, delays: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    for seed, seconds in ((1, 1.0), (2, 6.0), (3, 6.0)):
        heard = in_a_room(voice(seconds, seed), delays, draw)
        path = saved(tmp_path / "x.wav", *heard)
        np.testing.assert_allclose(audio.read(path, RATE), sum(heard) / len(heard), atol=1e-6)


def test_leading_noise_does_not_decide_on_mixing(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    heard = in_a_room(np.concatenate([np.zeros(70 * RATE, np.float32), voice(6.0, 1)]), (0, 40), draw)
    path = saved(tmp_path / "x.wav", *heard)
    np.testing.assert_allclose(audio.read(path, RATE), sum(heard) / 2, atol=1e-6)


def test_a_channel_without_sound_is_no_speaker(tmp_path: Path) -> None:
    left = voice(4.0, 1)
    for level in (0.0, 1e-4):
        other = (level * np.random.default_rng(0).standard_normal(len(left))).astype(np.float32)
        path = saved(tmp_path / "x.wav", left, other)
        np.testing.assert_allclose(streamed(path), (left + other) / 2, atol=1e-6)


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_many_channels_of_speakers_are_not_mixed(tmp_path: Path, seconds: float) -> None:
    """Unless that is asked for."""
    one, other, nothing = voice(seconds, 1), voice(seconds, 2), np.zeros(round(seconds * RATE), np.float32)
    path = saved(tmp_path / "x.wav", one, nothing, one, other)
    for attempt in (lambda: audio.read(path, RATE), lambda: streamed(path), lambda: audio.inspect(path)):
        with pytest.raises(UserError, match=r"channels 1 and 4 of its 4 hold different .*: --channel 1, --channel 4, "):
            attempt()
    np.testing.assert_allclose(audio.read(path, RATE, channel=4), other, atol=1e-6)
    np.testing.assert_allclose(streamed(path, "mix"), (2 * one + other) / 4, atol=1e-6)


def test_many_channels_of_one_sound_are_mixed(tmp_path: Path) -> None:
    """Unless they cancel."""
    left = voice(2.0, 1)
    mixed = audio.read(saved(tmp_path / "x.wav", left, left, 0 * left), RATE)
    np.testing.assert_allclose(mixed, left * 2 / 3, atol=1e-6)
    four = audio.read(saved(tmp_path / "x.wav", left, -left, left, -left), RATE)
    np.testing.assert_allclose(four, left, atol=1e-6)


def test_a_channel_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.wav", voice(1.0, 1))
    with pytest.raises(UserError, match="no channel 2: it has 1"):
        audio.read(path, RATE, channel=2)


@pytest.mark.parametrize("value", [0, -1, 1.5, "0", "both", "", True, [], "1.0"])
def test_invalid_channel_names_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="left, right, mix or a number from 1 wanted"):
        channels.parse(value)


def test_channels_of_samples_are_checked_too() -> None:
    left, other = voice(2.0, 1), voice(2.0, 2)
    np.testing.assert_allclose(audio.mono(np.stack([left, -left], axis=1), RATE), left, atol=1e-6)
    with pytest.raises(UserError, match="samples: its two channels hold different speakers"):
        audio.mono(np.stack([left, other], axis=1), RATE)
