"""Requests that share batches, with models that only record what they are given."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segue.data.text import TextSection
from segue.errors import UserError
from segue.runtime.recognizer import Recognizer, SpeechMetadata
from segue.serve.batching import Batcher, Bounds, FullError, LeftError, Ticket, working
from segue.serve.loaded import Models, Source
from segue.serve.metrics import Metrics
from segue.serve.settings import Settings

WIDE = Bounds(padded=1000, items=8, wait_seconds=0.0, requests=64)


class Model:
    """Doubles numbers; a batch waits for `gate`, so that a queue forms."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[list[Any]] = []

    def run(self, items: list[Any], key: object) -> list[Any]:
        self.batches.append(items)
        assert self.gate.wait(10)
        if any(item == "bad" for item in items):
            raise ValueError("bad item")
        return [item * 2 for item in items]


def submit(model: Model, batcher: Batcher[Any, Any], items: Sequence[Any], *about: Any) -> Callable[[], Any]:
    """Submits in another thread, and returns once the items have arrived; the function waits for the results."""

    def arrived() -> int:
        return batcher.num_waiting + sum(map(len, model.batches))

    def work() -> Any:
        with working(Ticket()):
            return batcher.submit(items, *about)

    before = arrived()
    future = ThreadPoolExecutor(1).submit(work)
    deadline = time.monotonic() + 5
    while arrived() < before + len(items):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return lambda: future.result(10)


def queued(batcher: Batcher[Any, Any], model: Model, *requests: tuple[Sequence[Any], Sequence[float]]) -> list[Any]:
    """The results of requests that all wait while the first batch, an item of its own, runs."""
    first = ThreadPoolExecutor(1).submit(batcher.submit, ["first"], [1])
    while not model.batches:
        time.sleep(0.001)
    waiting = [submit(model, batcher, items, sizes) for items, sizes in requests]
    model.gate.set()
    first.result(10)
    return [each() for each in waiting]


def test_requests_share_a_batch() -> None:
    model = Model()
    results = queued(Batcher(model.run, WIDE), model, *(([n], [10]) for n in range(6)))
    assert results == [[2 * n] for n in range(6)]
    assert model.batches == [["first"], [0, 1, 2, 3, 4, 5]]


def test_a_long_request_gets_every_second_place() -> None:
    model = Model()
    bounds = WIDE._replace(padded=24)
    long = ([f"long {n}" for n in range(4)], [24] * 4)
    shorts = [([f"short {n}"], [2]) for n in range(3)]
    results = queued(Batcher(model.run, bounds), model, long, *shorts)
    assert results[0] == [2 * each for each in long[0]]
    order = model.batches[1:]
    assert order[0] == ["long 0"]
    assert order[1] == ["short 0", "short 1", "short 2"]
    assert order[2:] == [["long 1"], ["long 2"], ["long 3"]]


def test_batches_keep_to_their_bounds() -> None:
    model = Model()
    sizes = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 200]
    batcher = Batcher(model.run, Bounds(padded=100, items=3, wait_seconds=0, requests=64))
    queued(batcher, model, *(([size], [size]) for size in sizes))
    assert sorted(each for batch in model.batches[1:] for each in batch) == sizes
    for batch in model.batches[1:]:
        assert len(batch) <= 3
        assert len(batch) == 1 or max(batch) * len(batch) <= 100
        assert sum(batch) >= 0.5 * max(batch) * len(batch)


def test_items_of_other_kinds_have_other_batches() -> None:
    model = Model()
    batcher = Batcher(model.run, WIDE)
    first = submit(model, batcher, ["first"], [1])
    waiting = [submit(model, batcher, [n], [1], n % 2) for n in range(6)]
    model.gate.set()
    first()
    assert [each() for each in waiting] == [[2 * n] for n in range(6)]
    assert sorted(map(sorted, model.batches[1:])) == [[0, 2, 4], [1, 3, 5]]


def test_a_bad_item_fails_its_request_alone() -> None:
    model = Model()
    batcher = Batcher(model.run, WIDE)
    first = submit(model, batcher, ["first"], [1])
    good, bad, other = (submit(model, batcher, [item], [1]) for item in ("good", "bad", "other"))
    model.gate.set()
    assert (first(), good(), other()) == (["firstfirst"], ["goodgood"], ["otherother"])
    with pytest.raises(ValueError, match="bad item"):
        bad()
    assert batcher.submit([1], [1]) == [2]


