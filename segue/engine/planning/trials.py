"""What batch and what learning rate? Tried on the model itself, on steps that no run keeps."""

import gc
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from segue.engine import environment
from segue.engine.loading import Stream
from segue.engine.memory import old_objects_aside
from segue.engine.step import NotFiniteError
from segue.engine.trainer import Trainer
from segue.errors import UserError

MEMORY_SHARE = 0.8
"""Of the memory that is free, for a batch: fragments, evaluation and longer texts need the rest."""
GROWTH = 1.5


class Rate(NamedTuple):
    """One step of the search for a learning rate."""

    learning_rate: float
    loss: float
    smoothed: float
    """The loss, averaged over the steps before."""


def learning_rates(trainer: Trainer, smallest: float, largest: float, num_steps: int) -> Iterator[Rate]:
    """Loss while the learning rate grows geometrically, until it is 4 times its lowest (Smith 2017, arXiv:1506.01186).

    The trainer is of no use afterwards.
    """
    smoothed, count, lowest = 0.0, 0, math.inf
    size = trainer.micro_batches
    stream = iter(Stream(trainer.source, "train", range(num_steps * size), trainer.engine.workers, trainer.device))
    peaks = [phase.optimizer.learning_rate for phase in trainer.task.phases]
    for number in range(num_steps):
        batches = list(islice(stream, size))
        rate = smallest * (largest / smallest) ** (number / max(1, num_steps - 1))
        try:
            outcome = trainer.steps.take(batches, number, *(rate / peak for peak in peaks))
        except NotFiniteError:
            return
        if outcome.is_empty:
            continue
        if not math.isfinite(outcome.loss):  # in float16 no error
            return
        count += 1
        smoothed = 0.9 * smoothed + 0.1 * outcome.loss
        loss = smoothed / (1 - 0.9**count)
        yield Rate(rate, outcome.loss, loss)
        lowest = min(lowest, loss)
        if loss > 4 * lowest:
            return


def suggested(rates: Sequence[Rate]) -> float:
    """The rate in the middle of the fifth of the steps in which the loss falls most steeply, over the rate's logarithm.

    Not from where the loss is lowest: clipped gradients hide that training breaks, and then it may fall up to the end.
    A UserError if it never falls.
    """
    size = max(2, len(rates) // 5)
    x = np.log([each.learning_rate for each in rates])
    y = np.array([each.loss for each in rates])
    starts = range(len(rates) - size + 1)
    slopes = [np.polyfit(x[start : start + size], y[start : start + size], 1)[0] for start in starts]
    if not slopes or min(slopes) >= 0:
        raise UserError(f"the loss does not fall at any learning rate from {rates[0].learning_rate:g} on")
    return rates[int(np.argmin(slopes)) + size // 2].learning_rate


def largest_budget(smallest: float, largest: float, take: Callable[[float], None], device: torch.device) -> float:
    """The largest budget of a micro-batch, between two, whose step fits in memory; `take` makes one step with a budget.

    It grows by half until memory says no, or until the next would not fit if memory grew in proportion.
    """
    environment.forget_peak_memory(device)
    limit = _free_bytes(device) * MEMORY_SHARE
    budget, fitting, before = smallest, 0.0, _peak_bytes(device)
    with old_objects_aside():
        while True:
            gc.collect()  # a model whose layers are recomputed holds itself
            try:
                take(budget)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            used = _peak_bytes(device) - before
            if used > limit:
                break
            fitting = budget
            if budget >= largest or used * GROWTH > limit:
                break
            budget = min(largest, budget * GROWTH)
    environment.forget_peak_memory(device)  # what the training itself will hold is asked for later
    if not fitting:
        raise UserError(f"not even a micro-batch of {smallest:g} fits in memory; shorten the examples or the model")
    return fitting


def _peak_bytes(device: torch.device) -> float:
    peak = environment.peak_memory_gb(device)
    assert peak is not None  # known wherever it is known how much is free
    return peak * 1e9


def _allowances(
    root: Path = Path("/sys/fs/cgroup"), memberships: Path = Path("/proc/self/cgroup")
) -> Iterator[tuple[float, float]]:
    """What each control group (version 2) that this process is in may hold of the memory, and what it holds.

    A container is one, and a job of Slurm may be.
    """
    with suppress(OSError):
        groups = memberships.read_text(encoding="utf-8").splitlines()
        own = root / next((line.removeprefix("0::/") for line in groups if line.startswith("0::/")), "")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                with suppress(OSError, ValueError):  # not said, or "max"
                    most, used = (folder / name for name in ("memory.max", "memory.current"))
                    yield float(most.read_text(encoding="ascii")), float(used.read_text(encoding="ascii"))


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = 0.0
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError("only Linux says how much memory is free; give the batch a number instead of auto") from None
    for line in lines:
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    for most, used in _allowances():
        free = min(free, most - used)
    return free / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # this machine's ranks share it
