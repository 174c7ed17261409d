"""Which models can be asked? `GET /v1/models`, as OpenAI has it, with the task and languages of each."""

from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from segue.serve.endpoint import Endpoint, server_of
from segue.serve.loaded import Loaded


class ModelObject(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When it was loaded, in seconds since 1970."""
    owned_by: Literal["segue"] = "segue"
    task: str
    """speech_recognition, translation, classification or language_modeling."""
    parameters: int
    sample_rate_hz: int | None = None
    """Of models of sounds."""
    source_language: str | None = None
    target_languages: list[str] | None = None
    """Of models that translate, as far as they are known."""
    classes: list[str] | None = None
    input: Literal["sound", "text"] | None = None
    """Of classifiers."""


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


def shown(loaded: Loaded) -> ModelObject:
    """What is said of a model."""
    metadata, is_classifier = loaded.model.metadata, loaded.task == "classification"
    is_translator = loaded.task == "translation"
    return ModelObject(
        id=loaded.name,
        created=loaded.created,
        task=loaded.task,
        parameters=metadata.parameters,
        sample_rate_hz=getattr(metadata.input if is_classifier else metadata, "sample_rate_hz", None),
        source_language=loaded.source_language,
        target_languages=loaded.target_languages if is_translator else None,
        classes=list(metadata.classes) if is_classifier else None,
        input=metadata.input.kind if is_classifier else None,
    )


async def every(request: Request) -> Response:
    """Answers `GET /v1/models`."""
    found = ModelList(data=[shown(each) for each in server_of(request).models])
    return JSONResponse(found.model_dump(exclude_none=True))


async def one(request: Request) -> Response:
    """Answers `GET /v1/models/{model}`."""
    found = shown(server_of(request).models.named(request.path_params["model"]))
    return JSONResponse(found.model_dump(exclude_none=True))


ENDPOINTS = [
    Endpoint("GET", "/v1/models", every, "All models", results={"application/json": ModelList}),
    Endpoint("GET", "/v1/models/{model}", one, "A model", results={"application/json": ModelObject}),
]
