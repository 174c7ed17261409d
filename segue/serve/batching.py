"""How do concurrent requests share batches of a model? Through one queue and one thread a model.

Each request is answered as if it were alone: a batch that fails is run again item by item, so that only the bad item's
request fails. The queue deals out turns to requests, not to items, so a recording of an hour, which asks for one window
after the other, takes every second place beside a request of two seconds, not all places before it.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LEAST_FILLED = 0.9
"""`Bounds.filled`, usually: on a CPU, padding costs as much as sound. With a half,
QuartzNet 15x5 and 64 clients had 0.74 of the speed of a loop; with this 1.03 (bench/serving.py)."""


class Bounds(NamedTuple):
    """Limits of batches and of the queue."""

    padded: float
    """Largest number of items times size of the longest; an item that is larger has a batch of its own."""
    items: int
    """Largest number of items in a batch."""
    wait_seconds: float
    """Longest wait for other requests' items, if there are requests that have none in the queue."""
    requests: int
    """Largest number of requests at a time."""
    filled: float = LEAST_FILLED
    """A batch holds at least this share of its padded size in items."""


class FullError(Exception):
    """There are as many requests as `Bounds.requests`."""


class LeftError(Exception):
    """Nobody waits for the answer any more."""


class Ticket:
    """A request, for which several batchers may work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: Exception | None = None
        self._batchers: list[Batcher[Any, Any]] = []

    def check(self) -> None:
        """Raises the exception that `cancel` was given."""
        if self._left is not None:
            raise self._left

    def cancel(self, reason: Exception) -> None:
        """Frees the places of the request: its waiting items are dropped, and its thread gets `reason`."""
        with self._lock:
            self._left = self._left or reason
            batchers = list(self._batchers)
        for batcher in batchers:
            batcher._drop(self, reason)

    def _joins(self, batcher: "Batcher[Any, Any]") -> None:
        with self._lock:
            if batcher not in self._batchers:
                self._batchers.append(batcher)


_current: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


@contextmanager
def working(ticket: Ticket) -> Iterator[None]:
    """Inside, in the same thread, items belong to this request."""
    before = _current.set(ticket)
    try:
        yield
    finally:
        _current.reset(before)


def current() -> Ticket:
    """The request of this thread; a new one if it has none."""
    return _current.get() or Ticket()


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    size: float
    key: Hashable
    future: "Future[Result]" = field(default_factory=Future)


class Batcher(Generic[Item, Result]):
    """One thread that runs batches of the items that requests submit from their threads."""

    def __init__(
        self,
        run: Callable[[list[Item], Any], Sequence[Result]],
        bounds: Bounds,
        name: str = "model",
        observe: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        """`run` maps items that share a key, and the key, to their results; `observe` gets each batch's number of items
        and its duration."""
        self._run, self.bounds, self._observe = run, bounds, observe
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Ticket, deque[_Entry[Item, Result]]] = OrderedDict()
        self._running: dict[Ticket, list[_Entry[Item, Result]]] = {}
        self._requests: set[Ticket] = set()
        self._guests: set[Ticket] = set()
        self._is_closed = False
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._work, name=f"batches of {name}", daemon=True)
        self._thread.start()

    @property
    def num_requests(self) -> int:
        """Requests that have a place."""
        return len(self._requests)

    @property
    def num_waiting(self) -> int:
        """Items in the queue."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def seconds_until_free(self) -> float:
        """A guess of when a place will be free."""
        return self._seconds * max(1, len(self._requests) / self.bounds.items)

    def enter(self, ticket: Ticket, *, is_counted: bool = True) -> None:
        """Takes a place for a request. Raises a FullError if none is free.

        One that lasts long and submits items only now and then is not counted: no batch waits for it.
        """
        with self._changed:
            if not is_counted:
                self._guests.add(ticket)
                return
            if len(self._requests) >= self.bounds.requests:
                raise FullError
            self._requests.add(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Gives the place back."""
        with self._changed:
            self._requests.discard(ticket)
            self._guests.discard(ticket)
            self._changed.notify_all()

    def submit(self, items: Sequence[Item], sizes: Sequence[float], key: Hashable = None) -> list[Result]:
        """The result of each item, as soon as all are there; blocks. Only items with equal keys share a batch."""
        ticket = current()
        ticket._joins(self)
        ticket.check()
        entries = [_Entry[Item, Result](item, size, key) for item, size in zip(items, sizes, strict=True)]
        with self._changed:
            assert not self._is_closed or ticket in self._requests | self._guests, (
                "a closed batcher takes no new request"
            )
            self._waiting.setdefault(ticket, deque()).extend(entries)
            self._changed.notify_all()
        ticket.check()  # canceled in between: what was submitted runs, but nobody waits
        return [entry.future.result() for entry in entries]

    def close(self) -> None:
        """Ends the thread once all requests have left."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def is_over(self, seconds: float) -> bool:
        """Whether the thread has ended, or does so in this time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _drop(self, ticket: Ticket, reason: Exception) -> None:
        with self._changed:
            dropped = [*self._waiting.pop(ticket, ()), *self._running.get(ticket, ())]
            for entry in dropped:
                if not entry.future.done():
                    entry.future.set_exception(reason)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closed and not (self._requests or self._guests):
                        return
                    self._changed.wait()
                self._wait_for_others()
                batch = self._next()
                if not batch:  # all that waited were canceled in the meantime
                    continue
                for ticket, entry in batch:
                    self._running.setdefault(ticket, []).append(entry)
            started = time.monotonic()
            self._answer([entry for _, entry in batch])
            seconds = time.monotonic() - started
            self._seconds = 0.9 * self._seconds + 0.1 * seconds if self._seconds else seconds
            with self._changed:
                self._running.clear()
            self._observe(len(batch), seconds)

    def _wait_for_others(self) -> None:
        """Waits a moment if there are requests without items in the queue: they may be about to submit some."""
        until = time.monotonic() + self.bounds.wait_seconds
        while self._waiting and len(self._waiting) < min(len(self._requests), self.bounds.items):
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _next(self) -> list[tuple[Ticket, _Entry[Item, Result]]]:
        """Takes a batch from the queue: an item of the request whose turn it is, then one of each other in turn if it
        is of similar size; more of the same requests only if no other one waits."""
        batch: list[tuple[Ticket, _Entry[Item, Result]]] = []
        sizes: list[float] = []

        def takes(ticket: Ticket) -> bool:
            entry = self._waiting[ticket][0]
            if batch:
                longest = max(*sizes, entry.size)
                padded = longest * (len(batch) + 1)
                if (
                    entry.key != batch[0][1].key
                    or len(batch) >= self.bounds.items
                    or padded > self.bounds.padded
                    or sum(sizes) + entry.size < self.bounds.filled * padded
                ):
                    return False
            batch.append((ticket, entry))
            sizes.append(entry.size)
            self._waiting[ticket].popleft()
            return True

        is_open = True
        while is_open and self._waiting:
            is_open = True
            for ticket in list(self._waiting):
                if not takes(ticket):
                    is_open = False
                    continue
                if self._waiting[ticket]:
                    self._waiting.move_to_end(ticket)
                else:
                    del self._waiting[ticket]
        return batch

    def _answer(self, batch: "list[_Entry[Item, Result]]") -> None:
        try:
            results = self._run([entry.item for entry in batch], batch[0].key)
            assert len(results) == len(batch), "as many results as items"
        except Exception as problem:
            if len(batch) > 1:
                for entry in batch:
                    self._answer([entry])
                return
            with self._changed:
                if not batch[0].future.done():
                    batch[0].future.set_exception(problem)
            return
        with self._changed:
            for entry, result in zip(batch, results, strict=True):
                if not entry.future.done():
                    entry.future.set_result(result)
