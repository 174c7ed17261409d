"""The commands of docs/transcripts.md, as written, on small models and short recordings."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.pages import FEW_STEPS, commands, run


@pytest.fixture
def desk(corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, two recordings and texts, as the page names them."""
    shutil.copytree(trained / "model", tmp_path / "models" / "speech")
    sounds = [soundfile.read(corpus / f"test_0{n}.wav")[0] for n in (0, 1)]
    soundfile.write(tmp_path / "talk.wav", sounds[0], 8000)
    length = max(map(len, sounds))
    sides = [np.pad(sound, (0, length - len(sound))) for sound in sounds]
    soundfile.write(tmp_path / "call.wav", np.stack(sides, axis=1), 8000)
    (tmp_path / "texts").mkdir()
    lines = [f"{one.capitalize()} {other}, {one}." for one in ("ab", "cd", "b") for other in ("a", "c", "dab")]
    (tmp_path / "texts" / "a.txt").write_text("\n".join(lines * 8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_its_commands_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands("transcripts.md")
    assert [words[0] for words in found] == [*["transcribe"] * 5, "prepare", "train", "transcribe"]
    said = list(run(found, capsys, {"train": FEW_STEPS}))
    assert {each.name for each in (desk / "transcripts").iterdir()} == {"talk.srt", "talk.vtt", "talk.html"}
    assert re.match(r"(Ann|Ben)  0:00\n[a-d ]+\n\n(Ann|Ben)  0:00\n[a-d ]+\n$", said[3].out)
    assert said[-1].out.startswith("0:00\n")
