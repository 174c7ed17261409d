"""Ranks that are started at once, watched, and compared: for proofs that fork, kill and starve them."""

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from sabotage import Call
from safetensors.torch import load_file

# The reversal task, small: 12 steps of 4 micro-batches, 4 checkpoints of which 2 stay, 2 evaluations.
TRAIN = (
    *("model.encoder_layers=1", "model.decoder_layers=1", "batch.micro_batches=4", "batch.tokens=60"),
    *("engine.steps=12", "engine.log_every=1", "engine.save_every=3", "engine.evaluate_every=6"),
    *("engine.moving_average_decay=0.9", "engine.average_count=2"),
)
PATIENCE = 900
"""Seconds until something hangs; a spread model that is compiled for each shape takes 300."""
KILLED, LET_DOWN = -signal.SIGKILL, 75


class Ended(NamedTuple):
    """How a command ended."""

    statuses: list[int]
    """Of each rank."""
    said: list[str]
    """By each on standard error, without lines of progress; where there is one rank on standard output, too."""

    @property
    def lines(self) -> list[str]:
        """What all said."""
        return [line for said in self.said for line in said.splitlines()]


class Job:
    """A command that its ranks are at."""

    def __init__(self, server: subprocess.Popen[str], said: Path, order: dict[str, Any]) -> None:
        self._server, self._said = server, said
        self.ranks: list[int] = self._ask(order)
        """Their process numbers."""

    def end(self) -> Ended:
        """Waits; what hangs is killed."""
        watch = threading.Timer(PATIENCE, self.kill)
        watch.start()
        try:
            statuses: list[int] = self._ask({"wait": self.ranks})
        finally:
            watch.cancel()
        return Ended(statuses, [self.said(rank) for rank in range(len(self.ranks))])

    def said(self, rank: int) -> str:
        """By one rank, so far."""
        path = Path(f"{self._said}_{rank}")
        said = path.read_text() if path.exists() else ""
        return re.sub(r"^(step \d+  loss|[\d,]+ parameters) .*\n", "", said, flags=re.MULTILINE)

    def kill(self) -> None:
        for process in self.ranks:
            os.kill(process, signal.SIGKILL)

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


class Start(Protocol):
    """Starts a program, `segue` if none is named, with these words on so many ranks, each sabotaged."""

    def __call__(self, ranks: int, words: Sequence[object], *calls: Call, program: str = "segue.cli") -> Job: ...


Commands = Sequence[tuple[int, Sequence[object]]]
"""Of each the number of ranks, and the words."""


class RunRanks(Protocol):
    """Runs commands of `segue` one after the other; what each rank of each has come to, and what all said."""

    def __call__(self, commands: Commands, *calls: Call) -> tuple[list[list[int]], list[str]]: ...


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def training(recipe: Path, run: Path, *overrides: str) -> list[object]:
    return ["train", recipe, "--out", run, *TRAIN, *overrides]


def records(run: Path) -> list[dict[str, Any]]:
    """The log's complete lines, without what depends on the clock."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    clock = ("time", "rate", "data_wait", "memory_gb")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def steps(run: Path) -> list[int]:
    """Of the checkpoints, all of which have to be whole."""
    for path in (run / "checkpoints").glob("step_*"):
        sums = json.loads((path / "state.json").read_text())["sha256"]
        assert len(sums) == 2
        assert {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in sums} == sums
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


def assert_same_outcome(run: Path, undisturbed: Path) -> None:
    """Weights, optimizer, averages and log, each step once."""
    assert records(run) == records(undisturbed)
    assert steps(run) == steps(undisturbed)
    assert_same_tensors(run, undisturbed)


def assert_same_training(run: Path, alone: Path, num_steps: int) -> None:
    """The same steps, each of them logged, and the same model, but for rounding."""
    for expected, found in zip(records(alone), records(run), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
    assert len({each["loss"] for each in records(run)}) == num_steps
    assert records(run)[-1]["dev"] == pytest.approx(records(alone)[-1]["dev"], rel=1e-3)
    wanted, ours = (load_file(each / "model" / "model.safetensors") for each in (alone, run))
    assert ours.keys() == wanted.keys()
    for key, tensor in wanted.items():
        if key.endswith("key.bias"):  # attention is blind to it: its gradient is rounding, which Adam makes large
            continue
        assert (ours[key].double() - tensor.double()).abs().max() <= 2e-3 * max(1.0, float(tensor.abs().max())), key


def assert_same_tensors(run: Path, undisturbed: Path) -> None:
    """In the last checkpoint and in the model, bit by bit."""
    checkpoint = f"checkpoints/step_{max(steps(undisturbed)):08d}"
    paths = [path for folder in (checkpoint, "model") for path in (undisturbed / folder).glob("*.safetensors")]
    assert len(paths) == 3
    for path in paths:
        assert tensors(run / path.relative_to(undisturbed)) == tensors(path), path


def tensors(path: Path) -> tuple[dict[str, Any], bytes]:
    """What a safetensors file says about its tensors, in whatever order, and all their bytes."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def seen(run: Path) -> dict[int, list[str]]:
    """The examples of each micro-batch."""
    found: dict[int, list[str]] = {}
    for line in run.with_name("seen").read_text().splitlines():
        number, ids = json.loads(line)
        assert found.setdefault(number, ids) == ids  # tensor-parallel ranks have the same ones
    return found
