"""Clients that send a byte now and then, over raw sockets: they lose their place, and others are served meanwhile."""

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from segue.serve.endpoints.stream import PATH as STREAM
from segue.serve.loaded import Source

from .running import Running, running

LIMIT = 0.4
PAUSE = 0.02


@pytest.fixture(scope="module")
def hurried(trained_translator: Path) -> Iterator[Running]:
    """A server on which a head may take 0.4 s, and a body must come with 10 kB a second."""
    with running([Source("m", trained_translator)], head_seconds=LIMIT, bytes_per_second=10_000) as found:
        yield found


def connected(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def trickled(raw: socket.socket, data: bytes, at_once: int = 1) -> tuple[float, bytes]:
    """Sends a few bytes at a time until the server closes: seconds, and what it said."""
    started, answer = time.monotonic(), b""
    raw.settimeout(PAUSE)
    for place in range(0, len(data), at_once):
        try:
            raw.sendall(data[place : place + at_once])
            part = raw.recv(4096)
        except TimeoutError:
            continue
        except OSError:  # closed
            break
        if not part:
            break
        answer += part
    return time.monotonic() - started, answer


def answered(raw: socket.socket) -> bytes:
    """One whole answer."""
    raw.settimeout(10)
    found = b""
    while b"\r\n\r\n" not in found:
        part = raw.recv(4096)
        assert part, "closed"
        found += part
    start, _, body = found.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in start.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += raw.recv(4096)
    return start


def head(path: str, length: int = 0) -> bytes:
    kind = f"Content-Type: application/json\r\nContent-Length: {length}\r\n" if length else ""
    return f"{'POST' if length else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n".encode()


def test_a_slow_head_gets_408(hurried: Running) -> None:
    statuses: list[int] = []
    is_over = False

    def good() -> None:
        while not is_over:
            statuses.append(httpx.post(f"{hurried.url}/v1/translations", json={"input": "one two three"}).status_code)

    other = threading.Thread(target=good)
    other.start()
    started = time.monotonic()  # the server's time begins with the connection
    with connected(hurried) as raw:
        _, answer = trickled(raw, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000)
    seconds = time.monotonic() - started
    is_over = True
    other.join()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "slow_head"' in answer
    assert LIMIT <= seconds < 1000 * PAUSE
    assert set(statuses) == {200}


def test_a_slow_head_after_an_answer_gets_408(hurried: Running) -> None:
    with connected(hurried) as raw:
        raw.sendall(head("/health"))
        assert answered(raw).startswith(b"HTTP/1.1 200")
        time.sleep(2 * LIMIT)  # between requests, a client may wait
        raw.sendall(head("/health"))
        assert answered(raw).startswith(b"HTTP/1.1 200")
        _, answer = trickled(raw, b"GET /v1/models HTTP/1.1\r\nX: " + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_broken_body_waits_for_its_turn(hurried: Running) -> None:
    """The request before it is answered first."""
    with connected(hurried) as raw:
        broken = head("/v1/translations", 9).replace(b"Content-Length: 9", b"Transfer-Encoding: chunked") + b"zz\r\n"
        raw.sendall(head("/health") + broken)
        answers = b""
        while part := raw.recv(4096):
            answers += part
    _, first, second = answers.split(b"HTTP/1.1 ")
    assert first.startswith(b"200 ")
    assert second.startswith(b"400 ")
    assert second.count(b"connection: close") == 1
    assert b"Invalid character in chunk size" in second


def test_a_connection_that_says_nothing_is_closed(hurried: Running) -> None:
    with connected(hurried) as raw:
        assert raw.recv(1) == b""


@pytest.fixture(scope="module")
def impatient(trained: Path) -> Iterator[Running]:
    """A server whose WebSockets may be idle for 0.4 s."""
    with running([Source("m", trained)], idle_seconds=LIMIT) as found:
        yield found


@pytest.mark.parametrize(
    ("sent", "at_once", "message"),
    [
        (b"\x82\xfe\x10\x00mask" + b"x" * 1000, 1, b"no whole message came for 0.4 s"),
        (b"\x82\x81mask\0" * 1000, 7, b"only 0.0 s of sound came in "),  # half a sample at a time
        (b"\x81\x82mask\x16\x1c" * 1000, 8, b"only 0.0 s of sound came in "),  # {}, masked
    ],
)
def test_a_byte_now_and_then_keeps_no_socket(impatient: Running, sent: bytes, at_once: int, message: bytes) -> None:
    upgrade = (
        f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with connected(impatient) as raw:
        raw.sendall(upgrade.encode())
        answer = raw.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101")
        for place in range(0, len(sent), at_once):
            raw.sendall(sent[place : place + at_once])
            time.sleep(PAUSE)
            if select.select([raw], [], [], 0)[0]:
                answer += raw.recv(4096)
            if message in answer:
                break
    assert message in answer
    assert not impatient.server.num_sockets


def test_sound_keeps_a_socket(impatient: Running) -> None:
    """0.1 s of it each 0.1 s, for longer than a socket may be idle."""
    with connect(impatient.socket_url) as one:
        for _ in range(10):
            time.sleep(0.1)
            one.send(bytes(1600))
            assert "partial" in json.loads(one.recv(10))


def test_a_slow_body_gets_408(hurried: Running) -> None:
    with connected(hurried) as raw:
        raw.sendall(head("/v1/translations", 5000))
        seconds, answer = trickled(raw, b" " * 5000)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "slow_body"' in answer
    assert LIMIT <= seconds < 5000 * PAUSE


def test_a_long_body_may_take_longer(hurried: Running) -> None:
    """As long as it is fast enough: twice the slowest."""
    body, sent = b'{"input": "one two three"}'.rjust(18_000), 0
    with connected(hurried) as raw:
        raw.sendall(head("/v1/translations", len(body)))
        started = time.monotonic()
        while sent < len(body):
            now = int(20_000 * (time.monotonic() - started)) + 1
            raw.sendall(body[sent:now])
            sent = max(sent, now)
            time.sleep(PAUSE)
        assert time.monotonic() - started > 2 * LIMIT
        assert answered(raw).startswith(b"HTTP/1.1 200")


def test_a_body_that_nobody_reads_ends(hurried: Running) -> None:
    """The answer is sent before the body has come; the rest of it holds the connection no longer than a head."""
    with connected(hurried) as raw:
        raw.sendall(head("/v2", 5000))
        assert answered(raw).startswith(b"HTTP/1.1 404")
        seconds, answer = trickled(raw, b" " * 5000)
    assert answer == b""
    assert LIMIT <= seconds < 5000 * PAUSE
