"""How do micro-batches arrive while the model computes? A torch DataLoader over their numbers."""

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from segue.engine.task import Batch, Plan, Split, Task
from segue.errors import UserError

_NAME_BYTES = 256  # of the example that a worker holds


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
        self._held: Any = multiprocessing.RawArray("c", max(1, workers) * _NAME_BYTES)
        self._loader = DataLoader(
            _MicroBatches(task, split, task.plan(split)),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_Start(self._held),
            pin_memory=False,
        )
        self._device = device
        self._workers: list[Any] = []
        self.seconds_waited = 0.0
        """Wall time that the model has waited for data so far."""

    def __iter__(self) -> Generator[Batch]:
        batches = iter(self._loader)
        self._workers = getattr(batches, "_workers", [])
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

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Around the use of the batches: torch says that a worker died wherever the training is at that moment."""
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            dead = [number for number, each in enumerate(self._workers) if not each.is_alive()]
            held = [bytes(self._held[n * _NAME_BYTES : (n + 1) * _NAME_BYTES]).rstrip(b"\0") for n in dead]
            names = ", ".join(name.decode(errors="replace") for name in held if name) or "none"
            reasons = ", ".join(_reason(self._workers[number].exitcode) for number in dead) or str(error)
            raise UserError(f"a process that reads data died ({reasons}); it held the example {names}") from None


class _Start:
    """What a worker does first."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __call__(self, worker: int) -> None:
        global _slot
        _slot = memoryview(self._held).cast("B")[worker * _NAME_BYTES : (worker + 1) * _NAME_BYTES]
        # A terminal sends Ctrl-C to a whole process group; only the trainer should answer, so workers leave the group.
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # forked with the trainer's handlers
        # A scheduler signals every process of a job. The trainer still wants batches then, so once is not for workers.
        signal.signal(signal.SIGTERM, _pass_over)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _pass_over(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)


_slot: memoryview | None = None  # of this process, if it is a worker


def holding(example: str) -> None:
    """Tasks say which example they are about to read, for the case that it takes the process down."""
    if _slot is not None:
        name = example.encode()[:_NAME_BYTES]
        _slot[:] = name + bytes(_NAME_BYTES - len(name))


def _reason(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"{name}: memory may have run out" if -exit_code == signal.SIGKILL else name
