"""Speech over a WebSocket, with the messages of Vosk's own client (alphacep/vosk-server, websocket/test.py)."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import websockets

import segue
from segue.data import audio, media
from segue.data.audio import Samples
from segue.runtime.calibration import Calibration
from segue.runtime.recognizer import Recognizer
from segue.runtime.streaming import Final, Stream
from segue.serve.endpoints.stream import UNTAKEN
from segue.serve.endpoints.stream import _Decoder as Decoder
from segue.serve.refusals import RefusedError

from .running import Running

SAMPLE_RATE_HZ = 8000


@pytest.fixture(scope="module")
def recognizer(trained: Path) -> Any:
    return segue.load(trained)


@pytest.fixture(scope="module")
def speech(corpus: Path) -> Samples:
    """Three utterances with pauses of 1.5 s after each, over faint noise."""
    draw = np.random.default_rng(5)
    parts = []
    for number in range(3):
        noise = 0.002 * draw.standard_normal(SAMPLE_RATE_HZ * 3 // 2)
        parts += [audio.read(corpus / f"dev_{number:02d}.wav", SAMPLE_RATE_HZ), noise.astype(np.float32)]
    return np.concatenate(parts)


def pcm(samples: Samples) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


async def vosk(url: str, data: bytes, rate: int, step: float = 0.2) -> list[dict[str, Any]]:
    """What Vosk's test.py does: a message, an answer."""
    answers = []
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": rate}}))
        size = int(rate * step) * 2
        for start in range(0, len(data), size):
            await socket.send(data[start : start + size])
            answers.append(json.loads(await socket.recv()))
        await socket.send('{"eof" : 1}')
        answers.append(json.loads(await socket.recv()))
    return answers


def test_vosks_own_path_leads_here(served: Running, speech: Samples) -> None:
    """Its clients know no other."""
    root = served.url.replace("http:", "ws:")
    answers = asyncio.run(vosk(root, pcm(speech), SAMPLE_RATE_HZ))
    assert answers == asyncio.run(vosk(served.socket_url, pcm(speech), SAMPLE_RATE_HZ))


def said(answers: list[dict[str, Any]]) -> list[str]:
    return [each["text"] for each in answers if each.get("text")]


def test_vosk_messages_give_each_utterance(
    served: Running, recognizer: Recognizer, speech: Samples, corpus: Path
) -> None:
    answers = asyncio.run(vosk(served.socket_url, pcm(speech), SAMPLE_RATE_HZ))
    texts = said(answers)
    lines = [json.loads(line) for line in (corpus / "dev.jsonl").read_text().splitlines()[:3]]
    assert texts == [line["text"] for line in lines]
    words = [word for each in answers for word in each.get("result", ())]
    assert " ".join(word["word"] for word in words) == " ".join(texts)
    place = 0.0
    for line, answer in zip(lines, [each for each in answers if each.get("text")], strict=True):
        for word in answer["result"]:
            assert set(word) == {"word", "start", "end", "conf"}
            assert place - 0.05 < word["start"] < word["end"] < place + line["duration"] + 0.1
        place += line["duration"] + 1.5
    assert all(set(each) in ({"partial", "committed"}, {"text", "result"}) for each in answers)


@pytest.mark.parametrize("step", [0.05, 0.31, 5.0])
def test_the_size_of_messages_changes_no_text(served: Running, speech: Samples, step: float) -> None:
    known = said(asyncio.run(vosk(served.socket_url, pcm(speech), SAMPLE_RATE_HZ)))
    answers = asyncio.run(vosk(served.socket_url, pcm(speech), SAMPLE_RATE_HZ, step))
    assert " ".join(said(answers)) == " ".join(known)


def test_what_is_committed_never_changes(recognizer: Recognizer, corpus: Path) -> None:
    sound = np.concatenate([audio.read(path, SAMPLE_RATE_HZ) for path in sorted(corpus.glob("train_*.wav"))])
    stream, committed, finals = Stream(recognizer, SAMPLE_RATE_HZ), "", list[Final]()
    lengths = []
    for start in range(0, len(sound), 800):
        new = stream.accept(sound[start : start + 800])
        if new:
            assert new[0].text.startswith(committed)
            committed, finals = "", finals + new
        assert stream.partial.committed.startswith(committed)
        assert stream.partial.text.startswith(stream.partial.committed)
        committed = stream.partial.committed
        lengths.append(len(committed))
    last = stream.finish()
    assert last[0].text.startswith(committed)
    assert max(lengths) > 20
    times = [word.start for each in [*finals, *last] for word in each.words]
    assert times == sorted(times)


