"""Which texts does a log have? None, unless they are asked for: neither what is sent and answered, nor what fails."""

import asyncio
import gc
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from segue.serve import logs
from segue.serve.endpoints import transcriptions
from segue.serve.loaded import Source

from .running import Running, running

SAID = "twelve eleven ten"
TRANSLATED = "ten eleven twelve"
"""No name, path or source line of the server has these."""


@contextmanager
def written(monkeypatch: pytest.MonkeyPatch, *, has_texts: bool) -> Iterator[io.StringIO]:
    """All that goes to standard error, while the log is on as in `segue serve`."""
    names, file = ("segue.serve", "uvicorn.error", "asyncio", "python_multipart"), io.StringIO()
    before = {name: vars(logging.getLogger(name)).copy() for name in names}
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", file)
        patched.setattr(logging.getLogger(), "handlers", [])  # pytest's, which keep other loggers from writing
        logs.start(has_texts=has_texts)
        try:
            yield file
        finally:
            for name, values in before.items():
                logger = logging.getLogger(name)
                logger.handlers, logger.propagate = values["handlers"], values["propagate"]
                logger.filters, logger.disabled = values["filters"], values["disabled"]
                logger.setLevel(values["level"])


def talked(served: Running, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sends texts and sound to each kind of endpoint, right and wrong; what was answered."""
    answers = []
    recording = (corpus / "test_01.wav").read_bytes()
    with httpx.Client(base_url=served.url, timeout=30) as client:

        def ask(path: str, **more: Any) -> None:
            answers.append(client.post(path, **more).text)

        def every() -> None:
            ask("/v1/translations", json={"input": SAID})
            ask("/v1/translations", json={"input": SAID, "n": 2})
            ask("/v1/translations", json={SAID: SAID})
            ask("/v1/translations", files={"file": (f"{SAID}.txt", SAID)})
            ask("/translate", data={"q": SAID, "target": "en"})
            ask("/translate", data={"q": SAID, "target": SAID})
            ask("/v1/completions", json={"prompt": SAID, "seed": 1, "max_tokens": 4, "temperature": 0.5})
            ask("/v1/completions", json={"prompt": SAID, "seed": 1, "max_tokens": 4, "stream": True, "echo": True})
            ask("/v1/completions", content=SAID.encode(), headers={"content-type": "application/json"})
            ask("/v1/audio/transcriptions", files={"file": recording}, data={"prompt": SAID})
            ask("/v1/audio/transcriptions", files={"file": recording}, data={"stream": "true", "language": SAID})
            ask("/v1/audio/transcriptions", files={"file": (SAID, SAID.encode())}, data={"phrases": SAID})
            ask("/v1/audio/translations", files={"file": recording})
            ask(
                "/v1/audio/transcriptions",
                content=SAID.encode(),
                headers={"content-type": "multipart/form-data; boundary=x"},
            )
            ask(f"/{SAID}", json={SAID: SAID})

        every()
        for name in ("reversal", "counting", "tones"):
            monkeypatch.setattr(served.server.models.named(name).batcher, "_run", broken)
        every()
    answers += asyncio.run(spoken(served, recording))
    monkeypatch.undo()
    return answers + asyncio.run(spoken(served, recording))


def broken(items: list[Any], key: Any) -> Any:
    """A model with a bug, whose exceptions quote what was said."""
    try:
        raise KeyError(SAID)
    except KeyError as problem:
        raise RuntimeError(f"{SAID}: {items}") from problem


async def spoken(served: Running, recording: bytes) -> list[str]:
    """What a WebSocket answers to sound, and to a message that is none."""
    answers = list[str]()
    talks: list[list[str | bytes]] = [[recording[44:], '{"eof": 1}'], [SAID]]
    for messages in talks:
        async with websockets.connect(served.socket_url) as socket:
            for each in messages:
                await socket.send(each)
            with suppress(websockets.ConnectionClosed):
                while True:
                    answers.append(str(await socket.recv()))
    with suppress(websockets.InvalidStatus):  # uvicorn says of each refusal that it is none of its own
        await websockets.connect(f"{served.socket_url}?model={SAID.replace(' ', '+')}")
    return answers


def texts_of(answers: list[str]) -> set[str]:
    """What was recognized."""
    return {json.loads(each)["text"] for each in answers if each.startswith('{"text"')} - {""}


def test_the_log_has_no_texts(served: Running, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with written(monkeypatch, has_texts=False) as file:
        answers = talked(served, corpus, monkeypatch)
    log, recognized = file.getvalue(), texts_of(answers)
    assert any(TRANSLATED in each for each in answers)
    assert recognized
    for text in (SAID, TRANSLATED, "twelve", *recognized):
        assert text not in log
    events = [json.loads(line) for line in log.splitlines()]
    assert {each["event"] for each in events} == {"request", "error"}
    bugs = [each["traceback"] for each in events if each["event"] == "error"]
    assert len(bugs) == sum('"internal_error"' in each or "an error of the server" in each for each in answers) > 9
    assert all(each.index("KeyError\n") < each.index("in broken", each.index("RuntimeError") - 300) for each in bugs)


def test_the_log_has_texts_if_asked(
    trained: Path, trained_translator: Path, trained_language_model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All those that the other test does not find."""
    sources = [Source("tones", trained), Source("reversal", trained_translator, ("xx", "en"))]
    sources.append(Source("counting", trained_language_model))
    with running(sources, logs_texts=True) as served, written(monkeypatch, has_texts=True) as file:
        answers = talked(served, corpus, monkeypatch)
    log = file.getvalue()
    for text in (f"RuntimeError: {SAID}", f"KeyError: '{SAID}'", TRANSLATED, *texts_of(answers)):
        assert text in log


def test_a_stop_that_cuts_a_stream_is_no_bug(trained: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer has begun, so that there is no other status for it."""
    pieces, has_begun = list[bytes](), threading.Event()

    def slow(*_: Any) -> Iterator[str]:
        yield "one"
        time.sleep(3)  # longer than the second that uvicorn waits

    def ask(url: str) -> None:
        more: Any = {"files": {"file": (corpus / "test_01.wav").read_bytes()}, "data": {"stream": "true"}}
        with httpx.stream("POST", f"{url}/v1/audio/transcriptions", **more, timeout=30) as answer:
            assert answer.status_code == 200
            with suppress(httpx.RemoteProtocolError):
                for piece in answer.iter_raw():
                    pieces.append(piece)
                    has_begun.set()

    monkeypatch.setattr(transcriptions, "in_pieces", slow)
    with written(monkeypatch, has_texts=False) as file:
        with running([Source("tones", trained)]) as served:
            asking = threading.Thread(target=ask, args=(served.url,))
            asking.start()
            assert has_begun.wait(30)
            served.server.stopping.set()
        asking.join(30)
    assert b"one" in pieces[0]
    assert b"[DONE]" not in b"".join(pieces)
    events = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(each["event"], each["level"]) for each in events] == [("request", "info")]
    assert events[0]["error"] == "stopping"


def of_itself() -> None:
    problem = ValueError(SAID)
    raise problem from problem


def of_each_other() -> None:
    try:
        raise KeyError(SAID)
    except KeyError as first:
        try:
            raise ValueError(SAID) from first
        except ValueError:
            raise first  # noqa: B904


def of_parts() -> None:
    parts = list[Exception]()
    for fail in (of_itself, of_each_other):
        try:
            fail()
        except (KeyError, ValueError) as problem:
            parts.append(problem)
    raise ExceptionGroup(SAID, parts)


@pytest.mark.parametrize(
    ("fail", "kinds"),
    [
        (of_itself, ["ValueError"]),
        (of_each_other, ["ValueError", "KeyError"]),
        (of_parts, ["ValueError", "ValueError", "KeyError", "ExceptionGroup"]),
    ],
)
def test_each_exception_is_shown_once(
    monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None], kinds: list[str]
) -> None:
    """Also if it is its own cause, or a part of a group."""
    with written(monkeypatch, has_texts=False) as file:
        try:
            fail()
        except Exception as problem:
            logs.fail("error", problem)
    lines = json.loads(file.getvalue())["traceback"].splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == kinds
    assert sum(f"in {fail.__name__}" in line for line in lines) >= 1
    assert SAID not in file.getvalue()


def test_other_loggers_say_where_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio shows the exception of a task that nobody waits for in its message, too."""

    async def fail() -> None:
        raise ValueError(SAID)

    async def forget() -> None:
        tasks.append(asyncio.ensure_future(fail()))
        await asyncio.sleep(0.01)
        tasks.clear()
        gc.collect()

    tasks = list[Any]()
    for has_texts in (False, True):
        with written(monkeypatch, has_texts=has_texts) as file:
            asyncio.run(forget())
        assert "Task exception was never retrieved" in file.getvalue()
        assert "ValueError" in file.getvalue()
        assert (SAID in file.getvalue()) == has_texts
