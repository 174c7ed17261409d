"""Compares the speed of programs on a shared machine: each is a process, and blocks of work alternate.

The order is A B B A ..., and one side waits while the other works. Ratios are between the blocks of a pair, which are
adjacent in time; their geometric mean has a 95 % bootstrap interval. Also runs in the peers' environments, so it
needs only numpy and the standard library.
"""

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import clock_gettime, perf_counter, sleep
from typing import Any

import numpy as np

PAUSE_SECONDS = 0.2  # so that a loader of the other side finishes reading ahead
RESAMPLES = 10_000
Answer = dict[str, Any]


def parser(description: str | None, block_seconds: float) -> argparse.ArgumentParser:
    """Options of all comparisons. `--side` is internal, for the sides' processes: name of the side, plan file."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--pairs", type=int, default=40)
    result.add_argument("--block-seconds", type=float, default=block_seconds)
    result.add_argument("--threads", type=int, default=1)
    result.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    return result


class Side:
    """The parent's view of a side's process: each order and each answer is a line of JSON."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, has_gpu: bool = False) -> None:
        """Starts the process; its standard error goes to `log`."""
        self._name, self._log = name, log
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        if not has_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=environment, text=True
            )
        self.facts: Answer = {}
        """Its first answer: a description of its work."""

    def ask(self, order: Any) -> Answer:
        """Sends an order; returns its answer."""
        self.tell(order)
        return self.answer()

    def tell(self, order: Any) -> None:
        """Sends an order whose answer is read later, or that has none."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Ends the process and waits for it, since it may still write files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def answer(self) -> Answer:
        """Waits for the next answer. Raises SystemExit with the end of the log if the process ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended:\n{self._log.read_text()[-4000:]}")
        return dict(json.loads(line))


def start(script: str, pythons: Mapping[str, str], plan: Path, *, has_gpu: bool = False) -> dict[str, Side]:
    """The sides of a comparison, by name, each with its own interpreter."""
    return start_all(script, pythons, [plan], has_gpu=has_gpu)[0]


def start_all(
    script: str, pythons: Mapping[str, str], plans: Sequence[Path], *, has_gpu: bool = False
) -> list[dict[str, Side]]:
    """The sides of several comparisons, which start at the same time and then wait for orders."""
    comparisons = [
        {
            name: Side(
                name,
                [python, script, "--side", name, str(plan)],
                plan.with_name(f"{plan.stem}_{name}.log"),
                has_gpu=has_gpu,
            )
            for name, python in pythons.items()
        }
        for plan in plans
    ]
    for sides in comparisons:
        for side in sides.values():
            side.facts = side.answer()
    return comparisons


def channel() -> Callable[[Answer], None]:
    """In a side's process: a function that answers the parent. What libraries print then goes to standard error."""
    file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=file, flush=True)


def serve(facts: Answer, run: Callable[[Any], Answer], answer: Callable[[Answer], None]) -> None:
    """In a side's process: sends its facts, then answers orders one after the other."""
    answer(facts)
    for line in sys.stdin:
        answer(run(json.loads(line)))


class LoopEnds(Exception):  # noqa: N818
    """Raised in a side's loop when the parent ends it."""


class Pace:
    """In a side's process: runs a training loop in blocks. Times each block, reports it, waits for the next order."""

    def __init__(self, answer: Callable[[Answer], None], settle: Callable[[], None] = lambda: None) -> None:
        """`settle` waits until all work is done, which may still be queued on a GPU."""
        self._answer, self._settle = answer, settle
        self._processor_seconds = 0.0

    def wait(self) -> None:
        """Waits for an order of a number of steps. Raises LoopEnds at any other order."""
        order = sys.stdin.readline().strip()
        if not order.isdigit():
            raise LoopEnds
        self._num_steps = self._steps_left = int(order)
        self._amount, self._start = 0.0, perf_counter()

    def after_step(self, amount: float) -> None:
        """To be called after each optimizer step, with the amount of data in it."""
        self._amount += amount
        self._steps_left -= 1
        if self._steps_left == 0:
            self._settle()
            wall_seconds = perf_counter() - self._start
            # From the end of one block to the end of the next, so that reading ahead during the pause is included.
            before, self._processor_seconds = self._processor_seconds, processor_seconds()
            spent = self._processor_seconds - before
            self._answer({"steps": self._num_steps, "amount": self._amount, "wall": wall_seconds, "processor": spent})
            self.wait()


def processor_seconds() -> float:
    """Processor time of this process and its loader processes so far."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]
    return sum(clock_gettime((~process << 3) | 2) for process in processes)  # Linux: clock_getcpuclockid(3)


def take_turns(sides: dict[str, Side], orders: Sequence[Any]) -> dict[str, list[Answer]]:
    """The answers of each side to the same orders, in the order A B B A ..."""
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for number, order in enumerate(orders):
        for name in sorted(sides, reverse=number % 2 == 0):
            sleep(PAUSE_SECONDS)
            answers[name].append(sides[name].ask(order))
    return answers


def interval(ratios: np.ndarray) -> str:
    """Geometric mean with its 95 % bootstrap interval."""
    logs = np.log(ratios)
    resampled = np.random.default_rng(0).choice(logs, (RESAMPLES, len(logs))).mean(axis=1)
    low, high = np.exp(np.quantile(resampled, [0.025, 0.975]))
    return f"{math.exp(logs.mean()):.3f} [{low:.3f}, {high:.3f}]"
