"""What clients may not do, or not without a key."""

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import websockets

from segue.serve.loaded import Source

from .running import Running, running

TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def strict(trained: Path, trained_translator: Path) -> Iterator[Running]:
    """A server with small limits."""
    with running(
        [Source("tones", trained), Source("reversal", trained_translator)],
        body_megabytes=1,
        audio_seconds=5,
        characters=50,
        timeout_seconds=1.0,
        sockets=1,
        idle_seconds=0.4,
        keys=("key",),
        admin_key="admin",
        hosts=("segue.example",),
        origins=("https://friend.example",),
    ) as found:
        yield found


def ask(strict: Running, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    return httpx.request(method, strict.url + path, headers={"authorization": "Bearer key", **(headers or {})}, **more)


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which has OpenAI's form."""
    assert answer.status_code == status, answer.text
    [(name, error)] = answer.json().items()
    assert name == "error"
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    draw = np.random.default_rng(0)
    soundfile.write(file, draw.normal(0, 0.1, int(8000 * seconds)), 8000, format="WAV")
    return file.getvalue()


def test_a_wrong_path_or_method_is_json(strict: Running) -> None:
    assert refused(ask(strict, "GET", "/v2"), 404)["code"] == "unknown_path"
    answer = ask(strict, "GET", TRANSCRIPTIONS)
    refused(answer, 405)
    assert "POST" in answer.headers["allow"]
    refused(ask(strict, "POST", TRANSCRIPTIONS, content=b"{}", headers={"content-type": "application/json"}), 415)
    refused(ask(strict, "POST", "/v1/translations", content=b"x"), 415)


def test_an_unknown_host_is_refused(strict: Running) -> None:
    for name, status in (("segue.example", 200), ("localhost:1", 200), ("[::1]:80", 200), ("10.0.0.7", 200)):
        assert ask(strict, "GET", "/v1/models", {"host": name}).status_code == status
    for name in ("evil.example", "segue.example.evil", ""):
        assert refused(ask(strict, "GET", "/v1/models", {"host": name}), 400)["code"] == "wrong_host"


def test_pages_of_other_origins_are_refused(strict: Running) -> None:
    refused(ask(strict, "POST", "/v1/translations", {"origin": "https://evil.example"}, json={"input": "one"}), 403)
    friend = ask(strict, "POST", "/v1/translations", {"origin": "https://friend.example"}, json={"input": "one"})
    assert friend.headers["access-control-allow-origin"] == "https://friend.example"
    assert friend.status_code == 200
    before = httpx.options(strict.url + "/v1/translations", headers={"origin": "https://friend.example"})
    assert before.status_code == 204
    own = ask(strict, "GET", "/v1/models", {"origin": strict.url})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


def test_a_head_without_an_end_is_refused(strict: Running) -> None:
    host, answer = strict.url.removeprefix("http://"), b""
    with socket.create_connection(tuple(host.split(":")), timeout=0.05) as raw:  # type: ignore[arg-type]
        raw.sendall(b"GET /health HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):  # closed
            for _ in range(100):
                raw.sendall(b"X: " + b"x" * 30_000 + b"\r\n")
                with contextlib.suppress(TimeoutError):
                    answer += raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "large_head"' in answer
    assert ask(strict, "GET", "/v1/models", {"x": "x" * 30_000}).status_code == 200


def test_large_bodies_are_refused_at_once(strict: Running) -> None:
    host = strict.url.removeprefix("http://")
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer key\r\n"
    head += "Content-Length: 10000000000\r\n"
    with socket.create_connection(tuple(host.split(":")), timeout=5) as raw:  # type: ignore[arg-type]
        raw.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    parts = (part for part in [start, *[b"x" * 65536] * 40])  # without a Content-Length
    kind = {"content-type": "multipart/form-data; boundary=x"}
    with contextlib.suppress(httpx.WriteError):
        refused(ask(strict, "POST", TRANSCRIPTIONS, kind, content=parts), 413)


def test_more_files_at_a_time_are_refused(strict: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict.server.uploads, "_most", 0)
    full = ask(strict, "POST", TRANSCRIPTIONS, files={"file": wav(1.0)})
    assert refused(full, 429)["code"] == "queue_full"
    assert full.headers["retry-after"] == "1"
    monkeypatch.undo()
    assert ask(strict, "POST", TRANSCRIPTIONS, files={"file": wav(1.0)}).status_code == 200


def test_long_recordings_are_refused(strict: Running) -> None:
    assert ask(strict, "POST", TRANSCRIPTIONS, files={"file": wav(4.9)}).status_code == 200
    assert refused(ask(strict, "POST", TRANSCRIPTIONS, files={"file": wav(5.2)}), 413)["code"] == "audio_too_long"


def test_a_recording_that_hides_its_length_is_refused(strict: Running) -> None:
    """A minute of silence in a kilobyte of flac, whose header says that its length is not known."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000 * 60, np.int16), 8000, format="FLAC")
    content = bytearray(file.getvalue())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    assert len(content) < 20_000
    assert refused(ask(strict, "POST", TRANSCRIPTIONS, files={"file": bytes(content)}), 413)


def test_long_texts_are_refused(strict: Running) -> None:
    assert refused(ask(strict, "POST", "/v1/translations", json={"input": ["one "] * 13}), 413)["param"] == "input"
    assert refused(
        ask(strict, "POST", "/v1/translations", content=b" " * 10**6, headers={"content-type": "application/json"}), 413
    )
    lines = ask(strict, "POST", "/v1/translations", files={"file": ("a.txt", "one two three four\n" * 10)})
    refused(lines, 413)


def test_forms_are_not_larger_than_their_texts(strict: Running) -> None:
    """Libretranslate's form has its key inside, so it is read from everybody."""
    form = {"data": {"q": "a", "target": "en"}, "files": {"file": b" " * 200_000}}
    answer = httpx.post(f"{strict.url}/translate", **form)  # type: ignore[arg-type]
    assert (answer.status_code, list(answer.json())) == (413, ["error"])
    assert "the body is longer than" in answer.json()["error"]


def test_a_channel_is_no_long_number(strict: Running) -> None:
    channel = {"channel": "1" * 5000}
    refused(ask(strict, "POST", TRANSCRIPTIONS, data=channel, files={"file": wav(1)}), 400)


def test_a_slow_client_is_given_up(strict: Running) -> None:
    host = strict.url.removeprefix("http://")
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer key\r\nContent-Length: 100\r\n"
    with socket.create_connection(tuple(host.split(":")), timeout=10) as raw:  # type: ignore[arg-type]
        raw.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--".encode())
        assert ask(strict, "GET", "/v1/models").status_code == 200
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_a_request_that_takes_too_long_is_given_up(strict: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = strict.server.models.named("reversal").batcher
    gate, run = threading.Event(), batcher._run
    monkeypatch.setattr(batcher, "_run", lambda items, key: (gate.wait(10), run(items, key))[1])
    answer = ask(strict, "POST", "/v1/translations", json={"input": "one"})
    assert refused(answer, 503)["code"] == "timeout"
    gate.set()
    assert ask(strict, "POST", "/v1/translations", json={"input": "one two three"}).json()["translations"]


def test_a_client_that_leaves_frees_its_place(strict: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = strict.server.models.named("reversal").batcher
    gate, run = threading.Event(), batcher._run
    monkeypatch.setattr(batcher, "_run", lambda items, key: (gate.wait(10), run(items, key))[1])
    with pytest.raises(httpx.ReadTimeout):
        ask(strict, "POST", "/v1/translations", json={"input": "one"}, timeout=0.2)
    until(lambda: not batcher.num_requests)
    gate.set()


def until(is_so: Any) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_file_is_left(strict: Running) -> None:
    folder = Path(strict.server.uploads.folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for content in (wav(1), b"x"):
        ask(strict, "POST", TRANSCRIPTIONS, files={"file": ("../../name.wav", content)})
        ask(strict, "POST", TRANSCRIPTIONS, files={"file": content}, data={"stream": "true"})
    until(lambda: not list(folder.iterdir()))


def test_sockets_need_a_key_and_a_place(strict: Running) -> None:
    async def talk() -> None:
        for url in (strict.socket_url, strict.url.replace("http:", "ws:")):
            with pytest.raises(websockets.InvalidStatus) as refusal:
                await websockets.connect(url)
            assert refusal.value.response.status_code == 401
        with pytest.raises(websockets.InvalidStatus) as refusal:
            await websockets.connect(f"{strict.socket_url}/nowhere", subprotocols=protocols)
        assert json.loads(refusal.value.response.body or b"")["error"]["code"] == "unknown_path"
        async with websockets.connect(strict.socket_url, subprotocols=protocols) as one:  # as browsers have to
            assert one.subprotocol == "segue"
            with pytest.raises(websockets.InvalidStatus) as refusal:
                await websockets.connect(strict.socket_url, additional_headers={"authorization": "Bearer key"})
            assert refusal.value.response.status_code == 429
            assert json.loads(refusal.value.response.body or b"")["error"]["code"] == "too_many_sockets"
            assert json.loads(await one.recv())["error"]["code"] == "idle"
        async with websockets.connect(strict.socket_url, subprotocols=protocols) as one:
            await one.send(b"\1\1" * 8000 * 6)
            assert json.loads(await one.recv())["error"]["code"] == "audio_too_long"
        with pytest.raises(websockets.InvalidStatus) as refusal:
            await websockets.connect(
                strict.socket_url, subprotocols=protocols, origin=websockets.Origin("https://evil.example")
            )
        assert refusal.value.response.status_code == 403

    protocols = [websockets.Subprotocol("segue"), websockets.Subprotocol("openai-insecure-api-key.key")]
    asyncio.run(talk())
    until(lambda: not strict.server.num_sockets)


@pytest.fixture(scope="module")
def reloading(trained_translator: Path) -> Iterator[Running]:
    with running([Source("reversal", trained_translator)], keys=("key",), admin_key="admin") as found:
        yield found


def test_a_new_version_is_loaded_without_a_lost_request(reloading: Running) -> None:
    answers: list[int] = []
    is_over = False

    def client() -> None:
        while not is_over:
            answers.append(ask(reloading, "POST", "/v1/translations", json={"input": "one two three"}).status_code)

    old = reloading.server.models.named("reversal")
    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    refused(ask(reloading, "POST", "/admin/reload"), 401)
    answer = httpx.post(f"{reloading.url}/admin/reload", headers={"authorization": "Bearer admin"}, timeout=30)
    is_over = True
    for thread in threads:
        thread.join()
    assert answer.json() == {"models": ["reversal"]}
    assert reloading.server.models.named("reversal") is not old
    assert answers
    assert set(answers) == {200}


def test_reloading_without_a_key_says_how(trained_translator: Path) -> None:
    with running([Source("reversal", trained_translator)], keys=("key",)) as found:
        answer = httpx.post(f"{found.url}/admin/reload", headers={"authorization": "Bearer admin"})
        assert "--admin-key FILE" in refused(answer, 404)["message"]
        assert "/admin/reload" not in httpx.get(f"{found.url}/openapi.json").json()["paths"]


def test_a_version_that_cannot_be_loaded_changes_nothing(reloading: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.errors import UserError

    def load(path: Path) -> Any:
        raise UserError(f"{path}: broken")

    old = reloading.server.models.named("reversal")
    monkeypatch.setattr(reloading.server.models, "_load", load)
    answer = httpx.post(f"{reloading.url}/admin/reload", headers={"authorization": "Bearer admin"})
    assert "broken" not in refused(answer, 422)["message"]
    assert reloading.server.models.named("reversal") is old
    assert ask(reloading, "POST", "/v1/translations", json={"input": "one"}).status_code == 200
