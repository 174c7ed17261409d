"""Many ranks on one machine, as torchrun would start them, without importing torch in each."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sabotage
from ranks import Commands, Job, RunRanks, Start, records, seen, training
from sabotage import Call, call

import segue

SERVER = Path(__file__).with_name("server.py")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """One process forks the ranks of all tests."""
    folder = tmp_path_factory.mktemp("said")
    numbers = iter(range(10**6))
    with subprocess.Popen(
        [sys.executable, str(SERVER)],
        cwd=folder,  # no git repository, which a run would describe
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def run(ranks: int, words: Sequence[object], *calls: Call, program: str = "segue.cli") -> Job:
            said = str(folder / str(next(numbers)))
            order = {"ranks": ranks, "words": list(map(str, words)), "said": said, "program": program}
            return Job(server, Path(said), {**order, "environment": sabotage.environment(calls)})

        yield run


@pytest.fixture(scope="session")
def run_ranks(start: Start) -> RunRanks:
    def run(commands: Commands, *calls: Call) -> tuple[list[list[int]], list[str]]:
        ended = [start(ranks, words, *calls).end() for ranks, words in commands]
        return [each.statuses for each in ended], [line for each in ended for line in each.lines]

    return run


@pytest.fixture(scope="session")
def recipe(reversal_recipe: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reversal recipe over few pairs."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 300), ("dev", 4)):
        lines = (pairs / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]))
    path = folder / "few.toml"
    path.write_text(reversal_recipe.read_text().replace(str(pairs), str(folder)))
    return path


@pytest.fixture(scope="session")
def barely_trained_translator(reversal_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, for tests that ask nothing of the model. Not to be written to."""
    run = tmp_path_factory.mktemp("barely_trained_translator") / "run"
    segue.train(reversal_recipe, run, "engine.steps=1", "search.longest_factor=0.1", "search.longest_extra=1")
    return run


@pytest.fixture(scope="session")
def undisturbed(start: Start, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 ranks that nothing happened to. Not to be written to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = start(2, training(recipe, run), call(sabotage.note_examples, str(run.with_name("seen")))).end()
    assert ended == ([0, 0], ["", ""])
    assert [record["step"] for record in records(run)] == list(range(1, 13))
    assert sorted(seen(run)) == list(range(12 * 4))
    return run


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run, with checkpoints of steps 9 and 12."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"
