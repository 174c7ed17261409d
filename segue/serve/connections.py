"""How slow may a client be? What it sends of a head, and how it reads, have limits: 408 or 431, or the end.

uvicorn has a time limit between requests only, and a single byte ends it; it has none for the size of a head, and waits
for ever until a client reads what was sent to it. Bodies have their limits in `guard.py`.
"""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request, Response

from segue.serve import logs
from segue.serve.guard import UNKNOWN
from segue.serve.metrics import Metrics
from segue.serve.refusals import RefusedError
from segue.serve.settings import Settings

HEAD_BYTES = 1 << 16
"""Largest head, beyond what the first read of it brings."""
MOST_SAID = 100
"""Characters of what a parser says: it quotes addresses."""
OTHER_PROTOCOLS = (
    (b"\x16\x03", "it is TLS; type http:// for this port, not https://"),
    (b"PRI * HTTP/2.0\r\n", "it is HTTP/2; tell the client or proxy to use HTTP/1.1"),
)
"""How connections of these begin, and what is said to them instead of the parser's words."""
FIRST_BYTES = max(len(start) for start, _ in OTHER_PROTOCOLS)
CLOSING_SECONDS = 1.0
"""A client that does not read the answer in this time does not get it."""


class TimedConnection:
    """A connection of uvicorn's, as `asyncio.Protocol`, whose requests begin in time, and whose answers are read."""

    def __init__(self, settings: Settings, metrics: Metrics, **given: Any) -> None:
        """`given` is what uvicorn gives its protocols."""
        self._seconds, self._metrics = settings.head_seconds, metrics
        self._inner = HttpToolsProtocol(**given)
        self._inner.send_400_response = self._is_no_http  # type: ignore[method-assign]
        self._inner._should_upgrade_to_ws = self._may_upgrade  # type: ignore[method-assign]
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unread = _Unread(settings)
        self._first = b""
        """What came first, `FIRST_BYTES` of it."""
        self._size = 0
        """Bytes of the head that is not complete, but for the first ones."""
        self._is_last = False
        """Whether the connection is closed after this answer. What comes until then is dropped, not left: else
        the server would not see that the client leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first head may begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._unread.watch(transport)
        self._inner.connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._stop()
        self._unread.stop()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More bytes of a head, or of a body."""
        assert self._transport is not None
        if self._is_last:
            return
        if len(self._first) < FIRST_BYTES:
            self._first = (self._first + data)[:FIRST_BYTES]
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
            self._refuse(
                RefusedError(431, f"the head of the request is larger than {HEAD_BYTES:,} bytes", "large_head")
            )
        elif not self._waits:
            self._stop()
        elif self._timer is None:
            self._start()

    def eof_received(self) -> None:
        """The client sends no more."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client reads more slowly than the server writes."""
        self._unread.start()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._unread.stop()
        self._inner.resume_writing()

    @property
    def _waits(self) -> bool:
        """Whether no request is under way: what comes belongs to a head, or to a body that nobody reads any more."""
        cycle = self._inner.cycle
        return cycle is None or cycle.response_complete

    def _may_upgrade(self) -> bool:
        """Whether a WebSocket may begin: not before all answers are read, of which it would not know."""
        return self._waits and not self._unread.is_waiting

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
        late = RefusedError(408, f"the head of the request took more than {self._seconds:g} s", "slow_head")
        self._refuse(late if self._head is not None else None)

    def _is_no_http(self, msg: str) -> None:
        """Instead of uvicorn's answer, which is a line of text without the reason, and which nobody counts."""
        del msg
        problem = sys.exception()  # uvicorn handles httptools' while it calls this
        reason = problem and (problem.__context__ or problem)  # what uvicorn raises in a callback comes before it
        told = [words for start, words in OTHER_PROTOCOLS if self._first.startswith(start)]
        why = told[0] if told else str(reason)[:MOST_SAID]
        self._refuse(RefusedError(400, f"the request is not HTTP/1.1: {why}", "invalid_http"))

    def _refuse(self, refused: RefusedError | None) -> None:
        """Closes the connection; says why, unless another answer has begun, or comes first: then it closes after it."""
        assert self._transport is not None
        cycle, pipeline = self._inner.cycle, self._inner.pipeline
        if not self._waits and (pipeline or not cycle.more_body):  # of complete requests
            self._is_last, cycle.keep_alive = True, False
            if refused is not None and cycle.more_body:  # the newest one is not: this is its answer, in its turn
                refusal: Any = _Refusal(refused, self._transport, self._metrics)
                pipeline[0] = (cycle, refusal)
            return
        if refused is not None and (self._waits or not cycle.response_started):
            _answer(self._transport, refused, self._metrics)
        self._transport.close()
        asyncio.get_running_loop().call_later(CLOSING_SECONDS, self._transport.abort)


