"""How is a request worked on? In a thread of its own, which ends early if its client leaves or its time is over."""

import asyncio
import contextvars
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from segue.errors import UserError, count_of
from segue.serve.batching import FullError, LeftError, Ticket, working
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError, without_options

Result = TypeVar("Result")
GONE = 499
"""Status in logs of a request whose client has left, as nginx has it."""


class Workers:
    """The threads of a server."""

    def __init__(self, count: int, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="request")

    def close(self) -> None:
        """Takes no more work, and does not wait for what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(
        self,
        request: Request,
        models: Sequence[Loaded],
        function: Callable[[], Result],
        ends: Callable[[], None] | None = None,
    ) -> Result:
        """The result of a function that uses these models. After it, `ends` is called in its thread.

        Raises a RefusedError if a model's queue is full, for a UserError, and when the time is over or the client left.
        """
        ticket = admitted(models)
        work = self._started(ticket, models, function, ends)
        leaving = asyncio.create_task(_leaves(request))
        try:
            await asyncio.wait((work, leaving), timeout=self.timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            is_gone = leaving.done()
            refused = RefusedError(GONE, "the client left") if is_gone else _late(self.timeout_seconds)
            ticket.cancel(LeftError())
            raise refused
        except UserError as problem:
            raise of_mistake(problem) from None
        finally:
            leaving.cancel()
            ticket.cancel(LeftError())

    async def stream(
        self, models: Sequence[Loaded], function: Callable[[], Iterator[Result]], ends: Callable[[], None] | None = None
    ) -> AsyncGenerator[Result, None]:
        """The results of a generator that uses these models; closing this one ends it. At its end, `ends` is called.

        Raises what `answer` raises; before the first result if that is where it happens.
        """
        ticket = admitted(models)
        loop, news = asyncio.get_running_loop(), asyncio.Queue[tuple[bool, Any]]()

        def put(is_last: bool, result: Any) -> None:
            loop.call_soon_threadsafe(news.put_nowait, (is_last, result))

        def run() -> None:
            try:
                for each in function():
                    ticket.check()
                    put(False, each)
                put(True, None)
            except BaseException as problem:
                put(True, problem)

        self._started(ticket, models, run, ends)
        until = loop.time() + self.timeout_seconds
        try:
            while True:
                try:
                    is_last, result = await asyncio.wait_for(news.get(), until - loop.time())
                except TimeoutError:
                    raise _late(self.timeout_seconds) from None
                if isinstance(result, UserError):
                    raise of_mistake(result)
                if isinstance(result, BaseException):
                    raise result
                if is_last:
                    return
                yield result
        finally:
            ticket.cancel(LeftError())

    async def step(self, ticket: Ticket, function: Callable[[], Result]) -> Result:
        """The result of a function that works for a ticket."""
        work = self._started(ticket, (), function)
        done, _ = await asyncio.wait((work,), timeout=self.timeout_seconds)
        if not done:
            ticket.cancel(LeftError())
            raise _late(self.timeout_seconds)
        return work.result()

    def _started(
        self,
        ticket: Ticket,
        models: Sequence[Loaded],
        function: Callable[[], Result],
        ends: Callable[[], None] | None = None,
    ) -> "asyncio.Future[Result]":
        def run() -> Result:
            try:
                with working(ticket):
                    ticket.check()
                    return function()
            finally:
                for model in models:
                    model.batcher.leave(ticket)
                if ends is not None:
                    ends()

        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(self._threads, context.run, run)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        return future


def admitted(models: Sequence[Loaded]) -> Ticket:
    """A ticket with a place in each model's queue. Raises a RefusedError with 429 if one is full."""
    ticket, entered = Ticket(), list[Loaded]()
    try:
        for model in models:
            model.batcher.enter(ticket)
            entered.append(model)
    except FullError:
        for model in entered:
            model.batcher.leave(ticket)
        busy = models[len(entered)]
        seconds = max(1, math.ceil(busy.batcher.seconds_until_free))
        raise RefusedError(
            429,
            f"the model {busy.name!r} has {count_of(busy.batcher.bounds.requests, 'request')} already; "
            f"try again in {seconds} s",
            "queue_full",
            headers={"retry-after": str(seconds)},
        ) from None
    return ticket


def of_mistake(problem: UserError) -> RefusedError:
    """The refusal of a request that the runtime cannot use."""
    return RefusedError(400, without_options(str(problem)), "invalid_value")


def _late(seconds: float) -> RefusedError:
    return RefusedError(503, f"not finished after {seconds:g} s", "timeout", headers={"retry-after": "1"})


async def _leaves(request: Request) -> None:
    """Returns when the client has left. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
