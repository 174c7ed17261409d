"""How long may the head of a request take, and how large may it be? Beyond that, connections are closed: 408 or 431.

uvicorn has a time limit between requests only, and a single byte ends it; it has none for the size of a head. Bodies
have theirs in `guard.py`.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from segue.serve import logs
from segue.serve.metrics import Metrics
from segue.serve.refusals import RefusedError

HEAD_BYTES = 1 << 16
"""Largest head, beyond what the first read of it brings."""
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
        self._size = 0
        """Bytes of the head that is not complete, but for the first ones."""

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
        before = self._head
        self._inner.data_received(data)
        current: object = self._transport.get_protocol()
        if self._transport.is_closing() or current is not self:  # it is a WebSocket now
            self._stop()
            return
        is_same = before is not None and self._head is before
        self._size = self._size + len(data) if is_same else 0
        if self._size > HEAD_BYTES:
            self._stop()
            self._close(RefusedError(431, f"the head of the request is larger than {HEAD_BYTES} bytes", "large_head"))
        elif not self._waits:
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

    @property
    def _head(self) -> object:
        """A head that has begun and is not complete, if there is one: it has no cycle yet."""
        cycle = self._inner.cycle
        return None if cycle is not None and cycle.scope is self._inner.scope else self._inner.scope

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._is_late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        self._timer = None
        self._close(RefusedError(408, f"the head of the request took more than {self._seconds:g} s", "slow_head"))

    def _close(self, refused: RefusedError) -> None:
        """Closes the connection; says why if there is a head to answer, and no other answer under way."""
        assert self._transport is not None
        if self._head is not None and self._waits:
            phrase = HTTPStatus(refused.status).phrase
            head = (
                f"HTTP/1.1 {refused.status} {phrase}\r\nconnection: close\r\ncontent-type: application/json\r\n"
                f"content-length: {len(refused.written)}\r\n\r\n"
            )
            self._transport.write(head.encode() + refused.written)
            self._metrics.requests.labels("unknown", "", str(refused.status)).inc()
            client = self._transport.get_extra_info("peername") or ("",)
            logs.say("request", path="unknown", status=refused.status, client=client[0], error=refused.code)
        self._transport.close()
        asyncio.get_running_loop().call_later(CLOSING_SECONDS, self._transport.abort)
