import shutil
from pathlib import Path

import numpy as np
import pytest

from segue import metrics, quickstart, recipe, tasks, training
from segue.cli import main
from segue.data import audio
from segue.data.corpora.synthesized import VOICES
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.synthesis import Synthesizer
from segue.engine.trainer import Result
from segue.errors import UserError


def test_no_voice_is_in_two_splits() -> None:
    names = [voice for voices in VOICES.values() for voice in voices]
    assert len(names) == len(set(names))


def test_each_split_has_its_own_voices(tmp_path: Path) -> None:
    """At a speaking pace."""
    counts = {"train": 12, "dev": 3, "test": 3}
    quickstart.synthesize(tmp_path, counts)
    for split, count in counts.items():
        manifest = Manifest(Utterance, [tmp_path / f"{split}.jsonl"])
        assert len(manifest) == count
        for utterance in manifest:
            assert utterance.speaker in VOICES[split]
            assert 0.03 < utterance.seconds / len(utterance.text) < 0.3
            assert np.abs(audio.read(utterance.audio, quickstart.SAMPLE_RATE_HZ)).max() > 0.05


def test_a_voice_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no voice 'xx-xx'"):
        Synthesizer().say("one", "xx-xx", 150, 50)


def test_unusable_recordings_stop_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--out", str(tmp_path / "out"), "--recordings", str(tmp_path / "nowhere")]) == 2
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out" / "run").exists()


@pytest.mark.usefixtures("traced_once")
def test_quickstart_runs_end_to_end(
    trained: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a model that has learned already: the training itself has tests enough."""
    shutil.copytree(corpus, tmp_path / "data")
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(training, "train", lambda *_: Result(1, None, None, ""))
    assert main(["quickstart", "--out", str(tmp_path), "--recordings", str(corpus / "test.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "word error rate on held-out voices: " in said
    assert f"word error rate on {corpus / 'test.jsonl'}: " in said
    assert (tmp_path / "onnx" / "segue.json").is_file()


@pytest.mark.slow  # minutes of training
def test_pauses_and_levels_cost_little_accuracy(tmp_path: Path) -> None:
    quickstart.synthesize(tmp_path / "data")
    training.train(recipe.find("quickstart"), tmp_path / "run", [f"data.root={tmp_path / 'data'}", "engine.steps=1500"])
    model = tasks.load(tmp_path / "run")
    utterances = list(Manifest(Utterance, [tmp_path / "data" / "test.jsonl"]))
    clips = [utterance.samples(quickstart.SAMPLE_RATE_HZ) for utterance in utterances]
    noise = 1e-3 * np.random.default_rng(0).standard_normal(quickstart.SAMPLE_RATE_HZ).astype(np.float32)

    def error_rate(waveforms: list[audio.Samples]) -> float:
        outputs = [model.recognize([waveform])[0][0] for waveform in waveforms]
        return metrics.error_rates([utterance.text for utterance in utterances], outputs)["word_error_rate"]

    clean = error_rate(clips)
    assert clean < 0.2, "a model that has learned nothing loses nothing"
    assert error_rate([clip * np.float32(10 ** (-30 / 20)) for clip in clips]) < clean + 0.02
    assert error_rate([np.concatenate([0 * noise, clip, 0 * noise]) for clip in clips]) < clean + 0.03
    assert error_rate([np.concatenate([noise, clip, noise]) for clip in clips]) < clean + 0.03
