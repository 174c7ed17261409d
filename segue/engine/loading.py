"""How do micro-batches arrive while the model computes? A torch DataLoader over their numbers."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from segue.engine.task import Batch, Plan, Source, Split
from segue.errors import UserError

B = TypeVar("B", bound=Any)

_NAME_BYTES = 256  # of the example that a worker holds
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


class _MicroBatches(Dataset[Batch | UserError]):
    """Micro-batch by number. A user's mistake is a value, since an exception would cross processes as a traceback."""

    def __init__(self, source: Source, split: Split, plan: Plan) -> None:
        self._source, self._split, self._plan = source, split, plan

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            batch: Batch = self._source.load(self._split, self._plan.micro_batch(number))
            return batch
        except UserError as mistake:
            return mistake
        finally:
            holding("")


class Stream:
    """The micro-batches of these numbers, in order, read ahead by `workers` processes (0: by this one).

    They lie in the processor's memory; for a GPU pinned, so that a copy to it waits for nothing.
    """

    def __init__(
        self, source: Source, split: Split, numbers: Sequence[int], workers: int, device: torch.device
    ) -> None:
        self._names: Any = multiprocessing.RawArray("c", max(1, workers) * _NAME_BYTES)
        self._loader = DataLoader(
            _MicroBatches(source, split, source.plan(split)),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_Start(self._names),
            pin_memory=device.type == "cuda",
        )
        self._workers: list[Any] = []
        self._dead: list[int] = []  # before the others were ended
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
                yield batch
        finally:
            # Ends the workers now: an error's traceback would keep them, and the process wait for them at its end.
            self._dead = self._found_dead()
            if self._dead:
                for each in self._workers:  # the thread that pins batches may wait for the rest of one
                    each.kill()
            with suppress(RuntimeError):  # of torch, about one that died
                getattr(batches, "_shutdown_workers", lambda: None)()
            for each in self._workers:
                each.kill()  # one that hangs

    def being_read(self) -> list[str]:
        """The examples that processes read at this moment."""
        return [name for name in map(self._name, range(len(self._workers))) if name]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Around the use of the batches: torch says that a worker died wherever the training is at that moment."""
        try:
            yield
        except (RuntimeError, ConnectionError, EOFError) as error:  # connections may break off before torch says it
            dead = self._dead or self._found_dead()
            is_torchs = "DataLoader worker" in str(error) or "Pin memory thread" in str(error)
            if not is_torchs and (isinstance(error, RuntimeError) or not dead):
                raise
            names = ", ".join(filter(None, map(self._name, dead))) or "none"
            reasons = ", ".join(_reason(self._workers[number].exitcode) for number in dead) or str(error)
            raise UserError(f"a process that reads data died ({reasons}); it was reading the example {names}") from None

    def _found_dead(self) -> list[int]:
        return [number for number, each in enumerate(self._workers) if each.exitcode]

    def _name(self, worker: int) -> str:
        name = self._names[worker * _NAME_BYTES : (worker + 1) * _NAME_BYTES]
        return bytes(name).rstrip(b"\0").decode(errors="replace")


class _Start:
    """What a worker does first."""

    def __init__(self, names: Any) -> None:
        self._names = names

    def __call__(self, worker: int) -> None:
        global _slot
        _slot = memoryview(self._names).cast("B")[worker * _NAME_BYTES : (worker + 1) * _NAME_BYTES]
        # A terminal sends Ctrl-C to a whole process group; only the trainer should answer, so workers leave the group.
        if hasattr(os, "setpgid"):
            os.setpgid(0, 0)
        if sys.platform == "linux":  # a killed trainer takes them along: they hold its connections to other ranks open
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        sys.excepthook = _hushed(sys.excepthook)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # forked with the trainer's handlers
        # A scheduler signals every process of a job. The trainer still wants batches then, so once is not for workers.
        signal.signal(signal.SIGTERM, _pass_over)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _hushed(say: Any) -> Any:
    """A trainer that ends hangs up on the thread that hands out tensors: that is not worth a traceback."""

    def hook(kind: Any, value: Any, trace: Any) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            say(kind, value, trace)

    return hook


def _pass_over(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)


_slot: memoryview | None = None  # of this process, if it is a worker


def holding(example: str) -> None:
    """Sources say which example they are about to read, for the case that it takes the process down."""
    if _slot is not None:
        name = example.encode()[:_NAME_BYTES]
        _slot[:] = name + bytes(_NAME_BYTES - len(name))


def moved(batch: B, device: torch.device) -> B:
    """The same batch with its tensors, also those in tuples, on `device`; from pinned memory they may still be on
    their way."""

    def move(value: Any) -> Any:
        return value.to(device, non_blocking=device.type == "cuda") if isinstance(value, Tensor) else value

    fields = {name: value for name, value in batch._asdict().items() if isinstance(value, Tensor | tuple)}
    changed: B = batch._replace(**tree_map(move, fields))
    return changed


def _reason(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"{name}: memory may have run out" if -exit_code == signal.SIGKILL else name
