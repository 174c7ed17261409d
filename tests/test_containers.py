"""Files whose headers say nothing or lie, that were joined or cut: all of their sound is read, or one line refuses."""

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.data import audio, containers
from segue.data.mpeg import frame_at
from segue.errors import UserError

RATE = 16000
FORMS = {
    "wav": ("WAV", "PCM_16"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "float.wav": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "ulaw.sph": ("NIST", "ULAW"),
}


def sound(seconds: float, seed: int = 0, rate: int = RATE) -> audio.Samples:
    """Noise whose loudness goes up and down, so that frames of mp3 files differ in size."""
    draw = np.random.default_rng(seed)
    loudness = np.repeat(draw.uniform(0.01, 0.5, round(seconds * 20)), rate // 20)
    return (loudness * draw.uniform(-1, 1, len(loudness))).astype(np.float32)


def recorded(name: str, seconds: float = 2.0, seed: int = 0, rate: int = RATE, folder: Path = Path()) -> bytes:
    form, subtype = FORMS[name]
    path = folder / f"made.{name}"
    soundfile.write(path, sound(seconds, seed, rate), rate, format=form, subtype=subtype)
    return path.read_bytes()


Make = Callable[..., bytes]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "made").mkdir()
    return partial(recorded, folder=tmp_path / "made")


def heard(path: Path, content: bytes, rate: int = RATE) -> audio.Samples:
    """All of a file's sound: read, streamed and measured it is the same."""
    path.write_bytes(content)
    samples = audio.read(path, rate)
    streamed = np.concatenate(list(audio.stream(path, rate, 0.7)))
    np.testing.assert_allclose(streamed, samples, atol=1e-6)
    assert audio.duration(path) == pytest.approx(len(samples) / rate, abs=0.05)
    return samples


def problem(path: Path, content: bytes) -> str:
    """The one line that refuses a file, however it is read."""
    path.write_bytes(content)
    messages = []
    for attempt in (lambda: audio.read(path, RATE), lambda: list(audio.stream(path, RATE))):
        with pytest.raises(UserError) as raised:
            attempt()
        messages.append(str(raised.value))
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in messages)
    return messages[0]


def sized(wav: bytes, size: int) -> bytes:
    """The wav file with another number for the bytes of its samples, and no size of the whole."""
    place = wav.index(b"data")
    return wav[:4] + b"\xff\xff\xff\xff" + wav[8 : place + 4] + struct.pack("<I", size) + wav[place + 8 :]


