"""How is speech recognized over a WebSocket while it is spoken? `WS /v1/audio/stream`, with Vosk's messages.

A client sends sound in binary messages, and gets exactly one answer to each: a partial result, or a final one after a
pause. `{"config": {...}}` before the sound says what it is. `{"eof": 1}` ends it; so does `{"reset": 1}`, after
which other sound may follow.
"""

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from segue.data import media
from segue.errors import UserError
from segue.runtime.streaming import HIGHEST_RATE_HZ, LOWEST_RATE_HZ, Final, Stream
from segue.serve import batching
from segue.serve.endpoint import Server, note, server_of
from segue.serve.guard import failed
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError, of_fields
from segue.serve.work import of_mistake

PATH = "/v1/audio/stream"
PROTOCOL = "segue"
LATER, RESTART, POLICY, TOO_LARGE, INTERNAL = 1013, 1012, 1008, 1009, 1011
"""Codes of closed WebSockets (RFC 6455 and the registry of IANA)."""
PATIENCE = 100
"""Seconds that a client may keep the server waiting for each second of its sound, besides its first ones: whoever sends
a byte now and then, to keep a place, loses it."""
UNTAKEN = 256
"""Blocks of decoded sound, of at most 120 ms each, that may wait to be recognized."""


class StreamConfig(BaseModel, extra="allow", frozen=True):
    """What kind of sound follows."""

    sample_rate: Annotated[int, Field(ge=LOWEST_RATE_HZ, le=HIGHEST_RATE_HZ)] | None = None
    """Of PCM; default: the model's."""
    format: Literal["pcm16", "webm", "ogg"] = "pcm16"
    """pcm16: 16 bits, little-endian, mono; webm and ogg: with Opus in it, as browsers record."""
    words: bool = True
    """Whether final results have words with times."""


class StreamMessage(BaseModel, extra="forbid", frozen=True):
    """A text message of a client."""

    config: StreamConfig | None = None
    eof: int | None = None
    reset: int | None = None


async def stream(websocket: WebSocket) -> None:
    """Answers `WS /v1/audio/stream?model=NAME`."""
    server = server_of(websocket)
    loaded = server.models.find(websocket.query_params.get("model"), "speech_recognition")
    note(websocket, model=loaded.name)
    if server.num_sockets >= server.settings.sockets:
        message = f"there are {server.settings.sockets} WebSockets already"
        raise RefusedError(429, message, "too_many_sockets", headers={"retry-after": "5"})
    offered = websocket.scope.get("subprotocols", [])
    server.num_sockets += 1
    server.metrics.sockets.inc()
    talk = _Talk(websocket, server, loaded)
    try:
        await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
        await talk.run()
    except WebSocketDisconnect:
        pass
    finally:
        server.num_sockets -= 1
        server.metrics.sockets.dec()
        talk.close()
        server.metrics.audio_seconds.labels(loaded.name).inc(talk.seconds)
        note(websocket, audio_seconds=round(talk.seconds, 3))


