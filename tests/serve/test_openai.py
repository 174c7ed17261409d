"""What the real client of OpenAI gets."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile

import segue
from segue.decoding.sampling import SamplingSection
from segue.runtime.recognizer import Transcript
from segue.serve.batched import BatchedGeneration
from segue.serve.batching import Batcher, Bounds, Ticket, working
from segue.serve.endpoints import libretranslate
from segue.serve.endpoints.libretranslate import name_of
from segue.serve.loaded import Source
from segue.serve.refusals import RefusedError

from .running import Running, running


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def recording(corpus: Path) -> Path:
    return corpus / "test_01.wav"


@pytest.fixture(scope="module")
def known(trained: Path, recording: Path) -> Transcript:
    found: Transcript = segue.load(trained).transcribe(recording)
    assert found.text
    return found


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json"])
def test_every_format_has_the_text(client: openai.OpenAI, recording: Path, known: Transcript, form: Any) -> None:
    found = client.audio.transcriptions.create(file=recording, model="tones", response_format=form)
    if form in ("srt", "vtt"):
        assert str(found) == known.written(form) + "\n"
    elif form == "text":
        assert str(found) == known.text + "\n"
    else:
        assert found.text == known.text


def test_words_and_segments_have_times(client: openai.OpenAI, recording: Path, known: Transcript) -> None:
    found = client.audio.transcriptions.create(
        file=recording, model="tones", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert found.words is not None
    assert found.segments is not None
    assert [word.word for word in found.words] == [word.word for word in known.words]
    assert [word.start for word in found.words] == pytest.approx([word.start for word in known.words], abs=0.001)
    assert " ".join(segment.text for segment in found.segments) == known.text
    assert found.duration == pytest.approx(known.duration, abs=0.001)
    confidences = [word.confidence for word in found.words]
    assert confidences == pytest.approx([word.confidence for word in known.words], abs=0.001)


def test_a_stream_adds_up_to_the_text(client: openai.OpenAI, recording: Path, known: Transcript) -> None:
    events = list(client.audio.transcriptions.create(file=recording, model="tones", stream=True))
    assert "".join(each.delta for each in events if each.type == "transcript.text.delta") == known.text
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == known.text


def test_a_stream_says_what_an_answer_says(client: openai.OpenAI, recording: Path) -> None:
    """Warnings, and what was ignored, come with the last event, where the client keeps fields that it does not know."""
    asked: dict[str, Any] = {"model": "tones", "language": "en", "temperature": 0.5}
    samples, rate = soundfile.read(recording)
    opposite = io.BytesIO()
    soundfile.write(opposite, np.stack([samples, -samples], axis=1), rate, format="WAV")
    asked["file"] = ("a.wav", opposite.getvalue())
    known: Any = client.audio.transcriptions.create(response_format="verbose_json", **asked)
    *_, last = client.audio.transcriptions.create(stream=True, **asked)
    assert last.type == "transcript.text.done"
    said: dict[str, Any] = last.model_extra or {}
    assert "opposite phase" in known.warnings[0]
    assert said["warnings"] == known.warnings
    assert said["ignored"] == known.ignored == ["language", "temperature"]


def test_pieces_of_a_long_recording_add_up(trained: Path, corpus: Path) -> None:
    from segue.data import audio

    model = segue.load(trained)
    sound = np.concatenate([audio.read(path, 8000) for path in sorted(corpus.glob("train_*.wav"))] * 12)
    *pieces, transcript = model.pieces(sound, 8000, voice_activity="off")
    assert len(pieces) > 1
    assert "".join(pieces) == transcript.text == model.transcribe(sound, 8000, voice_activity="off").text


def test_ignored_fields_are_named(client: openai.OpenAI, recording: Path) -> None:
    answer = client.audio.transcriptions.with_raw_response.create(
        file=recording, model="tones", language="en", prompt="letters", temperature=0.5, response_format="text"
    )
    assert answer.headers["segue-ignored"] == "language, prompt, temperature"
    assert answer.headers["x-request-id"]


def test_phrases_are_of_one_request(client: openai.OpenAI, recording: Path, trained: Path) -> None:
    expected = segue.load(trained).transcribe(recording, phrases=["ab", "dd"])
    for phrases in (["ab", "dd"], "ab\ndd"):
        found = client.audio.transcriptions.create(file=recording, model="tones", extra_body={"phrases": phrases})
        assert found.text == expected.text
    with pytest.raises(openai.BadRequestError, match="xyz") as refused:
        client.audio.transcriptions.create(file=recording, model="tones", extra_body={"phrases": ["ab", "xyz"]})
    assert refused.value.param == "phrases"


def test_models_are_listed(client: openai.OpenAI) -> None:
    found = {each.id: each for each in client.models.list()}
    assert set(found) == {"tones", "reversal", "counting"}
    assert client.models.retrieve("tones") == found["tones"]
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve("other")


def test_mistakes_raise_the_clients_own_errors(client: openai.OpenAI, recording: Path) -> None:
    ask = client.audio.transcriptions.create
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        ask(file=recording, model="other")
    with pytest.raises(openai.BadRequestError, match="translates"):
        ask(file=recording, model="reversal")
    with pytest.raises(openai.BadRequestError, match="response_format"):
        ask(file=recording, model="tones", response_format="diarized_json")
    with pytest.raises(openai.BadRequestError, match="empty"):
        ask(file=("a.wav", b""), model="tones")
    with pytest.raises(openai.BadRequestError, match="the file: not audio") as refused:
        ask(file=("a.wav", b"no audio at all"), model="tones")
    assert "/tmp" not in str(refused.value)
    with pytest.raises(openai.BadRequestError, match="channel"):
        ask(file=recording, model="tones", extra_body={"channel": "7"})


@pytest.mark.filterwarnings("ignore:deprecated")  # OpenAI's own
def test_a_recording_is_translated_into_english(client: openai.OpenAI, recording: Path, known: Transcript) -> None:
    found = client.audio.translations.create(file=recording, model="tones")
    assert found.text
    verbose: Any = client.audio.translations.create(file=recording, model="tones", response_format="verbose_json")
    assert verbose.task == "translate"
    assert verbose.text == found.text
    assert [each.start for each in verbose.segments] == [pytest.approx(known.words[0].start, abs=0.01)]
    assert "-->" in str(client.audio.translations.create(file=recording, model="tones", response_format="srt"))


def test_completions_continue_a_text(client: openai.OpenAI, trained_language_model: Path) -> None:
    asked: dict[str, Any] = {"model": "counting", "prompt": "one two three", "temperature": 0, "max_tokens": 12}
    found = client.completions.create(**asked)
    [[known]] = segue.load(trained_language_model).generate("one two three", tokens=12, sampling=_greedy())
    assert found.choices[0].text == known.text
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert found.usage.completion_tokens == 12
    streamed = [each.choices[0] for each in client.completions.create(**asked, stream=True)]
    assert len(streamed) > 2
    assert "".join(each.text for each in streamed) == known.text
    assert [each.finish_reason for each in streamed] == [None] * (len(streamed) - 1) + ["length"]
    stopped = client.completions.create(**asked, stop=[" five"])
    assert stopped.choices[0].text == known.text.partition(" five")[0]
    several = client.completions.create(**asked | {"n": 3, "temperature": 1.0, "seed": 7, "prompt": ["one", "two"]})
    again = client.completions.create(**asked | {"n": 3, "temperature": 1.0, "seed": 7, "prompt": ["one", "two"]})
    assert len(several.choices) == 6
    assert [each.text for each in several.choices] == [each.text for each in again.choices]
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.completions.create(**asked | {"max_tokens": 10**6})
    echoed = client.completions.create(**asked, stream=True, extra_body={"echo": True})
    assert "".join(each.choices[0].text for each in echoed) == "one two three" + known.text
    for echo in (True, False):
        with pytest.raises(openai.BadRequestError, match=r"context of \d+; ask for fewer"):
            client.completions.create(**asked | {"max_tokens": 4096}, stream=True, echo=echo)


def test_completions_share_batches(
    client: openai.OpenAI, served: Running, trained_language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait together are generated together, streams too, and each has the text that it has alone."""
    batcher = served.server.models.named("counting").batcher
    gate, run, batches = threading.Event(), batcher._run, list[int]()

    def held(items: list[Any], key: Any) -> Any:
        batches.append(len(items))
        assert gate.wait(10)
        return run(items, key)

    monkeypatch.setattr(batcher, "_run", held)
    asked = [(["one", "two three", "five six seven"][seed % 3], 8 + 3 * (seed % 2), seed) for seed in range(8)]

    def complete(prompt: str, count: int, seed: int) -> str:
        found: Any = client.completions.create(
            model="counting", prompt=prompt, max_tokens=count, seed=seed, temperature=1.0, stream=seed % 4 == 3
        )
        return "".join(each.choices[0].text for each in found) if seed % 4 == 3 else found.choices[0].text

    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(complete, "four", 8, 0)
        until(lambda: bool(batches))
        every = [threads.submit(complete, *each) for each in asked]
        until(lambda: batcher.num_waiting == len(asked))
        gate.set()
        texts = [each.result(30) for each in every]
        assert first.result(30)
    model = segue.load(trained_language_model)
    for (prompt, count, seed), text in zip(asked, texts, strict=True):
        [[alone]] = model.generate(prompt, tokens=count, sampling=SamplingSection(temperature=1.0, seed=seed))
        assert text == alone.text
    assert len(set(texts)) > 4
    assert batches[0] == 1
    assert sum(batches) == 9
    assert len(batches) <= 4


