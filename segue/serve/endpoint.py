"""What is an endpoint? A route with what the OpenAPI document says of it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response

from segue.serve.bodies import Uploads
from segue.serve.loaded import Models
from segue.serve.metrics import Metrics
from segue.serve.settings import Settings
from segue.serve.work import Workers


@dataclass
class Server:
    """What all requests share."""

    settings: Settings
    models: Models
    metrics: Metrics
    workers: Workers
    uploads: Uploads
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    num_under_way: int = 0
    num_sockets: int = 0


@dataclass(frozen=True)
class Endpoint:
    """A method and path."""

    method: str
    path: str
    answer: Callable[[Request], Awaitable[Response]]
    summary: str
    body: type[BaseModel] | None = None
    """The fields of the body."""
    form: type[BaseModel] | None = None
    """Those of a form, where they differ."""
    kinds: tuple[str, ...] = ()
    """Content types of the body."""
    has_file: bool = False
    """Whether a form has a field `file`."""
    results: Mapping[str, type[BaseModel] | tuple[type[BaseModel], ...] | None] = field(default_factory=dict)
    """Content types of the answer, with its fields in JSON, or one of several kinds of fields."""
    is_open: bool = False
    """Whether no key is needed."""
    has_own_key: bool = False
    """Whether the endpoint itself checks the key."""
    has_plain_errors: bool = False
    """Whether its errors have LibreTranslate's form."""


def server_of(request: Any) -> Server:
    """What all requests share, of a request or WebSocket."""
    found: Server = request.scope["segue"]
    return found


def note(request: Any, **values: object) -> None:
    """Adds values to the log of a request; `model` also counts in metrics."""
    state: State = request.state
    state.noted = {**getattr(state, "noted", {}), **values}
