"""Many ranks on one machine, as torchrun would start them, without importing torch in each."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

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
        import os

        plain = [(ranks, [str(word) for word in words]) for ranks, words in commands]
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(plain)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        statuses = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]
        return Ended(statuses, process.stderr)

    return run
