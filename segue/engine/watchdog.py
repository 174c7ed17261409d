"""Who holds everybody up? A thread that names the rank, the step and the examples when a training gets no further."""

import faulthandler
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from time import monotonic, time
from types import TracebackType
from typing import Any, NamedTuple, Self

from segue.engine.parallel import World
from segue.files import replacing

STATUS = 75
"""Exit status of a rank that the watchdog ends: EX_TEMPFAIL of sysexits.h, for the next start may go on."""
WAITS = "waits for the other ranks"
_SHOWN_IDS = 20


class Place(NamedTuple):
    """Where a rank is."""

    step: int
    act: str
    ids: list[str]
    since: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        examples = f": {', '.join(self.ids)}" if self.ids else ""
        return f"step {self.step}, {self.act}{examples}, for {time() - self.since:.0f} s"


class Watchdog:
    """Each rank notes where it is in a file of the run directory; each reads the others' when it has waited too long.

    A context manager: it watches inside the block.
    """

    def __init__(self, folder: Path, world: World, patience_seconds: float) -> None:
        self._folder, self._world, self._patience = folder, world, patience_seconds
        self._place = Place(0, "starts", [], time())
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

    def note(self, act: str, ids: Sequence[str] = (), step: int | None = None) -> None:
        """This rank got on to something else."""
        step = self._place.step if step is None else step
        self._place = Place(step, act, list(ids[:_SHOWN_IDS]), time())
        self._noted = monotonic()

    def _watch(self) -> None:
        interval = min(1.0, self._patience / 4)
        written: Place | None = None
        while not self._is_over.wait(interval):
            if self._world.size > 1 and self._place is not written:
                written = self._place
                with replacing(self._path(self._world.rank)) as partial:
                    partial.write_text(json.dumps(written), encoding="utf-8")
            if monotonic() - self._noted > self._patience:
                self._stop()

    def _stop(self) -> None:
        places = self._places()
        # Those who wait are held up by those who do not, or by those who stayed at an earlier step.
        culprits = [rank for rank, place in places.items() if place.act != WAITS] or list(places)
        earliest = min(places[rank].step for rank in culprits)
        lines = [f"segue: no progress for {self._patience:g} s (engine.watchdog_seconds):"]
        lines += [
            f"  rank {rank} {'(holds the others up) ' if rank in culprits and place.step == earliest else ''}at {place}"
            for rank, place in sorted(places.items())
        ]
        print("\n".join(lines), file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr)
        os._exit(STATUS)

    def _places(self) -> dict[int, Place]:
        places = {self._world.rank: self._place}
        for rank in range(self._world.size):
            if rank != self._world.rank:
                try:
                    found: Any = json.loads(self._path(rank).read_text(encoding="utf-8"))
                    places[rank] = Place(*found)
                except (OSError, ValueError, TypeError):
                    places[rank] = Place(0, "not heard of", [], time())
        return places

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank_{rank:05d}.json"