@pytest.mark.parametrize("name", ["wav", "float.wav", "adpcm.wav"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFD7, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_wav_without_its_size_is_read_whole(tmp_path: Path, make: Make, name: str, size: int) -> None:
    whole = heard(tmp_path / "x.wav", make(name))
    np.testing.assert_array_equal(heard(tmp_path / "x.wav", sized(make(name), size)), whole)


@pytest.mark.parametrize("share", [1.1, 2, 1000])
def test_wav_with_a_too_large_size_is_refused(tmp_path: Path, make: Make, share: float) -> None:
    message = problem(tmp_path / "x.wav", sized(make("wav"), round(share * 2 * 2 * RATE)))
    assert f"truncated: {2 * share - 2:.2f} s are missing" in message


def test_wav_with_a_too_small_size_is_refused(tmp_path: Path, make: Make) -> None:
    assert "contains no audio that can be recognized" in problem(tmp_path / "x.wav", sized(make("wav"), RATE))


def test_wav_sizes_above_4_gib_are_recovered(tmp_path: Path) -> None:
    channels, bits, rate = 1024, 32, 48000  # 22 s of it, in a file without blocks
    frames = (1 << 32) // (channels * bits // 8) + rate
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 3, channels, rate, rate * block, block, bits)
    size = frames * block
    header = b"RIFF" + struct.pack("<I", (size + 36) % (1 << 32)) + b"WAVEfmt \x10\0\0\0" + form + b"data"
    with (tmp_path / "x.wav").open("wb") as file:
        file.write(header + struct.pack("<I", size % (1 << 32)))
        file.truncate(44 + size)
    assert audio.duration(tmp_path / "x.wav") == frames / rate


def test_chunks_after_the_samples_are_no_sound(tmp_path: Path, make: Make) -> None:
    whole = heard(tmp_path / "x.wav", make("wav"))
    longer = make("wav") + b"LIST" + struct.pack("<I", 9000) + b"A" * 9000
    np.testing.assert_array_equal(heard(tmp_path / "x.wav", longer), whole)


def test_bw64_is_read_as_rf64(tmp_path: Path, make: Make) -> None:
    whole = heard(tmp_path / "x.wav", make("rf64"))
    np.testing.assert_array_equal(heard(tmp_path / "x.wav", b"BW64" + make("rf64")[4:]), whole)


@pytest.mark.parametrize("name", FORMS)
def test_joined_files_are_read_one_after_another(tmp_path: Path, make: Make, name: str) -> None:
    one, other = make(name, 1.0), make(name, 1.5, seed=1)
    apart = np.concatenate([heard(tmp_path / f"x.{name}", each) for each in (one, other)])
    joined = heard(tmp_path / f"x.{name}", one + other)
    np.testing.assert_allclose(joined, apart, atol=1e-6)
    inside = audio.read(tmp_path / f"x.{name}", RATE, 0.8, 0.5)
    np.testing.assert_allclose(inside, apart[round(0.8 * RATE) : round(1.3 * RATE)], atol=1e-6)


@pytest.mark.parametrize("name", ["wav", "rf64", "ogg", "aiff"])
def test_flac_may_be_joined_with_others(tmp_path: Path, make: Make, name: str) -> None:
    found = heard(tmp_path / "both", make("flac") + make(name, seed=1))
    assert len(found) == pytest.approx(4 * RATE, abs=RATE // 100)


@pytest.mark.parametrize("name", ["VOC", "AVR", "IRCAM", "PAF", "MAT5"])
def test_files_that_nothing_measures_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A part of one is read as a shorter one."""
    path = tmp_path / f"a.{name.lower()}"
    soundfile.write(path, sound(2), RATE, format=name, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-RATE])
    num_samples = sum(map(len, audio.stream(path, RATE)))
    assert num_samples == pytest.approx(1.5 * RATE, abs=RATE // 100)
    assert f"{path}: has no end-of-stream mark; it may be truncated" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3"])
def test_joined_files_may_have_different_rates(tmp_path: Path, make: Make, name: str) -> None:
    one, other = make(name, 1.0, rate=8000), make(name, 1.0, rate=32000)
    samples = heard(tmp_path / f"x.{name}", one + other, 8000)
    assert len(samples) == pytest.approx(16000, abs=50)
    np.testing.assert_allclose(samples[:7900], heard(tmp_path / f"x.{name}", one, 8000)[:7900], atol=1e-6)


def without_info(mp3: bytes) -> bytes:
    """The mp3 file without its first frame, which counts the others."""
    assert b"Info" in mp3[:200] or b"Xing" in mp3[:200]
    first = frame_at(mp3, 0)
    assert first is not None
    return mp3[first.length :]


def test_an_mp3_file_from_a_pipe_is_read_whole(tmp_path: Path, make: Make) -> None:
    seconds = 10.0
    samples = np.concatenate([sound(seconds / 2) * 0.001, sound(seconds / 2)])  # short frames first: a guess goes wrong
    path = tmp_path / "made.mp3"
    soundfile.write(path, samples, RATE, bitrate_mode="VARIABLE", compression_level=0.5)
    for content in (without_info(path.read_bytes()), b"junk" * 300 + without_info(path.read_bytes())):
        assert len(heard(tmp_path / "x.mp3", content)) == pytest.approx(seconds * RATE, abs=0.15 * RATE)


@pytest.mark.parametrize(("share", "is_refused"), [(0.5, False), (3, True)])
def test_a_wrong_mp3_header_never_shortens(tmp_path: Path, make: Make, share: float, is_refused: bool) -> None:
    mp3 = make("mp3")
    place = max(mp3.find(b"Info"), mp3.find(b"Xing")) + 8
    [count] = struct.unpack(">I", mp3[place : place + 4])
    lie = mp3[:place] + struct.pack(">I", round(share * count)) + mp3[place + 4 :]
    if is_refused:
        assert "are missing" in problem(tmp_path / "x.mp3", lie)
    else:
        np.testing.assert_allclose(heard(tmp_path / "x.mp3", lie), heard(tmp_path / "x.mp3", mp3), atol=1e-6)


def test_mp3_tags_are_not_sound(tmp_path: Path, make: Make) -> None:
    """Around a file, and between two that were joined."""
    mp3 = make("mp3")
    tag = b"ID3\4\0\0\0\0\x10\0" + b"\0\xff\xfb\x90" * 512
    tagged = heard(tmp_path / "x.mp3", tag + mp3 + b"TAG" + b"title".ljust(125) + tag + mp3)
    np.testing.assert_allclose(tagged, np.tile(heard(tmp_path / "x.mp3", mp3), 2), atol=1e-6)


def test_a_flac_file_from_a_pipe_is_as_long_as_it_is(tmp_path: Path, make: Make) -> None:
    flac = make("flac")
    unknown = flac[:21] + bytes((flac[21] & 0xF0, 0, 0, 0, 0)) + flac[26:]
    np.testing.assert_array_equal(heard(tmp_path / "x.flac", unknown), heard(tmp_path / "x.flac", flac))
    np.testing.assert_array_equal(
        audio.read(tmp_path / "x.flac", RATE, 1.5, 0.3)[:10], audio.read(tmp_path / "x.flac", RATE)[24000:24010]
    )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, make: Make, name: str, share: float) -> None:
    """When they are measured, and when they are read."""
    content = make(name, 4.0)
    problem(path := tmp_path / f"x.{name}", content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"truncated|damaged"):
        audio.duration(path)


def test_zeroed_parts_of_a_file_are_refused(tmp_path: Path, make: Make) -> None:
    for name in ("mp3", "flac", "ogg"):
        content = make(name, 6.0)
        third = len(content) // 3
        problem(tmp_path / "x", content[:third] + b"\0" * third + content[2 * third :])


@pytest.mark.parametrize("rate", [1, 999, 1_000_001])
def test_rates_that_no_recording_has_are_refused(tmp_path: Path, make: Make, rate: int) -> None:
    wav = bytearray(make("wav"))
    wav[24:28] = struct.pack("<I", rate)
    assert "samples a second" in problem(tmp_path / "x.wav", bytes(wav))


def test_a_file_without_channels_is_refused(tmp_path: Path, make: Make) -> None:
    wav = bytearray(make("wav"))
    wav[22:24] = b"\0\0"
    problem(tmp_path / "x.wav", bytes(wav))


def test_an_ogg_chain_has_a_part_for_each_link(tmp_path: Path, make: Make) -> None:
    (tmp_path / "x.ogg").write_bytes(make("ogg") + make("opus") + make("ogg"))
    assert [part.form for part in containers.parts(tmp_path / "x.ogg")] == ["ogg"] * 3
    assert audio.duration(tmp_path / "x.ogg") == pytest.approx(6.0, abs=0.01)


@pytest.mark.parametrize("name", ["flac", "ogg", "opus", "mp3"])
def test_only_a_short_header_needs_a_full_scan(
    tmp_path: Path, make: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says enough is believed."""
    (tmp_path / f"x.{name}").write_bytes(make(name, 2.0))
    (tmp_path / f"y.{name}").write_bytes(make(name, 2.0) * 2)
    (tmp_path / f"z.{name}").write_bytes(make(name, 2.0)[:-2000])
    assert audio.check(tmp_path / f"y.{name}", 3.9).seconds == pytest.approx(4.0, abs=0.01)
    with pytest.raises(UserError, match=r"truncated|damaged"):
        audio.check(tmp_path / f"z.{name}", 1.9)
    monkeypatch.setattr(containers, "parts", None)  # which looks at all of it
    assert audio.check(tmp_path / f"x.{name}", 1.9).seconds == pytest.approx(2.0, abs=0.01)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short recording of each form."""
    folder = tmp_path_factory.mktemp("short")
    for name in FORMS:
        recorded(name, 0.5, folder=folder)
    return folder


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(FORMS)),
    change=st.sampled_from(["cut", "set", "insert", "replace"]),
    place=st.integers(0, 100) | st.integers(0, 1 << 14),
    given_bytes=st.binary(max_size=300),
)
def test_no_bytes_raise_anything_but_a_user_error(
    tmp_path: Path, short: Path, name: str, change: str, place: int, given_bytes: bytes
) -> None:
    content = bytearray((short / f"made.{name}").read_bytes())
    place %= len(content)
    match change:
        case "cut":
            content = content[:place]
        case "set":
            content[place : place + len(given_bytes)] = given_bytes
        case "insert":
            content[place:place] = given_bytes
        case "replace":
            content = bytearray(given_bytes)
    path = tmp_path / "x"
    path.write_bytes(content)
    for attempt in (
        lambda: audio.inspect(path),
        lambda: audio.check(path, 0.4),
        lambda: audio.read(path, 8000),
        lambda: audio.read(path, 8000, 0.2, 0.1),
        lambda: list(audio.stream(path, 8000)),
    ):
        with suppress(UserError):
            attempt()


def test_another_recording_is_found_as_one_expression_finds_it() -> None:
    """Its first bytes are sought before the rest of it."""
    draw = random.Random(0)
    marks = [
        *(
            b"fLaC\0\0\0\x22",
            b"fLaC\x80\0\0\x22",
            b"RIFF1234WAVE",
            b"RIFX1234WAV",
            b"RF64\n\n\n\nWAVE",
            b"fLaC",
            b"ID3",
        ),
        *(b"OggS\0\2" + bytes(8), b"FORM1234AIFF", b"FORM1234AIFG", b"ID3\4\0.1234T", b"ID3\3\0\1\1\2\3\4T"),
    ]
    ends = []
    for _ in range(500):
        parts = [draw.choice(marks) if draw.random() < 0.3 else draw.randbytes(draw.randrange(12)) for _ in range(9)]
        data = b"".join(parts)
        expected = next((found.start() for found in containers._BEGINS.finditer(data, 3)), len(data))
        assert min(containers._next_begin(data, 3, word) for word in containers._WORDS) == expected
        ends.append(expected < len(data))
    assert 100 < sum(ends) < 490
