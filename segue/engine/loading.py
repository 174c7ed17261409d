"""How do micro-batches arrive while the model computes? A torch DataLoader over their numbers."""

import os
import signal
from collections.abc import Generator, Sequence
from time import perf_counter

import torch
from torch.utils.data import DataLoader, Dataset

from segue.engine.task import Batch, Plan, Split, Task
from segue.errors import UserError


class _MicroBatches(Dataset[Batch | UserError]):
    """Micro-batch by number. A user's mistake is a value, since an exception would cross processes as a traceback."""

    def __init__(self, task: Task, split: Split, plan: Plan) -> None:
        self._task, self._split, self._plan = task, split, plan

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            return self._task.load(self._split, self._plan.micro_batch(number))
        except UserError as mistake:
            return mistake


class Stream:
    """The micro-batches of these numbers, in order, read ahead by `workers` processes (0: by this one)."""

    def __init__(self, task: Task, split: Split, numbers: Sequence[int], workers: int, device: torch.device) -> None:
        self._loader = DataLoader(
            _MicroBatches(task, split, task.plan(split)),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_terminal,
            pin_memory=False,
        )
        self._device = device
        self.seconds_waited = 0.0
        """Wall time that the model has waited for data so far."""

    def __iter__(self) -> Generator[Batch]:
        batches = iter(self._loader)
        try:
            while True:
                start = perf_counter()
                batch = next(batches, None)
                self.seconds_waited += perf_counter() - start
                if batch is None:
                    return
                if isinstance(batch, UserError):
                    raise batch
                yield batch.to(self._device)
        finally:
            del batches  # ends the workers now; an error's traceback would keep them until the process ends, noisily


def _leave_terminal(worker: int) -> None:
    """A terminal sends Ctrl-C to a whole process group; only the trainer should answer, so workers leave the group."""
    del worker
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):  # forked with the trainer's handlers
        signal.signal(number, signal.SIG_DFL)
