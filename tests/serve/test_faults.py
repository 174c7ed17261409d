"""Bodies that no client should send: each gets an error in OpenAI's form or LibreTranslate's, none of them 500."""

import asyncio
import base64
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from .running import Running

KINDS = ("application/json", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain", "")
PATHS = (
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/translations",
    "/v1/completions",
    "/v1/classifications",
    "/translate",
)
BROKEN_JSON = (b'{"input": ', b"[" * 5000, b'{"input": 1e999}', b'{"input": "\\ud800"}', b"null", b"{}")
FIELDS = {"message", "type", "param", "code"}
MAGIC = (
    b"RIFF\xff\xff\xff\xffWAVEfmt ",
    b"fLaC",
    b"OggS\0\2",
    b"\x1aE\xdf\xa3",
    b"ID3\4",
    b"\0\0\0 ftypM4A ",
    b"\xff\xfb",
)


def malformed(count: int, seed: int, recording: bytes) -> Iterator[tuple[str, str, bytes]]:
    """(path, content type, body): random bytes, cut forms and JSON, truncated and damaged recordings."""
    draw = np.random.default_rng(seed)
    part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    for number in range(count):
        path, kind = str(draw.choice(PATHS)), str(draw.choice(KINDS))
        noise = draw.bytes(int(draw.integers(0, 300)))
        way = number % 8
        if way == 0:
            body = noise
        elif way == 1:
            kind, body = KINDS[0], draw.choice(BROKEN_JSON)
        elif way == 2:  # a truncated recording
            path, kind = PATHS[0], KINDS[1]
            cut = recording[: int(draw.integers(0, len(recording)))]
            body = part % (b"file", b'; filename="a.wav"', cut) + b"--x--\r\n"
        elif way == 3:  # a damaged one
            path, kind = PATHS[0], KINDS[1]
            damaged = bytearray(recording)
            for place in draw.integers(0, 44, 4):
                damaged[place] = int(draw.integers(0, 256))
            body = part % (b"file", b'; filename="a.wav"', bytes(damaged)) + b"--x--\r\n"
        elif way == 4:  # a form that ends somewhere
            kind = KINDS[1]
            body = (part % (b"file", b'; filename="a.wav"', recording))[: int(draw.integers(0, 400))]
        elif way == 5:  # many fields, odd names
            kind = KINDS[1]
            body = (
                b"".join(part % (noise[:9].replace(b'"', b""), b"", noise) for _ in range(int(draw.integers(1, 90))))
                + b"--x--\r\n"
            )
        elif way == 6:
            kind, body = KINDS[2], b"q=%s&target=%s" % (noise[:20].hex().encode() * 3, noise[:3])
        else:
            path, kind = PATHS[0], KINDS[1]
            body = part % (b"file", b'; filename="a"', MAGIC[number // 8 % len(MAGIC)] + noise * 5) + b"--x--\r\n"
        yield path, kind, body


def tried(served: Running, count: int, seed: int, recording: bytes) -> dict[int, int]:
    """Statuses of malformed bodies, and their counts."""
    found: dict[int, int] = {}
    with httpx.Client(base_url=served.url, timeout=30) as client:
        for path, kind, body in malformed(count, seed, recording):
            answer = client.post(path, content=body, headers={"content-type": kind} if kind else {})
            assert answer.status_code < 500, (path, kind, body[:200], answer.text)
            if answer.status_code != 200:
                error = answer.json()["error"]
                is_libretranslates = path == "/translate"
                assert isinstance(error, str) if is_libretranslates else set(error) == FIELDS
                assert "/tmp" not in answer.text
            found[answer.status_code] = found.get(answer.status_code, 0) + 1
    return found


def test_malformed_bodies_get_an_error(served: Running, corpus: Path) -> None:
    found = tried(served, 48, 0, (corpus / "test_00.wav").read_bytes())
    assert found.get(200, 0) < 8
    assert found[400] > 20
    assert httpx.post(served.url + "/v1/translations", json={"input": "one two three"}).status_code == 200


@pytest.mark.slow
def test_hundreds_of_malformed_bodies_get_an_error(served: Running, corpus: Path) -> None:
    found = tried(served, 900, 1, (corpus / "test_00.wav").read_bytes())
    print(found)
    assert found[400] > 300


def test_sockets_that_vanish_do_no_harm(served: Running, corpus: Path) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = (
        f"GET /v1/audio/stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    form = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 5000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    half_frame = b"\x82\xfe\x10\x00" + b"mask" + b"only a part"
    reserved = b"\xf3\x80mask"
    for head, more, has_reset in (
        (upgrade, half_frame, True),
        (upgrade, reserved, False),
        (form, b"", True),
        ("GET /v1/mo", b"", True),
    ):
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(head.encode())
            if head is upgrade:
                assert raw.recv(100).startswith(b"HTTP/1.1 101")
            raw.sendall(more)
            if has_reset:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                raw.settimeout(5)
                assert raw.recv(100)  # the frame that closes
    assert httpx.get(served.url + "/v1/models").status_code == 200

    async def gone() -> None:
        while served.server.num_sockets:
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(gone(), 10))


@pytest.mark.slow
def test_schemathesis_finds_no_server_error(served: Running, tmp_path: Path) -> None:
    """Our own OpenAPI document, taken at its word: status, content type and form of each answer."""
    pytest.importorskip("schemathesis")
    command: list[Any] = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{served.url}/openapi.json", "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--max-examples", "40", "--phases", "examples,coverage,fuzzing", "--seed", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
