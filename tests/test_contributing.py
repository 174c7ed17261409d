"""What CONTRIBUTING says of adding to the house works as it stands there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from segue import tasks
from segue.cli import main
from segue.data import corpora
from segue.data.features import LogMelSection
from segue.formats.exporter import Exporter
from segue.runtime.table import TASKS, find
from segue.tasks.speech_recognition import AcousticModel
from segue.tasks.speech_recognition.ctc import CTC, CTCSection

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def code_under(heading: str) -> str:
    section = TEXT.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    code: str
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


def module_of(name: str, heading: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code_under(heading), name, "exec"), module.__dict__)
    return module


def test_a_corpus_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_of("segue.data.corpora.spoken_folders", "A corpus", monkeypatch)
    monkeypatch.setitem(corpora.CORPORA, "spoken_folders", "spoken_folders")
    for number in range(12):
        file = tmp_path / "said" / ("yes" if number % 2 else "no") / f"{number}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, np.full(4000, 0.1), 8000)
    assert main(["prepare", "spoken_folders", str(tmp_path / "said"), str(tmp_path / "data"), "every=4"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    assert len(lines) == 9
    assert {line["text"] for line in lines} == {"yes", "no"}


@pytest.fixture
def tdnn(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module_of("segue.models.tdnn", "An encoder for sounds", monkeypatch)


def test_padding_changes_nothing_for_the_encoder(tdnn: ModuleType) -> None:
    section = tdnn.TDNNSection(kind="tdnn", width=16, layers=3)
    features, objective = LogMelSection(sample_rate_hz=8000, mel_bins=12), CTCSection(kind="ctc")
    recipe: Any = SimpleNamespace(features=features, model=section, objective=objective)
    torch.manual_seed(0)
    model = AcousticModel(recipe, 4)
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 4000])
    log_probs, frames = model(waveforms, lengths)
    alone, _ = model(waveforms[1:, :4000], lengths[1:])
    torch.testing.assert_close(log_probs[1, : frames[1]], alone[0, : frames[1]])
    assert frames.tolist() == [50, 25]


@pytest.mark.slow
def test_the_encoder_trains_and_is_exported(tiny_recipe: Path, tmp_path: Path) -> None:
    house = tmp_path / "house"
    shutil.copytree(ROOT / "segue", house / "segue", ignore=shutil.ignore_patterns("__pycache__"))
    (house / "segue" / "models" / "tdnn.py").write_text(code_under("An encoder for sounds"))
    [union] = re.findall(r"`(Annotated\[JasperSection \| [^`]*)`", TEXT)
    imports = "from typing import Annotated\nfrom pydantic import Field\nfrom segue.models.tdnn import TDNNSection\n"
    unions = house / "segue" / "models" / "sound_encoders.py"
    lines = unions.read_text().replace("SoundEncoderSection = JasperSection", f"SoundEncoderSection = {union}")
    unions.write_text(lines.replace("from segue.models.jasper", f"{imports}from segue.models.jasper"))
    before, _, after = tiny_recipe.read_text().partition("[model]\n")
    recipe = tmp_path / "tdnn.toml"
    recipe.write_text(f'{before}[model]\nkind = "tdnn"\nwidth = 16\n\n[batch]{after.partition("[batch]")[2]}')
    run, graph = tmp_path / "run", tmp_path / "graph"
    for words in (["train", recipe, "--out", run, "engine.steps=4"], ["export", run, "onnx", graph]):
        command = [sys.executable, "-c", "from segue.cli import main; raise SystemExit(main())", *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, cwd=house)
    assert (graph / "model.onnx").is_file()


@pytest.mark.parametrize("task", TASKS)
def test_tasks_have_all_documented_names(task: str) -> None:
    module = tasks.module(task)
    section = TEXT.partition("### A task\n")[2].partition("\n### ")[0]
    names = {
        "Recipe",
        "build_source",
        "build_task",
        "sketch",
        "restore",
        "load",
        "EXAMPLE",
        "compare",
        "examples",
        "LEAST_IDENTICAL",
    }
    assert all(f"`{name}`" in section and hasattr(module, name) for name in names)
    assert {"task", "data", "batch", "engine", "optimizer", "schedule"} <= set(module.Recipe.model_fields)
    for target in TASKS[task].targets.values():
        assert isinstance(find(target.exporter), Exporter)


def test_objectives_have_all_documented_names() -> None:
    section = TEXT.partition("### An objective for speech\n")[2].partition("\n### ")[0]
    for name in ("build_head", "frames_needed", "loss", "recognize"):
        assert f"`{name}`" in section
        assert hasattr(CTC, name)


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:segue|docs|recipes)/[\w/.]+\.(?:py|md))`", TEXT)
    assert len(named) > 10
    assert [name for name in named if "NAME" not in name and not (ROOT / name).is_file()] == []