def opus(samples: Samples, form: str) -> bytes:
    """A container, as a browser records it."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        track: Any = container.add_stream("libopus", rate=48000, layout="mono")
        data = np.repeat(samples, 6)[None]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data, np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return file.getvalue()


def test_a_browsers_recording_is_decoded_as_it_arrives(served: Running, speech: Samples) -> None:
    content = opus(speech, "webm")

    async def talk() -> list[dict[str, Any]]:
        answers = []
        async with websockets.connect(served.socket_url + "?model=tones") as socket:
            await socket.send(json.dumps({"config": {"format": "webm"}}))
            for start in range(0, len(content), 1000):
                await socket.send(content[start : start + 1000])
                answers.append(json.loads(await socket.recv()))
            await socket.send('{"eof": 1}')
            answers.append(json.loads(await socket.recv()))
        return answers

    known = said(asyncio.run(vosk(served.socket_url, pcm(speech), SAMPLE_RATE_HZ)))
    assert said(asyncio.run(talk())) == known


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["no json"], "invalid_value"),
        (['{"config": {"sample_rate": 5}}'], "invalid_value"),
        (['{"config": {"format": "webm"}}', b"\0" * 4000, '{"eof": 1}'], "invalid_value"),
        ([b"\0\0" * 8000, '{"config": {"sample_rate": 8000}}'], "invalid_value"),
    ],
)
def test_wrong_messages_get_an_error(served: Running, messages: list[str | bytes], code: str) -> None:
    async def talk() -> Any:
        async with websockets.connect(served.socket_url) as socket:
            for each in messages:
                await socket.send(each)
            found = [json.loads(await socket.recv())]
            while "error" not in found[-1]:
                found.append(json.loads(await socket.recv()))
            await socket.wait_closed()
            return found[-1], socket.close_code

    answer, closed = asyncio.run(talk())
    assert answer["error"]["code"] == code
    assert closed == 1008


def test_a_container_with_endless_sound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes may hold hours of silence."""
    second = np.zeros(SAMPLE_RATE_HZ, np.int16)
    monkeypatch.setattr(media, "arriving", lambda *_: (second for _ in range(1000)))
    decoder = Decoder("webm", SAMPLE_RATE_HZ, 5.0)
    with pytest.raises(RefusedError, match="the stream is longer than 5 s"):
        list(decoder.decoded(b""))


def test_a_container_is_decoded_no_faster_than_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def arriving(source: Any, *_: Any) -> Iterator[Any]:
        """A message of which each byte holds a second."""
        while part := source.read(1):
            given.append(part)
            yield np.full(SAMPLE_RATE_HZ, part[0], np.int16)

    monkeypatch.setattr(media, "arriving", arriving)
    decoder = Decoder("webm", SAMPLE_RATE_HZ, 1e9)
    message = bytes(range(200)) * 10
    taken, parts = 0, []
    for samples in decoder.decoded(message):
        taken += len(samples) // SAMPLE_RATE_HZ
        assert len(given) <= taken + 2 * UNTAKEN
        parts.append(samples[::SAMPLE_RATE_HZ])
    assert np.concatenate(parts).tolist() == list(message)
    assert [len(each) // SAMPLE_RATE_HZ for each in decoder.decoded(b"\1\2")] == [2]
    assert list(decoder.decoded(b"")) == []
    decoder.close()


def test_confidences_are_calibrated(trained: Path, speech: Samples) -> None:
    model = segue.load(trained)
    model.calibration = Calibration(slope=1.0, offset=-50.0, words=99)
    stream = Stream(model, SAMPLE_RATE_HZ)
    words = [word for final in [*stream.accept(speech), *stream.finish()] for word in final.words]
    assert words
    assert all(word.confidence < 1e-9 for word in words)


def test_a_reset_begins_anew(served: Running, corpus: Path) -> None:
    """As in Vosk's server: the rest of the sound as a final result, and times from zero."""
    sound = pcm(audio.read(corpus / "dev_00.wav", SAMPLE_RATE_HZ))
    [line, *_] = (json.loads(line) for line in (corpus / "dev.jsonl").read_text().splitlines())

    async def talk() -> list[Any]:
        async with websockets.connect(served.socket_url) as socket:
            answers = []
            for message in (sound, '{"reset" : 1}', sound + b"\0", '{"reset": 1}', '{"eof" : 1}'):
                await socket.send(message)
                answers.append(json.loads(await socket.recv()))
            return answers

    answers = asyncio.run(talk())
    assert [each.get("text") for each in answers] == [None, line["text"], None, line["text"], ""]
    assert answers[1]["result"] == answers[3]["result"]


def test_a_container_ends_after_a_reset(served: Running, speech: Samples) -> None:
    """Without other sound, and with another container."""
    content, config = opus(speech[: 3 * SAMPLE_RATE_HZ], "ogg"), '{"config": {"format": "ogg"}}'

    async def talk(*messages: str | bytes) -> tuple[list[str], int | None]:
        answers = list[str]()
        async with websockets.connect(served.socket_url) as socket:
            await socket.send(config)
            for message in messages:
                await socket.send(message)
                answers.append(json.loads(await socket.recv()).get("text"))
            await socket.wait_closed()
            return answers, socket.close_code

    reset, eof = '{"reset": 1}', '{"eof": 1}'
    ends = asyncio.run(talk(content, eof))
    assert any(ends[0])
    assert asyncio.run(talk(content, reset, eof)) == ([*ends[0], ""], 1000)
    assert asyncio.run(talk(content, reset, content, eof)) == (ends[0] * 2, 1000)
    assert asyncio.run(talk(eof)) == ([""], 1000)


def test_an_empty_stream_has_an_empty_text(served: Running) -> None:
    answers = asyncio.run(vosk(served.socket_url, b"", SAMPLE_RATE_HZ))
    assert answers == [{"text": "", "result": []}]
    silent = asyncio.run(vosk(served.socket_url, b"\0\0" * SAMPLE_RATE_HZ * 3 + b"\1", SAMPLE_RATE_HZ))
    assert said(silent) == []
