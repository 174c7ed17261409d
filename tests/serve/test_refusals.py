"""In which form is a request refused, and under which name is it counted and logged?"""

import asyncio
import json
import logging
import re
import socket
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from libretranslatepy import LibreTranslateAPI

from segue.serve.batching import Ticket
from segue.serve.loaded import Source

from .running import Running, running

TRANSCRIPTIONS = "/v1/audio/transcriptions"
KEY = {"authorization": "Bearer key"}


@pytest.fixture(scope="module")
def strict(trained_translator: Path) -> Iterator[Running]:
    with running([Source("m", trained_translator, ("xx", "en"))], body_megabytes=1, characters=50, keys=("key",)) as it:
        yield it


REFUSED: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", "/translate", {"json": {"q": "one"}}),
    (400, "POST", "/translate", {"content": b"{", "headers": {"content-type": "application/json"}}),
    (400, "POST", "/translate", {"data": {"q": "one", "target": "de", "api_key": "key"}}),
    (400, "POST", "/translate", {"json": {"q": "one", "target": "en", "format": "html"}, "headers": KEY}),
    (400, "GET", "/languages", {"headers": {"host": "evil.example"}}),
    (401, "POST", "/translate", {"data": {"q": "one", "target": "en"}}),
    (401, "POST", "/translate", {"data": {"q": "one", "target": "en", "api_key": "wrong"}}),
    (403, "GET", "/languages", {"headers": {"origin": "https://evil.example"}}),
    (405, "GET", "/translate", {"headers": KEY}),
    (405, "POST", "/languages", {}),
    (413, "POST", "/translate", {"json": {"q": "one " * 20, "target": "en"}, "headers": KEY}),
    (413, "POST", "/translate", {"content": b" " * 1_100_000}),
    (415, "POST", "/translate", {"content": b"x", "headers": {"content-type": "text/plain"}}),
]


@pytest.mark.parametrize(("status", "method", "path", "more"), REFUSED)
def test_libretranslates_errors_are_texts(
    strict: Running, status: int, method: str, path: str, more: dict[str, Any]
) -> None:
    answer = httpx.request(method, strict.url + path, **more)
    assert answer.status_code == status
    [(name, message)] = answer.json().items()
    assert name == "error"
    assert isinstance(message, str)
    other = httpx.request("POST" if method == "GET" else "GET", f"{strict.url}{TRANSCRIPTIONS[:-1]}", **more)
    assert set(other.json()["error"]) == {"message", "type", "param", "code"}


def test_a_full_queue_is_libretranslates_error(strict: Running) -> None:
    batcher = strict.server.models.named("m").batcher
    tickets = [Ticket() for _ in range(strict.server.settings.requests)]
    for ticket in tickets:
        batcher.enter(ticket)
    answer = httpx.post(f"{strict.url}/translate", json={"q": "one", "target": "en"}, headers=KEY)
    for ticket in tickets:
        batcher.leave(ticket)
    assert answer.status_code == 429
    assert "try again" in answer.json()["error"]
    assert answer.headers["retry-after"]