class TimedSocket:
    """A WebSocket of uvicorn's, as `asyncio.Protocol`, whose client reads what it gets."""

    def __init__(self, settings: Settings, metrics: Metrics, **given: Any) -> None:
        """`given` is what uvicorn gives its protocols."""
        self._metrics = metrics
        self._inner = WebSocketsSansIOProtocol(**given)
        self._accept = self._inner.conn.accept
        self._inner.conn.accept = self._accepted  # type: ignore[method-assign]
        self._transport: asyncio.Transport | None = None
        self._unread = _Unread(settings)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._unread.watch(transport)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._unread.stop()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The whole head at first, then more bytes of messages."""
        assert self._transport is not None
        try:
            self._inner.data_received(data)
            if not self._inner.handshake_initiated:  # of which uvicorn takes no notice
                raise self._no_handshake
        except RefusedError as refused:
            _answer(self._transport, refused, self._metrics)
            self._transport.close()
            return
        if self._unread.is_waiting:  # each ping would be answered, and the answers kept
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The client sends no more."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client reads more slowly than the server writes."""
        self._unread.start()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        assert self._transport is not None
        self._unread.stop()
        self._inner.resume_writing()
        if not self._inner.read_paused:
            self._transport.resume_reading()

    def _accepted(self, request: Request) -> Response:
        """Instead of an answer of websockets', which is a line of text, and which nobody counts."""
        response = self._accept(request)
        if response.status_code != 101:
            raise self._no_handshake
        return response

    @property
    def _no_handshake(self) -> RefusedError:
        message = f"this is no handshake of a WebSocket: {self._inner.conn.handshake_exc}"
        return RefusedError(400, message, "invalid_handshake")


class _Refusal:
    """Instead of the application, for a request whose body is broken before its turn comes."""

    def __init__(self, refused: RefusedError, transport: asyncio.Transport, metrics: Metrics) -> None:
        self._refused, self._transport, self._metrics = refused, transport, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""
        del scope, receive
        status, written = self._refused.status, self._refused.written()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(written)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": written})
        _tell(self._transport, self._refused, self._metrics)


def _answer(transport: asyncio.Transport, refused: RefusedError, metrics: Metrics) -> None:
    """Answers, counts and logs what no application sees."""
    phrase, written = HTTPStatus(refused.status).phrase, refused.written()
    head = (
        f"HTTP/1.1 {refused.status} {phrase}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"content-length: {len(written)}\r\n\r\n"
    )
    transport.write(head.encode() + written)
    _tell(transport, refused, metrics)


def _tell(transport: asyncio.Transport, refused: RefusedError, metrics: Metrics) -> None:
    client = transport.get_extra_info("peername") or ("",)
    metrics.requests.labels(UNKNOWN, "", str(refused.status)).inc()
    logs.say("request", path=UNKNOWN, status=refused.status, client=client[0], error=refused.code)


class _Unread:
    """Ends a connection whose client does not read what is sent to it, or more slowly than bodies may come."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether something is left to be sent."""
        return self._timer is not None

    def watch(self, transport: asyncio.Transport) -> None:
        """From now on, the connection tells as soon as something is left to be sent, and when nothing is."""
        self._transport = transport
        transport.set_write_buffer_limits(0)

    def start(self) -> None:
        """Something is left."""
        assert self._transport is not None
        settings = self._settings
        needed = settings.head_seconds + self._transport.get_write_buffer_size() / settings.bytes_per_second
        seconds = min(settings.timeout_seconds, needed)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def stop(self) -> None:
        """Nothing is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
