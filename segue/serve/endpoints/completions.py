"""How does a language model continue a text over HTTP? `POST /v1/completions`, as OpenAI has it."""

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from segue.decoding.sampling import SamplingSection
from segue.runtime.language_model import Generated
from segue.serve import bodies
from segue.serve.endpoint import Endpoint, Server, note, server_of
from segue.serve.endpoints.transcriptions import event, headers_of
from segue.serve.endpoints.translations import check_length, most_bytes
from segue.serve.guard import failed
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError

MOST_CHOICES = 128
MOST_STOPS = 16


class CompletionRequest(BaseModel, extra="allow", frozen=True):
    """A text to be continued."""

    model: str | None = None
    """A name of `GET /v1/models`; may be left out if there is only one language model."""
    prompt: str | list[str] = ""
    """A text, or several."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    """Of each choice."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """0: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together have this probability."""
    stop: str | list[str] | None = None
    """A choice ends before the first of these."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    """Choices of each prompt."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """The same seed gives the same text."""
    stream: bool = False
    """Whether the text comes in pieces, as server-sent events; for one prompt and one choice."""
    echo: bool = False
    """Whether choices begin with the prompt."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: object) -> object:
        return bodies.without_nulls(values)

    @property
    def ignored(self) -> list[str]:
        """Fields that were given and mean nothing here."""
        return sorted(name for name, value in (self.model_extra or {}).items() if value is not None)


class Choice(BaseModel):
    """A continuation."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None = None


class TokenUsage(BaseModel):
    """What was used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The continuations of all prompts, in order."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage
    ignored: list[str]
    """Fields of the request that mean nothing here."""


async def complete(request: Request) -> Response:
    """Answers `POST /v1/completions`."""
    server = server_of(request)
    bodies.check_kind(request, bodies.JSON)
    asked = await bodies.of_json(request, CompletionRequest, most_bytes(server))
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    _check(server, asked, prompts, stops)
    loaded = server.models.find(asked.model, "language_modeling")
    note(request, model=loaded.name, characters=sum(map(len, prompts)))
    seed = secrets.randbits(31) if asked.seed is None else asked.seed
    sampling = SamplingSection(temperature=asked.temperature, top_p=asked.top_p, seed=seed)
    head = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": loaded.name}
    if not asked.stream:
        work = partial(_generated, loaded, prompts, asked, stops, sampling)
        results, usage = await server.workers.answer(request, [loaded], work)
        texts = [(prompt, each) for prompt, every in zip(prompts, results, strict=True) for each in every]
        choices = [
            Choice(
                index=index,
                text=prompt * asked.echo + each.text,
                finish_reason=_reason(each),
            )
            for index, (prompt, each) in enumerate(texts)
        ]
        note(request, tokens=usage.completion_tokens)
        if server.settings.logs_texts:
            note(request, text=[each.text for each in choices])
        found = Completion(**head, choices=choices, usage=usage, ignored=asked.ignored)
        return JSONResponse(found.model_dump(), headers=headers_of(asked.ignored))
    if len(prompts) != 1 or asked.n != 1:
        raise RefusedError(400, "stream: only one choice of one prompt can be streamed", "invalid_value", "stream")
    pieces = server.workers.stream([loaded], partial(_pieces, loaded, prompts[0], asked, stops, sampling))
    first = await anext(pieces)

    def chunk(text: str, reason: str | None) -> bytes:
        choice = Choice(index=0, text=text, finish_reason=reason)
        return event({**head, "object": "text_completion", "choices": [choice.model_dump()]})

    async def events() -> AsyncIterator[bytes]:
        piece = first
        try:
            if asked.echo:
                yield chunk(prompts[0], None)
            while isinstance(piece, str):
                yield chunk(piece, None)
                piece = await anext(pieces)
            yield chunk("", _reason(piece))
            yield event(b"[DONE]")
        except Exception as problem:
            yield event(failed(request, problem).body)
        finally:
            await pieces.aclose()

    return StreamingResponse(events(), media_type="text/event-stream", headers=headers_of(asked.ignored))


def _check(server: Server, asked: CompletionRequest, prompts: list[str], stops: list[str]) -> None:
    """Raises a RefusedError for what would take too long."""
    check_length(server, sum(map(len, prompts)), "prompt")
    most = server.settings.tokens
    if len(prompts) * asked.n * asked.max_tokens > most:
        message = f"max_tokens: at most {most} over all choices are accepted"
        raise RefusedError(400, message, "invalid_value", "max_tokens")
    if not prompts:
        raise RefusedError(400, "prompt: it is empty", "invalid_value", "prompt")
    if len(stops) > MOST_STOPS or any(not each for each in stops):
        raise RefusedError(400, f"stop: at most {MOST_STOPS} texts, none of them empty", "invalid_value", "stop")


def _generated(
    loaded: Loaded, prompts: list[str], asked: CompletionRequest, stops: list[str], sampling: SamplingSection
) -> tuple[list[list[Generated]], TokenUsage]:
    model = loaded.model
    found: list[list[Generated]] = model.generate(
        prompts, tokens=asked.max_tokens, samples=asked.n, stop=stops, sampling=sampling
    )
    given = sum(len(model.tokenizer.encode(prompt)) for prompt in prompts)
    made = sum(len(each.tokens) for every in found for each in every)
    return found, TokenUsage(prompt_tokens=given, completion_tokens=made, total_tokens=given + made)


def _pieces(
    loaded: Loaded, prompt: str, asked: CompletionRequest, stops: list[str], sampling: SamplingSection
) -> Iterator[str | Generated]:
    """The text piece by piece, and the whole last."""
    yield (yield from loaded.model.stream(prompt, tokens=asked.max_tokens, stop=stops, sampling=sampling))


def _reason(found: Generated) -> Literal["stop", "length"]:
    """Why a text ends, as OpenAI says it."""
    return "length" if found.ending == "length" else "stop"


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/completions",
        complete,
        "The continuation of texts",
        body=CompletionRequest,
        kinds=(bodies.JSON,),
        results={"application/json": Completion, "text/event-stream": None},
    )
]