class _Talk:
    """One WebSocket."""

    def __init__(self, websocket: WebSocket, server: Server, loaded: Loaded) -> None:
        self._websocket, self._server, self._loaded = websocket, server, loaded
        self._config = StreamConfig()
        self.stream: Stream | None = None
        self.seconds = 0.0
        """Of sound that has ended."""
        self._waited = 0.0
        """Seconds that the server has waited for messages."""
        self._decoder: _Decoder | None = None
        self._odd = b""
        """Half of a sample at the end of a message."""
        self._ignored: list[str] = []
        self._texts: list[str] = []
        """For the log, if it has texts."""
        self._ticket = batching.Ticket()
        loaded.batcher.enter(self._ticket, is_counted=False)

    async def run(self) -> None:
        """Answers messages until the end."""
        try:
            while (message := await self._next()) is not None:
                if isinstance(message, bytes):
                    await self._answer(await self._work(lambda data=message: self._accept(data)))  # type: ignore[misc]
                elif (end := self._end_in(message)) == "eof":
                    break
                elif end == "reset":
                    await self._answer(await self._work(self._finish), is_last=True)
                    self._forget()
            is_stopping = self._server.stopping.is_set()
            await self._answer(await self._work(self._finish), is_last=True)
            await self._close(RESTART if is_stopping else 1000)
        except WebSocketDisconnect:
            raise
        except Exception as problem:
            known = of_mistake(problem) if isinstance(problem, UserError) else problem
            await self._refuse(failed(self._websocket, known))

    def close(self) -> None:
        """Frees what it holds."""
        self._ticket.cancel(batching.LeftError())
        self._loaded.batcher.leave(self._ticket)
        self._forget()

    def _forget(self) -> None:
        """Ends the sound; other sound may follow."""
        if self.stream is not None:
            self.seconds += self.stream.seconds
        if self._decoder is not None:
            self._decoder.close()
        self.stream = self._decoder = None
        self._odd = b""

    async def _next(self) -> str | bytes | None:
        """The next message; None if the server stops. Raises a RefusedError if there is none for too long, or if they
        bring too little sound."""
        receiving = asyncio.ensure_future(self._websocket.receive())
        stopping = asyncio.ensure_future(self._server.stopping.wait())
        loop, idle = asyncio.get_running_loop(), self._server.settings.idle_seconds
        sound = self.seconds + (self.stream.seconds if self.stream is not None else 0.0)
        left = idle + PATIENCE * sound - self._waited
        started = loop.time()
        try:
            await asyncio.wait((receiving, stopping), timeout=min(idle, left), return_when=asyncio.FIRST_COMPLETED)
            self._waited += loop.time() - started
            if not receiving.done():
                if stopping.done():
                    return None
                if idle <= left:
                    raise RefusedError(408, f"no whole message came for {idle:g} s", "idle")
                raise RefusedError(408, f"only {sound:.1f} s of sound came in {self._waited:.0f} s", "idle")
            message = receiving.result()
        finally:
            receiving.cancel()
            stopping.cancel()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        data: str | bytes | None = message.get("bytes")
        return data if data is not None else str(message.get("text") or "")

    def _end_in(self, text: str) -> Literal["eof", "reset"] | None:
        """Takes a text message; which end it is."""
        try:
            message = StreamMessage.model_validate_json(text)
        except ValidationError as problem:
            raise of_fields(problem) from None
        if message.config is not None:
            if self.stream is not None:
                raise RefusedError(400, "config: it has to come before the sound", "invalid_value", "config")
            self._config = message.config
            self._ignored = sorted(message.config.model_extra or {})
        return "eof" if message.eof else "reset" if message.reset else None

    def _begin(self) -> Stream:
        if self.stream is None:
            own = max(self._loaded.model.metadata.sample_rate_hz, LOWEST_RATE_HZ)
            rate = self._config.sample_rate or own
            if self._config.format != "pcm16":
                most = self._server.settings.audio_seconds
                rate, self._decoder = own, _Decoder(self._config.format, own, most)
            self.stream = Stream(self._loaded.model, rate)
        return self.stream

    def _accept(self, data: bytes) -> list[Final]:
        """Takes sound; blocks."""
        found = self._begin()
        if self._decoder is not None:
            return self._decoded(found, self._decoder, data) if data else []
        data = self._odd + data
        whole = len(data) // 2 * 2
        self._odd = data[whole:]
        self._check_length(found)
        finals = found.accept(np.frombuffer(data[:whole], "<i2"))
        self._check_length(found)
        return finals

    def _decoded(self, found: Stream, decoder: "_Decoder", data: bytes) -> list[Final]:
        """Takes a part of a container; blocks."""
        finals: list[Final] = []
        for samples in decoder.decoded(data):
            self._ticket.check()
            finals += found.accept(samples)
            self._check_length(found)
        return finals

    def _finish(self) -> list[Final]:
        """Ends the sound; blocks."""
        if self.stream is None:  # no sound has come, or none since the last reset
            return []
        finals = self._decoded(self.stream, self._decoder, b"") if self._decoder is not None else []
        return finals + self.stream.finish()

    def _check_length(self, found: Stream) -> None:
        most = self._server.settings.audio_seconds
        if self.seconds + found.seconds > most:
            raise _too_long(most)

    async def _work(self, function: Callable[[], list[Final]]) -> list[Final]:
        return await self._server.workers.step(self._ticket, function)

    async def _answer(self, finals: list[Final], *, is_last: bool = False) -> None:
        """Sends one message: what became final, else what is heard so far."""
        said: dict[str, Any]
        if finals or is_last:
            said = {"text": " ".join(each.text for each in finals)}
            if self._config.words:
                said["result"] = [
                    {
                        "word": word.word,
                        "start": round(word.start, 3),
                        "end": round(word.end, 3),
                        "conf": round(word.confidence, 4),
                    }
                    for each in finals
                    for word in each.words
                ]
            if self._server.settings.logs_texts:
                self._texts.append(said["text"])
                note(self._websocket, text=self._texts)
        else:
            assert self.stream is not None
            said = {"partial": self.stream.partial.text, "committed": self.stream.partial.committed}
        if self._ignored:
            said["ignored"], self._ignored = self._ignored, []
        await self._send(said)

    async def _refuse(self, problem: RefusedError) -> None:
        await self._send(problem.body)
        await self._close({413: TOO_LARGE, 429: LATER, 500: INTERNAL, 503: LATER}.get(problem.status, POLICY))

    async def _send(self, values: Any) -> None:
        with _open():
            await self._websocket.send_text(json.dumps(values, ensure_ascii=False))

    async def _close(self, code: int) -> None:
        with _open():
            await self._websocket.close(code)


