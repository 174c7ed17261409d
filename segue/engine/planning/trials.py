"""Which batch size and which learning rate? Determined by trial steps of the model, which are discarded."""

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
"""Fraction of the free memory for a batch; the rest is for fragmentation, evaluation and longer texts."""
GROWTH = 1.5


class Rate(NamedTuple):
    """One step of the search for a learning rate."""

    learning_rate: float
    loss: float
    smoothed: float
    """Exponential moving average of the loss, bias-corrected."""


def learning_rates(trainer: Trainer, smallest: float, largest: float, num_steps: int) -> Iterator[Rate]:
    """Learning rate range test (Smith 2017, arXiv:1506.01186): the loss while the rate grows geometrically.

    Ends early when the smoothed loss exceeds 4 times its minimum or is not finite. The trainer is unusable afterward.
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
        if not math.isfinite(outcome.loss):  # float16 raises no error
            return
        count += 1
        smoothed = 0.9 * smoothed + 0.1 * outcome.loss
        loss = smoothed / (1 - 0.9**count)
        yield Rate(rate, outcome.loss, loss)
        lowest = min(lowest, loss)
        if loss > 4 * lowest:
            return


def suggested(rates: Sequence[Rate]) -> float:
    """The rate in the middle of the window, a fifth of the steps, where the loss falls most steeply over log(rate).

    Not the rate of the lowest loss: with clipped gradients divergence is hidden, and the loss may fall up to the end.
    Raises a UserError if the loss never falls.
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
    """The largest budget of a micro-batch in [smallest, largest] that fits in memory; `take` runs a step with a budget.

    The budget grows by half until a step runs out of memory, or the next one would if memory grew proportionally.
    Raises a UserError if not even `smallest` fits.
    """
    gc.collect()  # what is freed later would count against what a step takes
    environment.forget_peak_memory(device)
    limit = free_bytes(device) * MEMORY_SHARE
    budget, fitting, before = smallest, 0.0, _peak_bytes(device)
    with old_objects_aside():
        while True:
            gc.collect()  # a model with recomputed layers is a reference cycle
            try:
                take(budget)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            used = max(0.0, _peak_bytes(device) - before)
            if used > limit:
                break
            fitting = budget
            if budget >= largest or used * GROWTH > limit:
                break
            budget = min(largest, budget * GROWTH)
    environment.forget_peak_memory(device)  # later measurements should be of the training itself
    if not fitting:
        raise UserError(f"not even a micro-batch of {smallest:g} fits in memory; shorten the examples or the model")
    return fitting


def _peak_bytes(device: torch.device) -> float:
    peak = environment.peak_memory_gb(device)
    assert peak is not None  # measurable wherever free memory is
    return peak * 1e9


def _allowances(
    root: Path = Path("/sys/fs/cgroup"), memberships: Path = Path("/proc/self/cgroup")
) -> Iterator[tuple[float, float]]:
    """(limit, usage) in bytes of each memory control group (version 2) that this process is in.

    Containers are control groups, and Slurm jobs may be.
    """
    with suppress(OSError):
        groups = memberships.read_text(encoding="utf-8").splitlines()
        own = root / next((line.removeprefix("0::/") for line in groups if line.startswith("0::/")), "")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                with suppress(OSError, ValueError):  # no limit file, or "max"
                    most, used = (folder / name for name in ("memory.max", "memory.current"))
                    yield float(most.read_text(encoding="ascii")), float(used.read_text(encoding="ascii"))


def free_bytes(device: torch.device) -> float:
    """Memory that this process could still take. Raises a UserError where it cannot be measured."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = 0.0
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError("free memory can only be measured on Linux; give the batch a number instead of auto") from None
    for line in lines:
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    for most, used in _allowances():
        free = min(free, most - used)
    return free / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # this machine's ranks share it
