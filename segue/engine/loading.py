"""How are micro-batches loaded while the model computes? A torch DataLoader over micro-batch numbers."""

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

_NAME_BYTES = 256  # for the name of the example that a worker is reading
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


class _MicroBatches(Dataset[Batch | UserError]):
    """Maps a number to its micro-batch. A UserError is returned: raised, it would reach the trainer as a traceback."""

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
    """Iterates over the micro-batches of the given numbers, in order; `workers` processes prefetch them (0: none).

    Batches are in CPU memory; for a GPU it is pinned, so that copies to the device are asynchronous.
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
        self._dead: list[int] = []  # workers that had died before the others were stopped
        self.seconds_waited = 0.0
        """Wall time that the training has waited for data so far."""

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
            # Stop the workers now: a traceback would keep them alive, and the process would wait for them at exit.
            self._dead = self._found_dead()
            if self._dead:
                for each in self._workers:  # the pinning thread may still wait for the rest of a batch
                    each.kill()
            with suppress(RuntimeError):  # torch reports a dead worker this way
                getattr(batches, "_shutdown_workers", lambda: None)()
            for each in self._workers:
                each.kill()  # one that hangs

    def being_read(self) -> list[str]:
        """The names of the examples that the workers are reading now."""
        return [name for name in map(self._name, range(len(self._workers))) if name]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns the death of a worker into a UserError that names the example it was reading.

        Wrap all use of the batches in it: torch raises the error wherever the training happens to be at that moment.
        """
        try:
            yield
        except (RuntimeError, ConnectionError, EOFError) as error:  # a connection may break before torch notices
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
    """Initializes a worker process."""

    def __init__(self, names: Any) -> None:
        self._names = names

    def __call__(self, worker: int) -> None:
        global _slot
        _slot = memoryview(self._names).cast("B")[worker * _NAME_BYTES : (worker + 1) * _NAME_BYTES]
        # A terminal sends Ctrl-C to a whole process group; only the trainer should answer, so workers leave the group.
        if hasattr(os, "setpgid"):
            os.setpgid(0, 0)
        if sys.platform == "linux":  # workers die with a killed trainer: they keep its connections to other ranks open
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        sys.excepthook = _hushed(sys.excepthook)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # forked with the trainer's handlers
        # A scheduler signals every process of a job. The trainer still needs batches: workers ignore the first signal.
        signal.signal(signal.SIGTERM, _pass_over)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _hushed(say: Any) -> Any:
    """An excepthook without broken connections: when a trainer exits, those of its workers break, which is no error."""

    def hook(kind: Any, value: Any, trace: Any) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            say(kind, value, trace)

    return hook


def _pass_over(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)


_slot: memoryview | None = None  # of this process, if it is a worker


def holding(example: str) -> None:
    """Records which example this process is about to read, to be named if reading it crashes the process.

    Sources call it; "" clears the record. Outside of workers it does nothing.
    """
    if _slot is not None:
        name = example.encode()[:_NAME_BYTES]
        _slot[:] = name + bytes(_NAME_BYTES - len(name))


def moved(batch: B, device: torch.device) -> B:
    """The batch with its tensors, also those inside tuples, on `device`; copies to CUDA are asynchronous."""

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
