"""Which rank hangs? A thread that reports the rank, step and examples when a training makes no progress."""

import faulthandler
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic, time
from types import TracebackType
from typing import Any, NamedTuple, Self

from segue.engine.distributed.parallel import TRY_AGAIN, World
from segue.files import replacing

WAITS, SILENT = "waits for the other ranks", "no sign of life"
_SHOWN_IDS = 20


class Place(NamedTuple):
    """What a rank is doing."""

    step: int
    num_notes: int
    """Calls of `note` since this step began: the rank that the others wait for has the fewest."""
    act: str
    ids: list[str]
    since: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        examples = f": {', '.join(self.ids)}" if self.ids else ""
        return f"step {self.step}, {self.act}{examples}, for {time() - self.since:.0f} s"


class Watchdog:
    """Ends the process if a rank makes no progress for `patience_seconds`, and reports which rank is the cause.

    Each rank writes what it is doing to a file in the run directory, and reads those of the others when it has waited
    too long. A context manager: it watches inside the block.
    """

    def __init__(self, folder: Path, world: World, patience_seconds: float) -> None:
        self._folder, self._world, self._patience = folder, world, patience_seconds
        self._place = Place(0, 0, "starts", [], time())
        self._reading: Callable[[], list[str]] | None = None
        self._noted = monotonic()
        self._is_over = Event()
        self._thread = Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._path(self._world.rank).unlink(missing_ok=True)
        with suppress(OSError):  # missing, or not empty: another rank still has its file in it
            self._folder.rmdir()

    def note(
        self,
        act: str,
        ids: Sequence[str] = (),
        step: int | None = None,
        reading: Callable[[], list[str]] | None = None,
    ) -> None:
        """Records what this rank is doing from now on. `reading` returns the examples that its workers are reading."""
        place = self._place
        step, count = (place.step, place.num_notes + 1) if step is None else (step, 0)
        self._reading = reading
        self._place = Place(step, count, act, list(ids[:_SHOWN_IDS]), time())
        self._noted = monotonic()

    def _watch(self) -> None:
        interval, before = min(1.0, self._patience / 4), monotonic()
        while not self._is_over.wait(interval):
            # For so long, this thread did not run either: the process was stopped (Ctrl-Z), or its whole machine.
            missed = monotonic() - before - 2 * interval
            if missed > 0:
                self._noted = min(self._noted + missed, monotonic())
            if self._world.size > 1:  # even if nothing is new: it distinguishes a waiting process from a frozen one
                # The disk may be full, or another rank may be creating or deleting the folder.
                with suppress(OSError), replacing(self._path(self._world.rank)) as partial:
                    partial.write_text(json.dumps(self._here()), encoding="utf-8")
            if monotonic() - self._noted > self._patience:
                self._stop()
            before = monotonic()  # not before a file was written: a file system that hangs is no stopped process

    def _stop(self) -> None:
        places = self._places()
        # Waiting ranks are held up by ranks that do not wait, or by those that are still at an earlier step.
        suspects = [rank for rank, place in places.items() if place.act != WAITS] or list(places)
        earliest = min(places[rank][:2] for rank in suspects)
        culprits = [rank for rank, place in places.items() if place.act.startswith(SILENT)]
        culprits = culprits or [rank for rank in suspects if places[rank][:2] == earliest]
        lines = [f"segue: no progress for {self._patience:g} s (engine.watchdog_seconds):"]
        lines += [
            f"  rank {rank} {'(holds the others up) ' if rank in culprits and len(places) > 1 else ''}at {place}"
            for rank, place in sorted(places.items())
        ]
        with suppress(OSError):  # stderr may be closed
            print("\n".join(lines), file=sys.stderr, flush=True)
            faulthandler.dump_traceback(sys.stderr)
        for loader in multiprocessing.active_children():  # a hanging worker would survive
            loader.kill()
        os._exit(TRY_AGAIN)

    def _here(self) -> Place:
        place, reading = self._place, self._reading
        return place if reading is None else place._replace(ids=reading())

    def _places(self) -> dict[int, Place]:
        places = {self._world.rank: self._here()}
        for rank in range(self._world.size):
            if rank != self._world.rank:
                try:
                    found: Any = json.loads(self._path(rank).read_text(encoding="utf-8"))
                    place = Place(*found)
                    # Both times from the clock of the file system.
                    age = self._path(self._world.rank).stat().st_mtime - self._path(rank).stat().st_mtime
                    is_silent = age > self._patience / 2
                    places[rank] = place._replace(act=f"{SILENT} since it {place.act}") if is_silent else place
                except (OSError, ValueError, TypeError):
                    places[rank] = Place(0, 0, SILENT, [], time())
        return places

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank_{rank:05d}.json"