class _Decoder:
    """A thread that decodes a container while it arrives. It is never ahead or behind by more than a message: what
    comes faster than it is decoded and recognized waits at the client."""

    def __init__(self, form: Literal["webm", "ogg"], rate_hz: int, longest_seconds: float) -> None:
        self._changed = threading.Condition()
        self._bytes = memoryview(b"")
        self._sound = deque[NDArray[np.int16]]()
        self._problem: UserError | RefusedError | None = None
        self._longest_seconds = longest_seconds
        self._is_hungry = self._is_finished = self._is_closed = self._is_over = False
        threading.Thread(target=self._run, args=(form, rate_hz), daemon=True, name="decoder").start()

    def decoded(self, data: bytes) -> Iterator[NDArray[np.int16]]:
        """(S) at a time, the sound of the next bytes of the container; none: the rest at its end.

        Raises a UserError if the container cannot be read, a RefusedError if it is too long: a few bytes may hold hours
        of silence.
        """
        with self._changed:
            self._bytes, self._is_finished = memoryview(data), not data
            self._is_hungry = False
            self._changed.notify_all()
        while (samples := self._next()) is not None:
            yield samples

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def read(self, size: int) -> bytes:
        """For FFmpeg: at least one byte, none at the end."""
        with self._changed:
            while not (self._bytes or self._is_finished or self._is_closed):
                self._is_hungry = True
                self._changed.notify_all()
                self._changed.wait()
            if self._is_closed:
                return b""
            found, self._bytes = bytes(self._bytes[:size]), self._bytes[size:]
        return found

    def _next(self) -> NDArray[np.int16] | None:
        """(S) decoded samples; None if more bytes are needed, or at the end."""
        with self._changed:
            while not (self._is_hungry or self._is_over or self._is_closed or len(self._sound) >= UNTAKEN):
                self._changed.wait()
            if isinstance(self._problem, RefusedError) or (self._problem is not None and not self._sound):
                raise self._problem
            if not self._sound:
                return None
            found = np.concatenate(self._sound)
            self._sound.clear()
            self._changed.notify_all()
        return found

    def _put(self, samples: NDArray[np.int16]) -> None:
        with self._changed:
            while len(self._sound) >= UNTAKEN and not self._is_closed:
                self._changed.wait()
            self._sound.append(samples)
            if len(self._sound) == UNTAKEN:
                self._changed.notify_all()

    def _run(self, form: Literal["webm", "ogg"], rate_hz: int) -> None:
        num_samples = 0
        try:
            for samples in media.arriving(self, form, rate_hz):
                num_samples += len(samples)
                if num_samples > self._longest_seconds * rate_hz:
                    raise _too_long(self._longest_seconds)
                if self._is_closed:
                    break
                self._put(samples)
        except (UserError, RefusedError) as problem:
            self._problem = problem
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()


@contextmanager
def _open() -> Iterator[None]:
    """Inside, something is sent. Raises a WebSocketDisconnect also if uvicorn has closed the socket itself, because no
    pong came, which is a RuntimeError."""
    try:
        yield
    except RuntimeError:
        raise WebSocketDisconnect(1006) from None


def _too_long(seconds: float) -> RefusedError:
    return RefusedError(413, f"the stream is longer than {seconds:g} s", "audio_too_long")
