"""Which class does a recording or a text belong to? `POST /v1/classifications`, which is Segue's own."""

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from segue.runtime.classifier import Classification
from segue.serve import batching, bodies
from segue.serve.endpoint import Endpoint, Server, note, server_of
from segue.serve.endpoints.translations import check_length, most_bytes
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError

Top = Annotated[int, Field(ge=1, le=1000)]


class ClassificationRequest(BaseModel, extra="forbid", frozen=True):
    """Texts to be classified."""

    model: str | None = None
    """A name of `GET /v1/models`; may be left out if there is only one classifier."""
    input: str | list[str]
    """A text, or several."""
    top: Top = 1
    """So many of the likeliest classes."""


class SoundClassificationRequest(BaseModel, extra="forbid", frozen=True):
    """A recording to be classified."""

    model: str | None = None
    top: Top = 1
    channel: str | None = None
    """Of a recording with several channels: left, right, mix or a number from 1."""


class ClassProbability(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Classified(BaseModel):
    """The likeliest classes of an input; a blank text has none."""

    label: str | None
    top: list[ClassProbability]


class Classifications(BaseModel):
    """The classes of all inputs, in order."""

    model: str
    results: list[Classified]


async def classify(request: Request) -> Response:
    """Answers `POST /v1/classifications`."""
    server = server_of(request)
    if bodies.check_kind(request, bodies.JSON, bodies.MULTIPART) == bodies.JSON:
        texts_asked = await bodies.of_json(request, ClassificationRequest, most_bytes(server))
        texts = [texts_asked.input] if isinstance(texts_asked.input, str) else texts_asked.input
        check_length(server, sum(map(len, texts)))
        loaded, top = server.models.find(texts_asked.model, "classification"), texts_asked.top
        if loaded.model.is_of_sounds:
            raise RefusedError(400, f"file: the model {loaded.name!r} classifies recordings", "invalid_value", "file")
        found = await server.workers.answer(request, [loaded], lambda: list(loaded.model.classify_lines(texts)))
    else:
        async with bodies.of_form(request, SoundClassificationRequest) as (asked, upload):
            if upload is None:
                raise RefusedError(400, "file: a recording is needed", "missing_required_parameter", "file")
            loaded, top = server.models.find(asked.model, "classification"), asked.top
            if not loaded.model.is_of_sounds:
                raise RefusedError(400, f"input: the model {loaded.name!r} classifies texts", "invalid_value", "input")
            work = partial(_of_sound, server, loaded, upload.path, asked.channel)
            found = [await server.workers.answer(request, [loaded], work)]
    note(request, model=loaded.name)
    results = [
        Classified(
            label=each.label,
            top=[ClassProbability(label=label, probability=round(value, 4)) for label, value in each.ranked[:top]],
        )
        for each in found
    ]
    return JSONResponse(Classifications(model=loaded.name, results=results).model_dump())


def _of_sound(server: Server, loaded: Loaded, path: Path, channel: str | None) -> Classification:
    number = bodies.channel_of(channel)
    with bodies.recording(path, server.settings.audio_seconds, batching.current().check, number):
        found: Classification = loaded.model.classify(path, channel=number)
    return found


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/classifications",
        classify,
        "The class of texts, or of a recording",
        body=ClassificationRequest,
        form=SoundClassificationRequest,
        kinds=(bodies.JSON, bodies.MULTIPART),
        has_file=True,
        results={"application/json": Classifications},
    )
]
