"""How does a recording become text over HTTP? `POST /v1/audio/transcriptions`, as OpenAI has it."""

import json
import zlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from segue.data.subtitles import cues
from segue.errors import UserError
from segue.runtime.recognizer import Recognizer, Transcript
from segue.runtime.words import Word
from segue.serve import batching, bodies
from segue.serve.endpoint import Endpoint, Server, note, server_of
from segue.serve.guard import failed
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError

Form = Literal["json", "text", "srt", "verbose_json", "vtt"]
SUBTITLES = {"srt": "application/x-subrip", "vtt": "text/vtt"}
MOST_PHRASES = 1000


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _lines(value: object) -> object:
    """Texts of one or several lines -> lines."""
    given = _listed(value)
    if not isinstance(given, list):
        return given
    return [line.strip() for text in given for line in str(text).splitlines() if line.strip()]


class TranscriptionRequest(BaseModel, extra="allow", frozen=True):
    """A recording to be transcribed."""

    model: str | None = None
    """A name of `GET /v1/models`; may be left out if there is only one that recognizes speech."""
    language: str | None = None
    """Ignored: a model knows the languages that it was trained on."""
    prompt: str | None = None
    """Ignored."""
    response_format: Form = "json"
    """verbose_json has times and confidences."""
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    """Ignored: recognition draws nothing."""
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], BeforeValidator(_listed)] = Field(
        ["segment"],
        validation_alias=AliasChoices("timestamp_granularities[]", "timestamp_granularities"),
        serialization_alias="timestamp_granularities[]",
    )
    """Which times verbose_json has."""
    stream: bool = False
    """Whether the text comes in pieces, as server-sent events."""
    channel: str | None = None
    """Of a recording with several channels: left, right, mix or a number from 1; default: mix, if that makes sense."""
    phrases: Annotated[list[str], BeforeValidator(_lines), Field(max_length=MOST_PHRASES)] = Field(
        [], validation_alias=AliasChoices("phrases[]", "phrases"), serialization_alias="phrases[]"
    )
    """What may be said, such as names: each field, or each line of one, is preferred where the sound allows it."""

    @property
    def ignored(self) -> list[str]:
        """Fields that were given and mean nothing here."""
        given = {
            "language": self.language,
            "prompt": self.prompt,
            "temperature": self.temperature,
            "response_format": self.stream and self.response_format != "json",
            "timestamp_granularities": "timestamp_granularities" in self.model_fields_set
            and (self.stream or self.response_format != "verbose_json"),
        }
        return [*(name for name, value in given.items() if value), *sorted(self.model_extra or {})]


class Usage(BaseModel):
    """What was used."""

    type: Literal["duration"] = "duration"
    seconds: float


class Transcription(BaseModel):
    """A text."""

    text: str
    usage: Usage
    warnings: list[str]
    """About the recording."""


class TimedWord(BaseModel):
    """A word."""

    word: str
    start: float
    """In seconds."""
    end: float
    confidence: float
    """From 0 to 1."""


class Segment(BaseModel):
    """What a subtitle would show at once."""

    id: int
    seek: int
    start: float
    """In seconds."""
    end: float
    text: str
    tokens: list[int]
    """Empty: tokens differ from model to model."""
    temperature: float
    avg_logprob: float
    """Mean of the logarithms of the words' confidences."""
    compression_ratio: float
    no_speech_prob: float
    """0: such a model has none."""


class VerboseTranscription(BaseModel):
    """A text with times."""

    task: Literal["transcribe", "translate"]
    language: str
    """"und": which language was spoken is not recognized."""
    duration: float
    """In seconds."""
    text: str
    segments: list[Segment] | None = None
    words: list[TimedWord] | None = None
    usage: Usage
    model: str
    warnings: list[str]
    ignored: list[str]
    """Fields of the request that mean nothing here."""


def timed(words: Sequence[Word]) -> list[TimedWord]:
    """Words as JSON has them."""
    return [
        TimedWord(
            word=each.word, start=round(each.start, 3), end=round(each.end, 3), confidence=round(each.confidence, 4)
        )
        for each in words
    ]