def test_a_canceled_request_frees_its_places() -> None:
    model = Model()
    batcher = Batcher(model.run, WIDE)
    first = submit(model, batcher, ["first"], [1])
    while not model.batches:  # so that the others wait
        time.sleep(0.001)
    ticket = Ticket()

    def work() -> Any:
        with working(ticket):
            return batcher.submit([1, 2, 3], [1, 1, 1])

    leaving = ThreadPoolExecutor(1).submit(work)
    while batcher.num_waiting < 3:
        time.sleep(0.001)
    ticket.cancel(LeftError())
    with pytest.raises(LeftError):
        leaving.result(5)
    assert batcher.num_waiting == 0
    model.gate.set()
    first()
    assert model.batches == [["first"]]
    with pytest.raises(LeftError), working(ticket):
        batcher.submit([4], [1])


def test_a_request_that_leaves_while_a_batch_waits_stops_nothing() -> None:
    model = Model()
    model.gate.set()
    batcher = Batcher(model.run, WIDE._replace(wait_seconds=30.0))
    ticket, other = Ticket(), Ticket()
    for each in (ticket, other):
        batcher.enter(each)

    def work() -> Any:
        with working(ticket):
            return batcher.submit([1], [1])

    leaving = ThreadPoolExecutor(1).submit(work)
    while not batcher.num_waiting:  # for the other request, before it is a batch
        time.sleep(0.001)
    ticket.cancel(LeftError())
    with pytest.raises(LeftError):
        leaving.result(5)
    for each in (ticket, other):
        batcher.leave(each)
    assert submit(model, batcher, [2], [1])() == [4]
    assert model.batches == [[2]]


def test_a_batch_waits_for_requests_that_are_being_read() -> None:
    model = Model()
    model.gate.set()
    batcher = Batcher(model.run, WIDE._replace(wait_seconds=5.0))
    tickets = [Ticket(), Ticket()]
    for ticket in tickets:
        batcher.enter(ticket)

    def work(ticket: Ticket, pause: float) -> Any:
        time.sleep(pause)
        with working(ticket):
            return batcher.submit([pause], [1])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, tickets, (0.0, 0.1)))
    assert model.batches == [[0.0, 0.1]]


def test_a_full_queue_takes_no_more() -> None:
    batcher = Batcher(Model().run, WIDE._replace(requests=2))
    tickets = [Ticket() for _ in range(3)]
    batcher.enter(tickets[0])
    batcher.enter(tickets[1])
    with pytest.raises(FullError):
        batcher.enter(tickets[2])
    batcher.leave(tickets[0])
    batcher.enter(tickets[2])


def test_a_closed_batcher_ends_when_all_have_left() -> None:
    model = Model()
    model.gate.set()
    batcher = Batcher(model.run, WIDE, "closing")
    ticket = Ticket()
    batcher.enter(ticket)
    batcher.close()
    with working(ticket):
        assert batcher.submit([1], [1]) == [2]
    batcher.leave(ticket)
    deadline = time.monotonic() + 5
    while any(thread.name == "batches of closing" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_many_threads_get_their_own_results() -> None:
    model = Model()
    model.gate.set()
    batcher = Batcher(model.run, WIDE._replace(wait_seconds=0.001))

    def work(number: int) -> bool:
        with working(Ticket()):
            items = [number * 100 + n for n in range(number % 5 + 1)]
            return batcher.submit(items, [1 + number % 7] * len(items)) == [2 * each for each in items]

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(work, range(300)))


def test_a_model_that_fails_at_once_leaves_no_thread() -> None:
    class Broken:
        def recognize(self, waveforms: Sequence[Any]) -> list[Any]:
            raise RuntimeError("no memory")

    metadata = SpeechMetadata(
        sample_rate_hz=8000, feature_dim=1, tokens=("a",), samples_per_frame=80, text=TextSection(), parameters=1
    )
    with pytest.raises(RuntimeError, match="no memory"):
        Models([Source("broken", Path())], lambda _: Recognizer(metadata, Broken()), Settings(), Metrics())
    deadline = time.monotonic() + 5
    while any(thread.name == "batches of broken" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_model_without_an_endpoint_is_refused() -> None:
    voices = SimpleNamespace(metadata=SimpleNamespace(task="speaker_embedding"))
    with pytest.raises(UserError, match="voices: a speaker embedding model, for which the server has no endpoint"):
        Models([Source("voices", Path("voices"))], lambda _: voices, Settings(), Metrics())
