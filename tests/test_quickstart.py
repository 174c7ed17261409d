from pathlib import Path

import numpy as np
import pytest

from segue import quickstart
from segue.cli import main
from segue.data import audio
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.synthesis import Synthesizer
from segue.errors import UserError


def test_no_voice_is_heard_in_two_splits() -> None:
    heard = [voice for voices in quickstart.VOICES.values() for voice in voices]
    assert len(heard) == len(set(heard))


def test_each_split_is_said_by_its_own_voices_at_a_speaking_pace(tmp_path: Path) -> None:
    counts = {"train": 12, "dev": 3, "test": 3}
    quickstart.synthesise(tmp_path, counts)
    for split, count in counts.items():
        manifest = Manifest(Utterance, [tmp_path / f"{split}.jsonl"])
        assert len(manifest) == count
        for utterance in manifest:
            assert utterance.speaker in quickstart.VOICES[split]
            assert 0.03 < utterance.seconds / len(utterance.text) < 0.3
            assert np.abs(audio.read(utterance.audio, quickstart.SAMPLE_RATE_HZ)).max() > 0.05


def test_a_voice_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no voice 'xx-xx'"):
        Synthesizer().say("one", "xx-xx", 150, 50)


def test_recordings_that_cannot_be_used_are_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--out", str(tmp_path / "out"), "--recordings", str(tmp_path / "nowhere")]) == 2
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out" / "run").exists()
