from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from segue.data import audio
from segue.errors import UserError

RATE = 16000


def tone(seconds: float, sample_rate_hz: int = RATE) -> audio.Samples:
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def streamed(path: Path, sample_rate_hz: int = RATE, block_seconds: float = 0.3) -> audio.Samples:
    return np.concatenate(list(audio.stream(path, sample_rate_hz, block_seconds)))


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "FLOAT", 0.0),
        ("wav", "ULAW", 0.03),
        ("flac", "PCM_16", 1e-4),
        ("flac", "PCM_24", 1e-6),
        ("ogg", "VORBIS", 0.03),
        ("mp3", "MPEG_LAYER_III", 0.03),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_mono_samples(
    tmp_path: Path, suffix: str, subtype: str, tolerance: float, channels: int
) -> None:
    path = tmp_path / f"tone.{suffix}"
    wanted = tone(1.0)
    shares = np.array([[1.0], [1.5, 0.5]][channels - 1])
    soundfile.write(path, wanted[:, None] * shares, RATE, subtype=subtype)
    samples = audio.read(path, RATE)
    assert samples.dtype == np.float32
    assert audio.duration(path) == 1.0
    np.testing.assert_allclose(samples, wanted, atol=tolerance, rtol=0)
    np.testing.assert_allclose(streamed(path), samples, atol=1e-6)


@pytest.mark.parametrize("from_hz", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("to_hz", [8000, 16000])
def test_every_rate_is_resampled_and_streams_equal(tmp_path: Path, from_hz: int, to_hz: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(1.0, from_hz), from_hz, subtype="FLOAT")
    samples = audio.read(path, to_hz)
    assert len(samples) == to_hz
    middle = slice(to_hz // 10, -to_hz // 10)
    np.testing.assert_allclose(samples[middle], tone(1.0, to_hz)[middle], atol=2e-3)
    for block_seconds in (0.01, 0.37, 10.0):
        np.testing.assert_allclose(streamed(path, to_hz, block_seconds), samples, atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_segment_is_that_part_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    loudness = np.repeat(np.random.default_rng(0).uniform(0, 1, 40), RATE // 4)
    soundfile.write(path, tone(10.0) * loudness, RATE)
    whole = audio.read(path, RATE)
    for offset in (0.0, 0.1, 2.5, 3.7, 6.2, 8.8):
        start = round(offset * RATE)
        for seconds, end in ((1.1, start + round(1.1 * RATE)), (None, len(whole))):
            segment = audio.read(path, RATE, offset, seconds)
            np.testing.assert_allclose(segment, whole[start:end], atol=1e-5)


def test_wrong_file_extensions_do_not_matter(tmp_path: Path) -> None:
    audio.write(tmp_path / "tone.flac", tone(0.1), RATE)
    for name in ("tone.mp3", "tone"):
        (tmp_path / name).write_bytes((tmp_path / "tone.flac").read_bytes())
        assert len(audio.read(tmp_path / name, RATE)) == RATE // 10


def assert_refused(path: Path, message: str) -> None:
    """Read whole or in blocks, the error names the file and what is wrong with it."""
    attempts: list[Callable[[Path, int], object]] = [audio.read, streamed]
    for attempt in attempts:
        with pytest.raises(UserError, match=message) as raised:
            attempt(path, 8000)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    if suffix != "ogg":
        assert_refused(path, "truncated|damaged")
    # An ogg file does not say how long it is; a manifest does.
    with pytest.raises(UserError, match=r"truncated|damaged|no audio"):
        audio.read(path, RATE, seconds=4.0)


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFF024, 0])
def test_piped_wav_files_may_lack_their_size(tmp_path: Path, declared: int) -> None:
    path = tmp_path / "piped.wav"
    audio.write(path, tone(1.0), RATE)
    content = path.read_bytes()
    path.write_bytes(content[:4] + declared.to_bytes(4, "little") + content[8:])
    assert len(audio.read(path, RATE)) == RATE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    samples = tone(1.0)
    samples[-3] = value
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
    assert_refused(tmp_path / "x.wav", "holds NaN or infinite samples")


@pytest.mark.parametrize("num_samples", [0, 1])
def test_a_file_of_zero_seconds_is_refused(tmp_path: Path, num_samples: int) -> None:
    soundfile.write(tmp_path / "x.wav", np.ones(num_samples), 48000)
    assert_refused(tmp_path / "x.wav", "holds no audio")


@pytest.mark.parametrize("name", ["x.wav", "x.mp3", "x.raw"])
def test_what_is_not_audio_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("These are words, not sounds. " * 100)
    assert_refused(tmp_path / name, "not audio that can be read")
    (tmp_path / name).write_bytes(b"")
    assert_refused(tmp_path / name, "the file is empty")
    (tmp_path / name).unlink()
    assert_refused(tmp_path / name, "cannot read this audio file: No such file")


def test_an_offset_after_the_end_is_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "x.wav", tone(1.0), RATE)
    with pytest.raises(UserError, match=r"holds no audio after 2\.0 s"):
        audio.read(tmp_path / "x.wav", RATE, offset_seconds=2.0, seconds=1.0)


def test_segments_may_lack_only_what_rounding_takes(tmp_path: Path) -> None:
    audio.write(tmp_path / "x.wav", tone(1.0), RATE)
    assert len(audio.read(tmp_path / "x.wav", RATE, seconds=1.05)) == RATE
    with pytest.raises(UserError, match=r"truncated: 0\.20 s are missing"):
        audio.read(tmp_path / "x.wav", RATE, seconds=1.2)
