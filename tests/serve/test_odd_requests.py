"""Odd requests, each of which was once answered wrongly, or not at all."""

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from segue import tasks
from segue.errors import UserError
from segue.runtime.translator import Translator
from segue.serve import logs
from segue.serve.endpoints import completions, transcriptions
from segue.serve.endpoints.stream import PATH as STREAM
from segue.serve.loaded import Models, Source
from segue.serve.metrics import Metrics
from segue.serve.settings import Settings

from .running import Running

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
VERSION, KEY = "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture
def recording(corpus: Path) -> dict[str, bytes]:
    return {"file": (corpus / "test_01.wav").read_bytes()}


def ask(served: Running, path: str, **more: Any) -> httpx.Response:
    return httpx.post(served.url + path, timeout=30, **more)


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


def closed(served: Running, sent: str) -> bytes:
    """What the server says to bytes, after which it closes the connection."""
    host, port = served.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(sent.encode())
        while part := raw.recv(4096):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("start", "more", "message"),
    [
        (f"GET {STREAM}", VERSION, "missing Sec-WebSocket-Key"),
        (f"GET {STREAM}", KEY + "Sec-WebSocket-Version: 8\r\n", "invalid Sec-WebSocket-Version"),
        (f"POST {STREAM}", KEY + VERSION, "unsupported HTTP method"),
        (f"GET {STREAM}", f"{KEY}{VERSION}X: {'x' * 9000}\r\n", "8192 bytes"),
        (f"GET {STREAM}?{'x' * 9000}", KEY + VERSION, "8192 bytes"),
        (f"GET {STREAM}", KEY + VERSION + "X: x\r\n" * 200, "128 headers"),
        (f"GET {STREAM}", f"{KEY}{VERSION}Content-Length: 1\r\n", "valid HTTP request"),
    ],
)
def test_a_broken_handshake_is_refused(served: Running, start: str, more: str, message: str) -> None:
    """Several of these kept their connection for ever, without an answer."""
    head, _, body = closed(served, f"{start} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{more}\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    error = json.loads(body)["error"]
    assert error["code"] == "invalid_handshake"
    assert message in error["message"]


@pytest.mark.parametrize("chunk", ["zz\r\n", "F" * 17 + "\r\n"])
def test_broken_chunks_are_refused(served: Running, chunk: str) -> None:
    head = "POST /v1/translations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = closed(served, f"{head}Transfer-Encoding: chunked\r\n\r\n{chunk}")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("after", ["GARBAGE\r\n\r\n", "GET / HTTP/1.1\r\nno header\r\n\r\n"])
def test_requests_before_a_broken_one_are_answered(served: Running, count: int, after: str) -> None:
    """Each gets its own answer, and none that of the broken one."""
    answer = closed(served, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" * count + after)
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 OK\r\n") == answer.count(b'"reversal"') == count
    assert answer.rpartition(b"HTTP/1.1 ")[2].count(b"connection: close\r\n") == 1


def test_an_origin_that_is_none_is_refused(served: Running) -> None:
    answer = httpx.get(f"{served.url}/v1/models", headers={"origin": "http://[::1"})
    assert error_of(answer, 403)["code"] == "wrong_origin"


def test_a_compressed_body_is_refused(served: Running) -> None:
    answer = ask(served, "/v1/translations", json={"input": "one"}, headers={"content-encoding": "gzip"})
    message = error_of(answer, 415)["message"]
    assert message == "compressed bodies are not accepted (Content-Encoding: gzip)"


def test_an_empty_encoding_is_none(served: Running) -> None:
    answer = ask(served, "/v1/translations", json={"input": "one two three"}, headers={"content-encoding": ""})
    assert answer.json()["translations"][0]["text"] == "three two one"


def test_a_byte_order_mark_is_no_mistake(served: Running) -> None:
    body = b'\xef\xbb\xbf{"input": "one two three"}'
    answer = ask(served, "/v1/translations", content=body, headers={"content-type": "application/json"})
    assert answer.json()["translations"][0]["text"] == "three two one"


def test_null_is_not_given(served: Running) -> None:
    fields = ("prompt", "max_tokens", "temperature", "top_p", "stop", "n", "seed", "stream", "echo", "logprobs")
    found = ask(served, "/v1/completions", json=dict.fromkeys(fields)).json()
    assert 0 < found["usage"]["completion_tokens"] <= 16
    assert found["ignored"] == []
    libre = {"q": "one two three", "target": "en", "source": None, "format": None, "alternatives": None}
    assert ask(served, "/translate", json=libre).json() == {"translatedText": "three two one"}


def test_fields_are_named_plainly(served: Running) -> None:
    assert error_of(ask(served, "/v1/translations", json={}), 400)["message"] == "input: it is missing"
    answer = ask(served, "/v1/translations", json={"input": "one", "tone": "x"})
    assert error_of(answer, 400)["message"] == "tone: there is no such field here"


def test_a_field_that_comes_twice_is_named(served: Running, recording: Any) -> None:
    answer = ask(served, TRANSCRIPTIONS, files=recording, data={"response_format": ["text", "srt"]})
    assert error_of(answer, 400)["message"] == "response_format: one value is wanted, not 2"


def test_a_body_that_is_no_object_is_named(served: Running) -> None:
    assert error_of(ask(served, "/v1/translations", json=["one"]), 400)["message"] == "a JSON object is wanted"


@pytest.mark.parametrize("more", ["", "; filename*=UTF-8''%C3%A4.wav"])
def test_a_file_without_a_name_is_named(served: Running, recording: Any, more: str) -> None:
    """RFC 7578 forbids filename*; the content is no text."""
    head = f'--x\r\nContent-Disposition: form-data; name="file"{more}\r\n\r\n'.encode()
    body = head + recording["file"] + b"\r\n--x--\r\n"
    answer = ask(served, TRANSCRIPTIONS, content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert error_of(answer, 400)["message"] == "file: a file is wanted, with a filename in its Content-Disposition"


@pytest.mark.parametrize(("hosts", "count"), [("", "none"), ("Host: localhost\r\nHost: evil.example\r\n", "2")])
def test_a_request_names_one_host(served: Running, hosts: str, count: str) -> None:
    answer = closed(served, f"GET /health HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == f"one Host header is wanted, not {count}"


def test_an_empty_host_is_a_wrong_name(served: Running) -> None:
    for version, host in (("1.1", "Host:\r\n"), ("1.0", "")):
        answer = closed(served, f"GET /health HTTP/{version}\r\n{host}Connection: close\r\n\r\n")
        message = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
        assert message == "this server does not go by the name '' (--allow-host)"


@pytest.mark.parametrize(("method", "status"), [("GET", "200 OK"), ("OPTIONS", "405 Method Not Allowed")])
def test_http_1_0_needs_no_host(served: Running, monkeypatch: pytest.MonkeyPatch, method: str, status: str) -> None:
    """Probes of HAProxy's send none."""
    monkeypatch.setattr(served.server, "settings", served.server.settings.model_copy(update={"hosts": ("*",)}))
    assert closed(served, f"{method} /health HTTP/1.0\r\n\r\n").startswith(f"HTTP/1.1 {status}\r\n".encode())
    twice = closed(served, f"{method} /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n")
    assert twice.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n", "Duplicate Content-Length"),
        ("GET / HTTP/3.0\r\n", "Invalid HTTP version"),
        (f"CONNECT {'a' * 1000}:443 HTTP/1.1\r\n", "invalid url b'aaaa"),
        ("\x16\x03\x01\x02\0\x01\0\x01", "it is TLS; type http:// for this port, not https://"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n", "it is HTTP/2; tell the client or proxy to use HTTP/1.1"),
        ("*\r\n", "Invalid method"),
    ],
)
def test_what_is_no_http_is_told_why(served: Running, head: str, reason: str) -> None:
    message = json.loads(closed(served, f"{head}\r\n").partition(b"\r\n\r\n")[2])["error"]["message"]
    assert message.startswith(f"the request is not HTTP/1.1: {reason}")
    assert len(message) < 150


@pytest.mark.parametrize("channel", ["0", "-1", "both", "²", "1" * 5000, "3", "0000000001x", "\u0661", "1 "])
def test_a_wrong_channel_is_the_channels_mistake(served: Running, recording: Any, channel: str) -> None:
    for data in ({"channel": channel}, {"channel": channel, "stream": "true"}):
        error = error_of(ask(served, TRANSCRIPTIONS, files=recording, data=data), 400)
        assert error["param"] == "channel"
        assert len(error["message"]) < 150


def test_what_a_stream_cannot_do_is_named(served: Running, recording: Any) -> None:
    asked = {"response_format": "srt", "timestamp_granularities[]": "word"}
    streamed = ask(served, TRANSCRIPTIONS, files=recording, data={"stream": "true", **asked})
    assert streamed.headers["segue-ignored"] == "response_format, timestamp_granularities"
    plain = ask(served, TRANSCRIPTIONS, files=recording, data=asked)
    assert plain.headers["segue-ignored"] == "timestamp_granularities"
    verbose = ask(served, TRANSCRIPTIONS, files=recording, data={**asked, "response_format": "verbose_json"})
    assert "segue-ignored" not in verbose.headers


def test_a_translation_has_no_lines(served: Running, recording: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cue may have two, the text of all of them has none."""
    long = "one two three four five six seven eight nine ten eleven twelve"
    translator = served.server.models.named("reversal").model
    monkeypatch.setattr(translator, "translate", lambda texts, *_: [long] * len(texts), raising=False)
    found = ask(served, TRANSLATIONS, files=recording, data={"response_format": "verbose_json"}).json()
    assert found["text"] == long
    assert found["segments"][0]["text"] == long


def test_a_wrong_translator_is_named(served: Running, recording: Any) -> None:
    answer = ask(served, TRANSLATIONS, files=recording, data={"translator": "tones"})
    assert error_of(answer, 400)["param"] == "translator"


def test_a_pair_is_not_against_its_model(trained_translator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Translator, "languages", property(lambda _: ["de", "fr"]))
    with pytest.raises(UserError, match="--pair m: this model writes de, fr, not en"):
        Models([Source("m", trained_translator, ("xx", "en"))], tasks.load, Settings(), Metrics())


def test_the_page_has_no_ranges(served: Running) -> None:
    for value in ("bytes=99999999-", "lines=1-2", "bytes=0-5"):
        answer = httpx.get(f"{served.url}/page.js", headers={"range": value})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/javascript")
    assert httpx.get(f"{served.url}/page.css").headers["content-type"].startswith("text/css")


def test_a_path_with_a_slash_is_another(served: Running) -> None:
    """A redirect would name http, whatever the proxy before the server has."""
    assert error_of(httpx.get(f"{served.url}/v1/models/"), 404)["code"] == "unknown_path"


def test_a_get_of_the_stream_says_what_it_takes(served: Running) -> None:
    answer = httpx.get(served.url + STREAM)
    assert "WebSockets" in error_of(answer, 426)["message"]
    assert answer.headers["upgrade"] == "websocket"


@pytest.mark.parametrize(
    "line", ["ffconcat version 1.0\nfile secret.wav\n", "v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"]
)
def test_a_recording_names_no_other(
    served: Running, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    samples, rate = soundfile.read(corpus / "test_01.wav")
    soundfile.write(tmp_path / "secret.wav", samples, rate)
    monkeypatch.chdir(tmp_path)
    assert error_of(ask(served, TRANSCRIPTIONS, files={"file": line.encode()}), 400)["code"] == "invalid_audio"


@pytest.fixture
def bugs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(logs, "fail", lambda event, problem, **_: found.append(problem))
    return found


def broken(*_: Any) -> Iterator[str]:
    yield "one"
    raise ValueError("two")


def test_a_stream_that_fails_says_so(
    served: Running, recording: Any, bugs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriptions, "in_pieces", broken)
    monkeypatch.setattr(completions, "_pieces", broken)
    asked: list[tuple[str, Any]] = [
        (TRANSCRIPTIONS, {"files": recording, "data": {"stream": "true"}}),
        ("/v1/completions", {"json": {"prompt": "one", "stream": True}}),
    ]
    for path, more in asked:
        answer = ask(served, path, **more)
        first, last = answer.text.strip().split("\n\n")
        assert "one" in first
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert [str(each) for each in bugs] == ["two", "two"]


def test_silence_is_an_answer(served: Running) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16000), 8000, format="WAV")
    for form in ("json", "text", "srt", "vtt", "verbose_json"):
        for path in (TRANSCRIPTIONS, TRANSLATIONS):
            answer = ask(served, path, files={"file": file.getvalue()}, data={"response_format": form})
            assert answer.status_code == 200