def test_a_completion_that_fails_fails_alone(trained_language_model: Path) -> None:
    model = segue.load(trained_language_model)

    class Broken:
        """Fails where a row holds the token of `bad`."""

        def __init__(self, steps: Any) -> None:
            self.step, self.select, self._begin = steps.step, steps.select, steps.begin

        def begin(self, rows: Any, capacity: int) -> Any:
            if any(bad in row for row in rows):
                raise ValueError("bad token")
            return self._begin(rows, capacity)

    class Backend:
        def steps(self) -> Any:
            return Broken(model.backend.steps())

        losses = model.backend.losses

    one, two, six = (set(model.tokenizer.encode(each)) for each in ("one", "two", "six"))
    bad = min(one - two - six)
    batcher: Any = Batcher(partial(BatchedGeneration.run, Backend()), Bounds(4096, 8, 1.0, 8, 0.0))
    tickets = [Ticket() for _ in range(3)]
    for ticket in tickets:
        batcher.enter(ticket)
    shared = copy(model)
    shared.generation = BatchedGeneration(batcher)

    def complete(number: int) -> None:
        prompt = ["two", "one", "six"][number]
        with working(tickets[number]):
            [[found]] = shared.generate(prompt, tokens=6, sampling=_greedy())
            assert found.text == model.generate(prompt, tokens=6, sampling=_greedy())[0][0].text

    with ThreadPoolExecutor(3) as threads:
        work = [threads.submit(complete, number) for number in range(3)]
        work[0].result(30)
        work[2].result(30)
        with pytest.raises(ValueError, match="bad token"):
            work[1].result(30)


