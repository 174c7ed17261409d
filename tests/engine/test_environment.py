"""What a run keeps about where it ran, also where there is no git."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import segue
from segue.engine import environment
from segue.engine.distributed.layout import Layout

CPU = torch.device("cpu")


def git(folder: Path, *words: str) -> str:
    names = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
    done = subprocess.run(["git", *names, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "recipe.toml").write_text("first\n\n")
    (folder / "notes.txt").write_bytes("Übung\n".encode("latin-1"))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return folder


def written(run: Path, *layout: int) -> dict[str, Any]:
    run.mkdir(exist_ok=True)
    environment.write(run, CPU, Layout(*(layout or (1, 1, 1))))
    found: dict[str, Any] = json.loads((run / "environment.json").read_text())
    return found


@pytest.mark.usefixtures("repository")
def test_a_run_says_where_and_with_what_it_ran(tmp_path: Path) -> None:
    found = written(tmp_path / "run", 2, 3, 4)
    assert found["ranks"] == 24
    assert found["layout"] == {"data_parallel": 2, "shard": 3, "tensor_parallel": 4}
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["packages"]["segue"] == metadata.version("segue")
    assert (found["python"], found["cores"]) == (platform.python_version(), os.cpu_count())
    assert found["cuda"] is None
    assert all(found[name] for name in ("started", "command", "host", "system", "device"))


def test_a_run_keeps_its_commit_and_local_diff(repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert written(run)["git_commit"] == git(repository, "rev-parse", "HEAD")
    assert not (run / "git.diff").exists()
    # Lines that end in spaces, an empty last line, another encoding, and a person who likes colors.
    changed = {"recipe.toml": b"second  \n\n", "notes.txt": "Fußnote\n".encode("latin-1")}
    for name, text in changed.items():
        (repository / name).write_bytes(text)
    git(repository, "config", "color.ui", "always")
    written(run)
    git(repository, "checkout", "--quiet", "--", ".")
    git(repository, "apply", str(run / "git.diff"))
    assert {name: (repository / name).read_bytes() for name in changed} == changed
    git(repository, "checkout", "--quiet", "--", ".")
    written(run)
    assert not (run / "git.diff").exists()  # a resumed run's code is what counts


@pytest.mark.usefixtures("repository")
def test_without_git_only_the_commit_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = written(tmp_path / "run")
    assert found["git_commit"] is None
    assert found["packages"]
    assert not (tmp_path / "run" / "git.diff").exists()


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert written(tmp_path / "run")["git_commit"] is None


def test_training_records_environment_and_memory(tiny_recipe: Path, tmp_path: Path) -> None:
    segue.train(tiny_recipe, tmp_path, "engine.steps=1", "engine.average_count=0")
    assert json.loads((tmp_path / "environment.json").read_text())["ranks"] == 1
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Linux counts pages by the dozen.
    peak = environment.peak_memory_gb(CPU)
    assert peak is not None
    assert 0.1 < record["memory_gb"] <= peak + 0.01 < 100


@pytest.mark.parametrize(
    ("name", "half", "whole"),
    [("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12), ("NVIDIA L40S", 362e12, 91.6e12), ("Unheard Of 9000", None, None)],
)
def test_peak_operations_follow_the_gpu_name(
    monkeypatch: pytest.MonkeyPatch, name: str, half: float | None, whole: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    device = torch.device("cuda", 0)
    assert environment.peak_operations(device, "bfloat16", "ieee") == half
    assert environment.peak_operations(device, "float32", "ieee") == whole
    assert environment.peak_operations(torch.device("cpu"), "float32", "ieee") is None


WITHOUT_UNIX = """
import sys
sys.modules |= dict.fromkeys(("resource", "fcntl", "termios", "pwd", "grp"))  # importing them fails
import segue, segue.cli, segue.training, segue.tasks.speech_recognition, segue.tasks.translation
"""
GROWS_AND_IS_REPLACED = """
import os, sys
held = bytearray(2 * 10**9)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
SAYS_ITS_PEAK = """
import torch
from segue.engine import environment
cpu = torch.device("cpu")
print(environment.peak_memory_gb(cpu))
held = torch.ones(10**9, dtype=torch.uint8)
del held
print(environment.peak_memory_gb(cpu))
environment.forget_peak_memory(cpu)
print(environment.peak_memory_gb(cpu))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_peak_memory_is_per_program_and_resettable() -> None:
    """What the program held that this one replaced does not count."""
    command = [sys.executable, "-c", GROWS_AND_IS_REPLACED, SAYS_ITS_PEAK]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    before, peak, after = map(float, process.stdout.split())
    assert 0.1 < before < 1.5
    assert peak == pytest.approx(before + 1, abs=0.2)
    assert after == pytest.approx(before, abs=0.3)


@pytest.mark.slow
def test_training_needs_no_unix_only_modules() -> None:
    process = subprocess.run([sys.executable, "-c", WITHOUT_UNIX], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_memory_that_is_not_known_is_not_logged(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "peak_memory_gb", lambda device: None)
    segue.train(tiny_recipe, tmp_path, "engine.steps=1", "engine.average_count=0")
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "memory_gb" not in record
