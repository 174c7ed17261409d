"""The commands of docs/your_own_recordings.md, as written, on a small model and few recordings."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from segue.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "your_own_recordings.md"
CLIP = "clips/3_george_42.wav"
"""That the page transcribes."""


@pytest.fixture
def desk(corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recordings.csv, as the page shows it, and quickstart/run."""
    shutil.copytree(trained, tmp_path / "quickstart" / "run")
    shutil.copytree(corpus, tmp_path / "quickstart" / "data")
    (tmp_path / "clips").mkdir()
    with (tmp_path / "recordings.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "text", "speaker", "split"])
        for split in ("train", "test"):
            for line in (corpus / f"{split}.jsonl").read_text().splitlines():
                given = json.loads(line)
                name = f"clips/{given['audio_filepath']}"
                shutil.copyfile(corpus / given["audio_filepath"], tmp_path / name)
                table.writerow([name, given["text"], "ann", split])
    shutil.copyfile(tmp_path / name, tmp_path / CLIP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_its_commands_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^\$ segue (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command.split()[0] for command in commands] == [
        *("prepare", "doctor", "evaluate", "train", "evaluate", "export", "transcribe")
    ]
    for command in commands:
        words = shlex.split(command)
        if words[0] == "train":
            words += ["engine.steps=4", "engine.evaluate_every=2", "engine.threads=1"]
        status = main(words)
        said = capsys.readouterr()
        assert status in ((0, 3) if words[0] == "doctor" else (0,)), said.err
    assert (desk / "doctor.html").is_file()
    assert (desk / "evaluation.html").is_file()
    assert said.out.strip()


def test_its_recipe_keys_and_files_exist(desk: Path) -> None:
    """What the page mentions beside its commands."""
    text = PAGE.read_text(encoding="utf-8")
    changes = re.findall(r"`((?:start|data)\.[^`]*)`", text)
    assert len(changes) == 3
    assert main(["prepare", "csv", "recordings.csv", "data/yours"]) == 0
    for change in changes:
        words = ["train", "--from", "quickstart/run", "data.root=data/yours", "--out", "runs/try", *shlex.split(change)]
        assert main([*words, "engine.steps=2", "engine.evaluate_every=1", "engine.threads=1"]) == 0
        shutil.rmtree("runs")