def segments(transcript: Transcript) -> list[Segment]:
    """The cues of a transcript."""
    found = []
    starts = [word.start for word in transcript.words]
    for number, cue in enumerate(cues.cut(transcript.words, transcript.duration)):
        start, end = (each / 1000 for each in cue.spoken)
        some = transcript.words[bisect_left(starts, start - 0.001) : bisect_left(starts, end)]
        inside = [np.log(max(word.confidence, 1e-30)) for word in some]
        data = cue.text.encode()
        found.append(
            Segment(
                id=number,
                seek=0,
                start=start,
                end=end,
                text=cue.text,
                tokens=[],
                temperature=0.0,
                avg_logprob=round(float(np.mean(inside)), 4) if inside else 0.0,
                compression_ratio=round(len(data) / len(zlib.compress(data)), 3),
                no_speech_prob=0.0,
            )
        )
    return found


class Recognized(NamedTuple):
    """What was recognized in a recording."""

    transcript: Transcript
    warnings: list[str]
    """About the recording."""


@dataclass(frozen=True)
class Answer:
    """A text that was recognized, or translated, in the forms that can be asked for."""

    recognized: Recognized
    text: str
    ignored: list[str]
    """Fields of the request that mean nothing here."""
    subtitles: Callable[[Literal["srt", "vtt"]], str]
    """The content of a file."""
    verbose: Callable[[], VerboseTranscription]

    def written(self, form: Form) -> Response:
        """The answer in a form."""
        headers = headers_of(self.ignored, self.recognized.warnings)
        if form == "text":
            return PlainTextResponse(self.text + "\n", headers=headers)
        if form in ("srt", "vtt"):
            return Response(self.subtitles(form), headers=headers, media_type=f"{SUBTITLES[form]}; charset=utf-8")
        if form == "verbose_json":
            return JSONResponse(self.verbose().model_dump(exclude_none=True), headers=headers)
        usage = usage_of(self.recognized.transcript)
        shown = Transcription(text=self.text, usage=usage, warnings=self.recognized.warnings)
        return JSONResponse(shown.model_dump(), headers=headers)


def usage_of(transcript: Transcript) -> Usage:
    """The seconds that a transcript counts."""
    return Usage(seconds=round(transcript.duration, 3))


def headers_of(ignored: Sequence[str], warnings: Sequence[str] = ()) -> dict[str, str]:
    """Headers that name what a plain text cannot."""

    def plain(texts: Sequence[str], end: str) -> str:
        joined = end.join(texts).replace("\n", " ")
        return "".join(each if " " <= each <= "~" else "?" for each in joined)[:1000]

    return {
        **({"segue-ignored": plain(ignored, ", ")} if ignored else {}),
        **({"segue-warnings": plain(warnings, "; ")} if warnings else {}),
    }


def event(values: object) -> bytes:
    """A server-sent event."""
    return b"data: " + (values if isinstance(values, bytes) else json.dumps(values).encode()) + b"\n\n"


async def transcribe(request: Request) -> Response:
    """Answers `POST /v1/audio/transcriptions`."""
    server = server_of(request)
    bodies.check_kind(request, bodies.MULTIPART)
    async with bodies.of_form(request, TranscriptionRequest) as (asked, upload):
        if upload is None:
            raise RefusedError(400, "file: a recording is needed", "missing_required_parameter", "file")
        loaded = server.models.find(asked.model, "speech_recognition")
        note(request, model=loaded.name)
        path = upload.take()  # outlives this function if it is streamed; also, the event loop waits for no disk

    def removed() -> None:
        path.unlink(missing_ok=True)

    try:
        if not asked.stream:
            work = partial(_answer, request, server, loaded, path, asked)
            return await server.workers.answer(request, [loaded], work, removed)
        pieces = server.workers.stream(
            [loaded], lambda: in_pieces(server, loaded, path, asked.channel, asked.phrases), removed
        )
        first = await anext(pieces)  # what is wrong with the recording gets a status
    except RefusedError:
        removed()
        raise

    async def events() -> AsyncIterator[bytes]:
        piece: str | Recognized = first
        try:
            while isinstance(piece, str):
                yield event({"type": "transcript.text.delta", "delta": piece})
                piece = await anext(pieces)
            observe(request, server, loaded, piece.transcript)
            yield event(
                {
                    "type": "transcript.text.done",
                    "text": piece.transcript.text,
                    "usage": usage_of(piece.transcript).model_dump(),
                    "warnings": piece.warnings,
                    "ignored": asked.ignored,
                }
            )
            yield event(b"[DONE]")
        except Exception as problem:
            yield event(failed(request, problem).body)
        finally:
            await pieces.aclose()

    return StreamingResponse(events(), media_type="text/event-stream", headers=headers_of(asked.ignored))


