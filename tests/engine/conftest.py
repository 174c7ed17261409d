"""Many ranks on one machine, as torchrun would start them, without importing torch in each."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from ranks import SEEN, SERVER, Job, Start, records, seen, training

PROGRAM = """
import json, os, socket, sys, traceback
import segue.training, segue.tasks.translation, segue.tasks.speech_recognition  # once; ranks are forked
from segue.cli import main

def work(words):
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(status)

for ranks, words in json.loads(sys.argv[1]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            if ranks > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
                os.environ.update(LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            exec(os.environ.get("SABOTAGE", ""))
            work(words)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""
PATIENCE = 300
"""Seconds until something hangs; far more than anything takes."""


class Ended(NamedTuple):
    """How commands ended."""

    statuses: list[list[int]]
    """Of each command, of each rank."""
    said: str
    """On standard error."""


RunRanks = Callable[..., Ended]


@pytest.fixture(scope="session")
def run_ranks() -> RunRanks:
    """Runs command lines one after the other, each on its number of ranks."""

    def run(commands: Sequence[tuple[int, Sequence[str | Path]]], **environment: str) -> Ended:
        plain = [(ranks, [str(word) for word in words]) for ranks, words in commands]
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(plain)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, said = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its ranks too
                printed, said = process.communicate()
                said += f"\nkilled after {PATIENCE} seconds"
        statuses = [json.loads(line) for line in printed.splitlines() if line.startswith("[")]
        return Ended(statuses, said)

    return run


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts `segue` with these words on so many ranks."""
    folder = tmp_path_factory.mktemp("said")
    numbers = iter(range(10**6))
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=folder,  # no git repository, which a run would describe
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def run(ranks: int, words: Sequence[object], **environment: str) -> Job:
            said = str(folder / str(next(numbers)))
            order = {"ranks": ranks, "words": list(map(str, words)), "said": said, "environment": environment}
            return Job(server, Path(said), order)

        yield run


@pytest.fixture(scope="module")
def recipe(reversal_recipe: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reversal recipe over few pairs."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 300), ("dev", 4)):
        lines = (pairs / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]))
    path = folder / "few.toml"
    path.write_text(reversal_recipe.read_text().replace(str(pairs), str(folder)))
    return path


@pytest.fixture(scope="module")
def undisturbed(start: Start, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 ranks that nothing happened to. Not to be written to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = start(2, training(recipe, run), SABOTAGE=SEEN, SEEN=str(run.with_name("seen"))).end()
    assert ended == ([0, 0], ["", ""])
    assert [record["step"] for record in records(run)] == list(range(1, 13))
    assert sorted(seen(run)) == list(range(12 * 4))
    return run


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run, with checkpoints of steps 9 and 12."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"
