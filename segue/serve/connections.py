"""How long may a client take to send the head of a request? Connections that take longer are closed, with 408.

uvicorn has a time limit between requests only, and a single byte ends it. Bodies have theirs in `guard.py`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from segue.serve import logs
from segue.serve.metrics import Metrics
from segue.serve.refusals import RefusedError

CLOSING_SECONDS = 1.0
"""A client that does not read the answer in this time does not get it."""


class TimedConnection:
    """A connection of uvicorn's, as `asyncio.Protocol`, whose requests begin in time."""

    def __init__(self, seconds: float, metrics: Metrics, **given: Any) -> None:
        """A head may take `seconds`; `given` is what uvicorn gives its protocols."""
        self._seconds, self._metrics = seconds, metrics
        self._inner = HttpToolsProtocol(**given)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        """Whether there are bytes of a head that is not complete."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first head may begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._inner.connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._stop()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More bytes of a head, or of a body."""
        assert self._transport is not None
        self._inner.data_received(data)
        current: object = self._transport.get_protocol()
        is_over = self._transport.is_closing() or current is not self  # it is a WebSocket now
        self._has_begun = not is_over and self._waits
        if not self._has_begun:
            self._stop()
        elif self._timer is None:
            self._start()

    def eof_received(self) -> None:
        """The client sends no more."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client reads more slowly than the server writes."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._inner.resume_writing()

    @property
    def _waits(self) -> bool:
        """Whether no request is under way: what comes belongs to a head, or to a body that nobody reads any more."""
        cycle = self._inner.cycle
        return cycle is None or cycle.response_complete

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        assert self._transport is not None
        cycle = self._inner.cycle
        is_answered = cycle is not None and cycle.more_body
        if self._has_begun and not is_answered:
            refused = RefusedError(408, f"the head of the request took more than {self._seconds:g} s", "slow_head")
            head = (
                "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
                f"content-length: {len(refused.written)}\r\n\r\n"
            )
            self._transport.write(head.encode() + refused.written)
            self._metrics.requests.labels("unknown", "", "408").inc()
            client = self._transport.get_extra_info("peername") or ("",)
            logs.say("request", path="unknown", status=408, client=client[0], error=refused.code)
        self._transport.close()
        asyncio.get_running_loop().call_later(CLOSING_SECONDS, self._transport.abort)