def test_a_bug_is_libretranslates_error(strict: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(items: Any, key: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(strict.server.models.named("m").batcher, "_run", run)
    answer = httpx.post(f"{strict.url}/translate", json={"q": "one", "target": "en"}, headers=KEY)
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("an error of the server")


def test_libretranslates_client_has_its_errors(strict: Running) -> None:
    client = LibreTranslateAPI(strict.url, "key")
    assert client.translate("one two three", "xx", "en") == "three two one"
    assert [each["code"] for each in client.languages()] == ["xx", "en"]
    assert [each["code"] for each in LibreTranslateAPI(strict.url).languages()] == ["xx", "en"]
    for refused, ask in ((401, LibreTranslateAPI(strict.url, "wrong")), (400, client)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask.translate("one", "xx", "de")
        assert caught.value.code == refused
        assert isinstance(json.load(caught.value)["error"], str)


def test_the_document_says_which_form(strict: Running) -> None:
    document = httpx.get(f"{strict.url}/openapi.json").json()

    def schema(method: str, path: str) -> str:
        answer = document["paths"][path][method]["responses"]["400"]
        return str(answer["content"]["application/json"]["schema"]["$ref"]).rpartition("/")[2]

    assert schema("post", "/translate") == schema("get", "/languages") == "PlainError"
    assert schema("post", TRANSCRIPTIONS) == "Error"


class Lines(logging.Handler):
    """What was logged of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "request":
            self.found.append(vars(record)["values"])


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    handler, logger = Lines(), logging.getLogger("segue.serve")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.found
    logger.removeHandler(handler)
    logger.setLevel(before)


NAMED: list[tuple[int, str, str, str, dict[str, Any]]] = [
    (200, "GET", "/health", "/health", {}),
    (200, "HEAD", "/", "/", {}),
    (200, "GET", "/docs", "/docs", {}),
    (400, "GET", "/v1/models", "/v1/models", {"headers": {**KEY, "host": "evil.example"}}),
    (401, "GET", "/v1/models", "/v1/models", {}),
    (401, "GET", "/v1/models/other", "/v1/models/{model}", {}),
    (403, "POST", "/v1/translations", "/v1/translations", {"headers": {**KEY, "origin": "https://evil.example"}}),
    (404, "GET", "/v1/models/other", "/v1/models/{model}", {"headers": KEY}),
    (404, "GET", "/v1/models/", "unknown", {"headers": KEY}),
    (404, "POST", "/v1/chat/completions", "unknown", {"headers": KEY, "json": {}}),
    (401, "GET", "/.env", "unknown", {}),
    (405, "DELETE", "/v1/models", "/v1/models", {"headers": KEY}),
    (405, "GET", TRANSCRIPTIONS, TRANSCRIPTIONS, {"headers": KEY}),
    (413, "POST", TRANSCRIPTIONS, TRANSCRIPTIONS, {"headers": KEY, "content": b" " * 1_100_000}),
    (415, "POST", "/v1/completions", "/v1/completions", {"headers": KEY}),
    (426, "GET", "/v1/audio/stream", "/v1/audio/stream", {"headers": KEY}),
]


def counted(served: Running) -> dict[str, float]:
    """Requests by path and status."""
    written = httpx.get(f"{served.url}/metrics", headers=KEY).text
    found = re.findall(
        r'^segue_requests_total\{model="[^"]*",path="([^"]*)",status="(\d+)"\} (\S+)', written, re.MULTILINE
    )
    return {f"{path} {status}": float(value) for path, status, value in found}


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("status", "method", "path", "name", "more"), NAMED)
def test_requests_are_counted_by_their_path(
    strict: Running, lines: Any, status: int, method: str, path: str, name: str, more: dict[str, Any]
) -> None:
    key, before = f"{name} {status}", counted(strict)
    headers = {"x-request-id": "counted", **more.get("headers", {})}
    assert httpx.request(method, strict.url + path, **{**more, "headers": headers}).status_code == status
    until(lambda: counted(strict).get(key) == before.get(key, 0) + 1)
    assert [(each["path"], each["status"]) for each in lines if each.get("id") == "counted"] == [(name, status)]


def test_unknown_paths_are_one_name(strict: Running) -> None:
    before = len(counted(strict))
    for number in range(20):
        httpx.get(f"{strict.url}/{number}", headers=KEY)
        httpx.get(f"{strict.url}/v1/models/{number}", headers=KEY)
    assert len(counted(strict)) <= before + 2


def test_sockets_are_counted_by_their_path(strict: Running, lines: Any) -> None:
    async def talk() -> None:
        for path, status in (("/v1/audio/stream", 401), ("/v1/models", 401)):
            with pytest.raises(websockets.InvalidStatus) as refusal:
                await websockets.connect(strict.url.replace("http:", "ws:") + path)
            assert refusal.value.response.status_code == status

    asyncio.run(talk())
    until(lambda: sum(each.get("method") == "WS" for each in lines) == 2)
    assert [(each["method"], each["path"], each["status"]) for each in lines if each.get("method") == "WS"] == [
        ("WS", "/v1/audio/stream", 401),
        ("WS", "/v1/models", 401),
    ]


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"*\r\n\r\n"]
)
def test_what_is_not_http_is_counted(strict: Running, lines: Any, sent: bytes) -> None:
    before = counted(strict)
    host, port = strict.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(sent)
        answer = b""
        while part := raw.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
    assert counted(strict)["unknown 400"] == before.get("unknown 400", 0) + 1
    assert [each["path"] for each in lines if each["status"] == 400] == ["unknown"]
