"""Clients that do not read what they get, over raw sockets: they lose their place, and fill no memory."""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from segue.serve import logs
from segue.serve.endpoints.stream import PATH as STREAM
from segue.serve.loaded import Source

from .running import Running, running

TEXT, BINARY, PING = 1, 2, 9
EOF = b'{"eof": 1}'
LIMIT = 0.4
BUFFER = 4096
"""Of the kernel, on each side, so that little fills it."""


@pytest.fixture(scope="module")
def hurried(trained: Path) -> Iterator[Running]:
    """A server whose clients have 0.4 s to read what they get, and as long as 10 kB a second take; at most 1 s."""
    with running(
        [Source("m", trained)], head_seconds=LIMIT, bytes_per_second=10_000, timeout_seconds=1.0, idle_seconds=30.0
    ) as found:
        yield found


UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


@contextmanager
def connected(server: Running, path: str, more: str = "") -> Iterator[tuple[socket.socket, asyncio.Transport]]:
    """A connection with a request, and the server's side of it."""
    state = server.runner.server_state
    until(lambda: not state.connections)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        raw.settimeout(5)
        raw.connect((host, int(port)))
        until(lambda: len(state.connections) == 1)
        transport: Any = next(iter(state.connections)).transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        yield raw, transport


def frame(kind: int, data: bytes) -> bytes:
    """A frame of a client; its mask is zero."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([0x80 | kind]) + size + bytes(4) + data


def until(is_so: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pushed(raw: socket.socket, data: bytes, seconds: float = 5.0) -> int:
    """Sends as much as the server takes until it closes; the number of bytes."""
    deadline, sent = time.monotonic() + seconds, 0
    with suppress(ConnectionError):
        while sent < len(data) and time.monotonic() < deadline:
            if select.select([], [raw], [], 0.1)[1]:
                sent += raw.send(data[sent : sent + 65536])
    return sent


def test_a_socket_that_is_not_read_is_closed(hurried: Running) -> None:
    with connected(hurried, STREAM, UPGRADE) as (raw, transport):
        assert raw.recv(1000).startswith(b"HTTP/1.1 101")
        sent = pushed(raw, frame(BINARY, bytes(160)) * 100_000)
        assert sent < 5_000_000
        assert transport.is_closing()
    until(lambda: not hurried.server.num_sockets)
    assert not hurried.server.models.named("m").batcher._guests


def test_pings_that_are_not_read_fill_no_memory(hurried: Running) -> None:
    """Each is answered."""
    most, is_over = 0, False

    def watch() -> None:
        nonlocal most
        while not is_over:
            most = max(most, transport.get_write_buffer_size())
            time.sleep(0.001)

    with connected(hurried, STREAM, UPGRADE) as (raw, transport):
        assert raw.recv(1000).startswith(b"HTTP/1.1 101")
        watching = threading.Thread(target=watch)
        watching.start()
        sent = pushed(raw, frame(PING, bytes(125)) * 200_000)
        is_over = True
        watching.join()
        assert sent < 20_000_000
        assert transport.is_closing()
    assert 0 < most < 1_000_000
    until(lambda: not hurried.server.num_sockets)


@pytest.mark.parametrize("between", ["", "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_no_socket_begins_before_answers_are_read(
    hurried: Running, between: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would not know that it has to wait; the request in between, which waits, would do so for ever."""
    state = hurried.runner.server_state
    with connected(hurried, "/openapi.json") as (raw, transport):
        until(lambda: transport.get_write_buffer_size() > 0)
        if between:
            raw.sendall(between.encode())
            until(lambda: hurried.server.num_under_way == 1)
        raw.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n".encode())
        before = transport.get_write_buffer_size()
        pushed(raw, frame(PING, bytes(125)) * 200_000, LIMIT / 2)
        assert transport.get_write_buffer_size() <= before + 1000
        until(transport.is_closing)
        assert not hurried.server.num_sockets
    until(lambda: not (state.connections or state.tasks or hurried.server.num_under_way))
    assert not [each for each in caplog.records if each.name == "uvicorn.error" and each.msg not in logs.SAID]


def test_a_socket_begins_once_answers_are_read(hurried: Running) -> None:
    """On the same connection; until then it is answered as a request."""
    upgrade = f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n".encode()
    with connected(hurried, "/openapi.json") as (raw, transport):
        until(lambda: transport.get_write_buffer_size() > 0)
        raw.sendall(upgrade)
        found = b""
        while b"HTTP/1.1 426 " not in found or not found.endswith(b"}"):
            found += raw.recv(1000)
        raw.sendall(upgrade)
        assert raw.recv(1000).startswith(b"HTTP/1.1 101 ")


def test_a_socket_that_is_read_late_goes_on(hurried: Running) -> None:
    """Within the limit, again and again: all answers come, each once."""
    count, answers = 400, b""
    with connected(hurried, STREAM, UPGRADE) as (raw, transport):
        assert raw.recv(1000).startswith(b"HTTP/1.1 101")
        sending = threading.Thread(target=pushed, args=(raw, frame(BINARY, bytes(160)) * count + frame(TEXT, EOF)))
        sending.start()
        has_waited = False
        for _ in range(6):
            time.sleep(LIMIT / 2)
            has_waited |= transport.get_write_buffer_size() > 0
            answers += raw.recv(3000)
        while b'"text"' not in answers:
            answers += raw.recv(65536)
        sending.join()
    assert has_waited
    assert answers.count(b'"partial"') == count
    assert answers.count(b'"text"') == 1


def test_a_ping_without_a_pong_is_no_bug(hurried: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn closes such a socket by itself, perhaps just before it is answered."""
    failed: list[Any] = []
    monkeypatch.setattr(logs, "fail", lambda *about, **_: failed.append(about))
    monkeypatch.setattr(hurried.runner.config, "ws_ping_interval", 0.05)
    monkeypatch.setattr(hurried.runner.config, "ws_ping_timeout", 0.05)
    for _ in range(10):
        with connected(hurried, STREAM, UPGRADE) as (raw, _):
            assert raw.recv(1000).startswith(b"HTTP/1.1 101")
            pushed(raw, frame(BINARY, bytes(160)) * 100_000, 0.3)
    until(lambda: not hurried.server.num_sockets)
    assert not failed


def test_an_answer_that_is_not_read_is_dropped(hurried: Running) -> None:
    with connected(hurried, "/openapi.json") as (raw, transport):
        until(lambda: transport.get_write_buffer_size() > 0)
        started = time.monotonic()
        until(lambda: not hurried.runner.server_state.connections)
        assert time.monotonic() - started > LIMIT
        with suppress(ConnectionError):
            while raw.recv(1000):
                pass
    with connected(hurried, "/openapi.json", "Connection: close\r\n") as (raw, _):  # slowly, but fast enough
        found = b""
        while part := raw.recv(1000):
            found += part
            time.sleep(0.005)
    assert found.endswith(b"}")


def test_a_slow_reader_holds_up_nobody(hurried: Running) -> None:
    with connected(hurried, STREAM, UPGRADE) as (raw, _):
        assert raw.recv(1000).startswith(b"HTTP/1.1 101")
        sending = threading.Thread(target=pushed, args=(raw, frame(PING, bytes(125)) * 200_000, 1.0))
        sending.start()
        while sending.is_alive():
            assert httpx.get(f"{hurried.url}/v1/models", timeout=1).status_code == 200
        sending.join()
