import sys
from pathlib import Path

import numpy as np
import pytest

from segue.data import audio
from segue.errors import UserError

av = pytest.importorskip("av", reason="needs segue[media]")
RATE = 16000
KINDS = {"m4a": "aac", "webm": "libopus", "wma": "wmav2", "mkv": "aac", "mp4": "aac", "ac3": "ac3", "aac": "aac"} | {
    "amr": "libopencore_amrnb"
}


def tone(seconds: float) -> audio.Samples:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def encode(path: Path, codec: str, samples: audio.Samples, rate: int = RATE) -> Path:
    with av.open(str(path), "w") as container:
        codec_rate = {"libopus": 48000, "ac3": 48000, "libopencore_amrnb": 8000}.get(codec, rate)
        stream = container.add_stream(codec, rate=codec_rate, layout="mono")
        stream.bit_rate = 12200 if codec_rate == 8000 else 64000
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=stream.rate, frame_size=stream.frame_size or 1024
        )
        for each in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(each))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_ffmpeg_formats_are_read_whole(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"x.{kind}", KINDS[kind], tone(2.0))
    samples = audio.read(path, RATE)
    assert len(samples) / RATE == pytest.approx(2.0, abs=0.2)
    inside = slice(RATE // 2, RATE)
    power = np.abs(np.fft.rfft(samples[inside]))
    assert power.argmax() * 2 == 440  # Hz
    assert np.abs(samples[inside]).max() == pytest.approx(0.4, abs=0.05)
    np.testing.assert_allclose(np.concatenate(list(audio.stream(path, RATE, 0.5))), samples, atol=1e-5)
    part = audio.read(path, RATE, 0.5, 0.25)
    assert len(part) == RATE // 4
    middle = slice(200, -200)  # its own ends are resampled otherwise
    np.testing.assert_allclose(part[middle], samples[RATE // 2 : RATE * 3 // 4][middle], atol=1e-3)
    assert audio.inspect(path)[0].seconds == pytest.approx(len(samples) / RATE, abs=0.01)
    assert audio.duration(path) == pytest.approx(2.0, abs=0.2)


def test_a_long_recording_is_measured_to_its_end(tmp_path: Path) -> None:
    assert audio.inspect(encode(tmp_path / "x.m4a", "aac", tone(25.0)))[0].seconds == pytest.approx(25.0, abs=0.2)


def test_a_recording_without_its_index_is_truncated(tmp_path: Path) -> None:
    """Recorders write it last."""
    path = encode(tmp_path / "x.m4a", "aac", tone(3.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"x\.m4a: truncated: it has no index \(moov\), which programs write last"):
        audio.read(path, RATE)


@pytest.mark.parametrize("kind", ["m4a", "webm", "mkv"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"x.{kind}", KINDS[kind], np.random.default_rng(0).uniform(-0.4, 0.4, 64000).astype("f"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    for attempt in (lambda: audio.read(path, RATE), lambda: list(audio.stream(path, RATE))):
        with pytest.raises(UserError) as raised:
            attempt()
        assert str(raised.value).startswith(f"{path}: ")


def test_a_playlist_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.m4a").write_text("#EXTM3U\nhttp://localhost/x.ts\n")
    with pytest.raises(UserError, match=r"x\.m4a: not audio that can be read \(wav, flac, ogg, mp3, m4a,"):
        audio.read(tmp_path / "x.m4a", RATE)


SUBTITLES = "1\n00:00:01,000 --> 00:00:02,000\nSo it is.\n\n"


@pytest.mark.parametrize("name", ["x.wav", "x.mp4"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["So it is. ", "a\u00ad\u200bb\u2060 ", "naïve \U0001f600", SUBTITLES, "\t\r\n-"])
@pytest.mark.parametrize("times", [1, 200])
def test_a_text_is_called_a_text(tmp_path: Path, name: str, encoding: str, text: str, times: int) -> None:
    """Whatever its name, encoding and length; UTF-16 with a mark or without."""
    (tmp_path / name).write_bytes((times * text).encode(encoding))
    with pytest.raises(UserError, match=rf"{name}: not audio that can be read \(.*\): it is a text file$"):
        audio.read(tmp_path / name, RATE)


@pytest.mark.parametrize("start", [b"", b"\xff\xfe", b"\xef\xbb\xbf", b"a\x00"])
def test_noise_is_not_called_a_text(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(start + np.random.default_rng(0).bytes(3000))
    with pytest.raises(UserError, match=r"x\.wav: not audio that can be read") as raised:
        audio.read(tmp_path / "x.wav", RATE)
    assert "text" not in str(raised.value)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"x\.mp4: no sound track in it; give a file with the sound"):
        audio.read(tmp_path / "x.mp4", RATE)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "x.m4a", "aac", tone(1.0))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"x\.m4a: not audio .* pip install 'segue\[media\]'"):
        audio.read(path, RATE)
