"""The commands of docs/language_models.md, as written, on few texts."""

import re
import shlex
from pathlib import Path

import pytest

from segue.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "language_models.md"


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "yours").mkdir(parents=True)
    for name, count in (("train", 400), ("test", 40)):
        lines = (f"The film was number {number % 7} of {number % 11} that year.\n" for number in range(count))
        (tmp_path / "data" / "yours" / f"{name}.txt").write_text("".join(lines))
    commands = re.findall(r"^\$ segue (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command.split()[0] for command in commands] == [
        *("train", "generate", "evaluate", "export", "export", "generate")
    ]
    assert "_OUTPUT" not in PAGE.read_text(encoding="utf-8")
    texts = []
    for command in commands:
        words = shlex.split(command)
        if words[0] == "train":
            words += ["engine.steps=60", "engine.evaluate_every=30", "engine.threads=1", "batch.tokens=256"]
        status = main(words)
        said = capsys.readouterr()
        assert status == 0, said.err
        if words[0] == "generate":
            texts.append(said.out)
    assert texts[0] == texts[1]
    assert (tmp_path / "yours_gguf" / "model.gguf").is_file()