def _greedy() -> SamplingSection:
    return SamplingSection(temperature=0)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_keys_are_asked_for(trained_translator: Path) -> None:
    with running([Source("m", trained_translator)], keys=("right", "other")) as found:
        for key, is_right in (("right", True), ("other", True), ("wrong", False)):
            with openai.OpenAI(base_url=f"{found.url}/v1", api_key=key, max_retries=0) as client:
                if is_right:
                    assert [each.id for each in client.models.list()] == ["m"]
                else:
                    with pytest.raises(openai.AuthenticationError):
                        client.models.list()
        assert httpx.get(f"{found.url}/v1/models").status_code == 401
        assert httpx.get(f"{found.url}/health").status_code == 200
        libre = {"q": "one", "source": "auto", "target": "en", "api_key": "wrong"}
        assert httpx.post(f"{found.url}/translate", data=libre).status_code == 401


def test_a_full_queue_is_a_rate_limit(trained_translator: Path, served: Running) -> None:
    held = [served.server.models.named("reversal").batcher]
    tickets = [Ticket() for _ in range(served.server.settings.requests)]
    for ticket in tickets:
        held[0].enter(ticket)
    try:
        answer = httpx.post(f"{served.url}/v1/translations", json={"input": "one"})
    finally:
        for ticket in tickets:
            held[0].leave(ticket)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_texts_are_translated(served: Running) -> None:
    url = f"{served.url}/v1/translations"
    one = httpx.post(url, json={"input": "one two three"}).json()
    assert one["translations"] == [{"source": "one two three", "text": "three two one"}]
    several = httpx.post(url, json={"input": ["one two three", "", "four five six"], "n": 3, "target": "en"}).json()
    assert several["target"] == "en"
    assert [each["text"] for each in several["translations"]] == ["three two one", "", "six five four"]
    best = several["translations"][0]["alternatives"]
    assert best[0]["text"] == "three two one"
    assert len(best) == 3
    assert best[0]["score"] >= best[1]["score"] >= best[2]["score"]
    assert httpx.post(url, json={"input": "one", "target": "de"}).json()["error"]["param"] == "target"


