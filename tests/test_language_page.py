"""The commands of docs/language_models.md, as written, on few texts."""

from pathlib import Path

import pytest

from tests.pages import DOCS, commands, run


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "yours").mkdir(parents=True)
    for name, count in (("train", 400), ("test", 40)):
        lines = (f"The film was number {number % 7} of {number % 11} that year.\n" for number in range(count))
        (tmp_path / "data" / "yours" / f"{name}.txt").write_text("".join(lines))
    found = commands("language_models.md")
    assert [words[0] for words in found] == ["train", "generate", "evaluate", "export", "export", "generate"]
    assert "_OUTPUT" not in (DOCS / "language_models.md").read_text(encoding="utf-8")
    train = ["engine.steps=60", "engine.evaluate_every=30", "engine.threads=1", "batch.tokens=256"]
    texts = [each.out for each in run(found, capsys, {"train": train}) if each.words[0] == "generate"]
    assert texts[0] == texts[1]
    assert (tmp_path / "yours_gguf" / "model.gguf").is_file()
