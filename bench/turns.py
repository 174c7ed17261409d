"""How are two programs compared on a machine that others use too? Each is a process; blocks of work take turns.

A B B A ..., while the other waits. A ratio is taken between the blocks of a pair, which are neighbours in time; their
geometric mean has a 95 % bootstrap interval. Runs in the peers' environments too: numpy and the standard library only.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np

PAUSE_SECONDS = 0.2  # the other side's loader, if it has one, reads ahead, then rests
RESAMPLES = 10_000
Answer = dict[str, Any]


class Side:
    """A side's process, seen from the parent: one line of JSON goes in, one comes out."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        """Starts it and waits for the first line, which says what it will work on (`facts`)."""
        self._name, self._log = name, log
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=environment, text=True
            )
        self.facts = self._answer()

    def ask(self, order: Any) -> Answer:
        """What it answers."""
        self.tell(order)
        return self._answer()

    def tell(self, order: Any) -> None:
        """For an order without an answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Ends it and waits: it may still write files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended:\n{self._log.read_text()[-4000:]}")
        return dict(json.loads(line))


def channel() -> Callable[[Answer], None]:
    """In a side's process: writes an answer to the parent. What libraries print goes to standard error from now on."""
    file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=file, flush=True)


def serve(facts: Answer, run: Callable[[Any], Answer], answer: Callable[[Answer], None]) -> None:
    """In a side's process: says its facts, then answers one order after the other."""
    answer(facts)
    for line in sys.stdin:
        answer(run(json.loads(line)))


def take_turns(sides: dict[str, Side], orders: Sequence[Any]) -> dict[str, list[Answer]]:
    """The answers of each side to the same orders, A B B A ..."""
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