def test_a_subtitle_file_is_translated(served: Running) -> None:
    film = "1\n00:00:01,000 --> 00:00:04,000\none two three four\n"
    ask: Any = {"files": {"file": ("film.srt", film)}}
    found = httpx.post(f"{served.url}/v1/translations", **ask).json()
    assert found["format"] == "srt"
    assert found["cues"] == 1
    assert found["text"] == film.replace("one two three four", "four three two one")
    plain = httpx.post(f"{served.url}/v1/translations", data={"response_format": "file"}, **ask)
    assert plain.text == found["text"]
    assert plain.headers["content-type"].startswith("application/x-subrip")
    text = httpx.post(
        f"{served.url}/v1/translations", files={"file": ("a.txt", "one two three\nfour five six\n")}
    ).json()
    assert text["text"] == "three two one\nsix five four\n"
    bad = httpx.post(f"{served.url}/v1/translations", files={"file": ("a.srt", "no subtitles")})
    assert bad.status_code == 400
    unknown = httpx.post(f"{served.url}/v1/translations", files={"file": ("a.exe", "x")})
    assert unknown.json()["error"]["param"] == "format"


def test_libretranslates_client_translates(served: Running) -> None:
    from libretranslatepy import LibreTranslateAPI

    client = LibreTranslateAPI(served.url)
    assert client.translate("one two three", "xx", "en") == "three two one"
    assert client.translate("one two three", "auto", "en") == "three two one"
    known = {each["code"]: each["targets"] for each in client.languages()}
    assert known == {"xx": ["en"], "en": []}
    assert [each["name"] for each in client.languages()] == ["xx", "English"]
    ask = {"q": ["one two three", "four five six"], "source": "xx", "target": "en", "alternatives": 1}
    found = httpx.post(f"{served.url}/translate", json=ask).json()
    assert found["translatedText"] == ["three two one", "six five four"]
    assert [len(each) for each in found["alternatives"]] == [1, 1]
    assert httpx.post(f"{served.url}/translate", json={**ask, "target": "de"}).status_code == 400


def test_libretranslates_other_paths_say_why_not(served: Running) -> None:
    settings = httpx.get(f"{served.url}/frontend/settings", timeout=30).json()  # reads a table the first time
    assert settings["charLimit"] == served.server.settings.characters
    assert not settings["keyRequired"]
    assert settings["language"]["target"] == {"code": "en", "name": "English"}
    for path in libretranslate.ABSENT:
        for answer in (httpx.get(served.url + path), httpx.post(served.url + path, data={"q": "one"})):
            assert answer.status_code == 404
            assert answer.json() == {"error": libretranslate.ABSENT[path]}


def test_without_a_translator_all_is_refused(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"tones": served.server.models.named("tones")}
    monkeypatch.setattr(served.server.models, "_loaded", only)
    asked = {"q": "one", "target": "en"}
    for answer in (
        httpx.get(f"{served.url}/frontend/settings"),
        httpx.post(f"{served.url}/translate", json=asked),
    ):
        assert answer.status_code == 404
        assert answer.json() == {"error": "this server has no model for this: a model that translates is needed"}
    with pytest.raises(RefusedError, match="a model that translates is needed"):
        served.server.models.some("translation")


def test_languages_have_names() -> None:
    known = {"de": "German", "deu": "German", "el": "Modern Greek", "pt-BR": "Portuguese (BR)", "und": "Undetermined"}
    assert {code: name_of(code) for code in known} == known
    assert name_of("qqz") == "qqz"


def test_the_openapi_document_describes_all(served: Running) -> None:
    found = httpx.get(f"{served.url}/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    assert "/v1/audio/transcriptions" in found["paths"]
    page = httpx.get(f"{served.url}/docs")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "/v1/translations" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert json.loads(json.dumps(found)) == found


def test_metrics_count_requests_and_audio(served: Running, recording: Path, known: Transcript) -> None:
    def value(name: str) -> float:
        lines = httpx.get(f"{served.url}/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    name = 'segue_audio_seconds_total{model="tones"}'
    before = value(name)
    file = {"file": ("a.wav", io.BytesIO(recording.read_bytes()))}
    httpx.post(f"{served.url}/v1/audio/transcriptions", files=file)
    assert value(name) - before == pytest.approx(known.duration, abs=0.01)
    counted = 'segue_requests_total{model="tones",path="/v1/audio/transcriptions",status="200"}'
    assert value(counted) >= 1
