"""The commands of docs/search.md, as written, on the tiny model; what the page says of settings."""

import json
import re
import shutil
from pathlib import Path

import pytest

from segue.runtime.speech_search import SpeechSearchSection
from tests.pages import DOCS, commands, run


def test_its_settings_are_the_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", (DOCS / "search.md").read_text(encoding="utf-8"), re.MULTILINE)
    defaults = SpeechSearchSection().model_dump()
    assert [name for name, _ in rows] == list(defaults)
    for name, value in rows:
        said = value.strip()
        assert said == ("" if defaults[name] is None else str(defaults[name]).removesuffix(".0"))


@pytest.mark.slow
def test_its_commands_run(
    trained: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("kaldingram")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "model", "runs/mine")
    shutil.copytree(corpus, "data/yours")
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("ab cd abc. cd ab dab.\n" * 20)
    Path("names.txt").write_text("# names\nab cd\n")
    first = json.loads((corpus / "test.jsonl").read_text().splitlines()[0])
    shutil.copy(corpus / first["audio_filepath"], "interview.wav")
    found = commands("search.md")
    assert [words[0] for words in found] == ["prepare", "tune", "evaluate", "export", "transcribe", "transcribe"]
    list(run(found, capsys, {"prepare": ["text.keep_characters="]}))
    assert Path("mine_onnx/search.json").read_bytes() == Path("runs/mine/search.json").read_bytes()
    assert Path("mine_onnx/language_model.arpa").exists() == Path("runs/mine/language_model.arpa").exists()