def _answer(request: Request, server: Server, loaded: Loaded, path: Path, asked: TranscriptionRequest) -> Response:
    """In a thread, like recognition: the cues of hours take seconds, which no other request should wait for."""
    recognized = transcribed(server, loaded, path, asked.channel, asked.phrases)
    transcript, granularities = recognized.transcript, asked.timestamp_granularities
    observe(request, server, loaded, transcript)

    def verbose() -> VerboseTranscription:
        return VerboseTranscription(
            task="transcribe",
            language="und",
            duration=round(transcript.duration, 3),
            text=transcript.text,
            segments=segments(transcript) if "segment" in granularities else None,
            words=timed(transcript.words) if "word" in granularities else None,
            usage=usage_of(transcript),
            model=loaded.name,
            warnings=recognized.warnings,
            ignored=asked.ignored,
        )

    answer = Answer(recognized, transcript.text, asked.ignored, lambda form: transcript.written(form) + "\n", verbose)
    return answer.written(asked.response_format)


def transcribed(
    server: Server, loaded: Loaded, path: Path, channel: str | None, phrases: Sequence[str] = ()
) -> Recognized:
    """The transcript of a file, and warnings about it."""
    model, number = _expecting(loaded.model, phrases), bodies.channel_of(channel)
    with bodies.recording(path, server.settings.audio_seconds, batching.current().check, number) as warned:
        transcript = model.transcribe(path, channel=number)
    return Recognized(transcript, [bodies.said(each.message, path) for each in warned])


def in_pieces(
    server: Server, loaded: Loaded, path: Path, channel: str | None, phrases: Sequence[str] = ()
) -> Iterator[str | Recognized]:
    """The text piece by piece, and then all of it."""
    model, number = _expecting(loaded.model, phrases), bodies.channel_of(channel)
    with bodies.recording(path, server.settings.audio_seconds, batching.current().check, number) as warned:
        for piece in model.pieces(path, channel=number):
            if isinstance(piece, str):
                yield piece
            else:
                yield Recognized(piece, [bodies.said(each.message, path) for each in warned])


def _expecting(model: Recognizer, phrases: Sequence[str]) -> Recognizer:
    """The model with a search that prefers these phrases. Raises a RefusedError if it cannot spell one."""
    if not phrases:
        return model
    try:
        return model.with_search(model.search.with_phrases(phrases))
    except UserError as problem:
        raise RefusedError(400, str(problem), "invalid_value", "phrases") from None


def observe(request: Request, server: Server, loaded: Loaded, transcript: Transcript) -> None:
    """Counts and logs what was recognized."""
    server.metrics.audio_seconds.labels(loaded.name).inc(transcript.duration)
    note(request, audio_seconds=round(transcript.duration, 3))
    if server.settings.logs_texts:
        note(request, text=transcript.text)


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/audio/transcriptions",
        transcribe,
        "The text of a recording",
        body=TranscriptionRequest,
        kinds=(bodies.MULTIPART,),
        has_file=True,
        results={
            "application/json": (Transcription, VerboseTranscription),
            "text/plain": None,
            "text/event-stream": None,
            **dict.fromkeys(SUBTITLES.values()),
        },
    )
]
