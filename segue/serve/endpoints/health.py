"""Is the server well? `GET /health`, `GET /ready` for balancers, `GET /metrics` for Prometheus."""

from typing import Literal

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from segue.serve.endpoint import Endpoint, server_of
from segue.serve.refusals import RefusedError


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok"] = "ok"
    models: list[str]


async def health(request: Request) -> Response:
    """Answers `GET /health`: the process is alive."""
    return JSONResponse(Health(models=[each.name for each in server_of(request).models]).model_dump())


async def ready(request: Request) -> Response:
    """Answers `GET /ready`: the server takes requests."""
    if server_of(request).stopping.is_set():
        raise RefusedError(503, "the server is stopping", "stopping")
    return await health(request)


async def metrics(request: Request) -> Response:
    """Answers `GET /metrics`."""
    server = server_of(request)
    for loaded in server.models:
        server.metrics.watch_queue(loaded.name, lambda batcher=loaded.batcher: batcher.num_waiting)  # type: ignore[misc]
    return Response(server.metrics.written(), media_type=CONTENT_TYPE_LATEST)


ENDPOINTS = [
    Endpoint("GET", "/health", health, "Whether it lives", results={"application/json": Health}, is_open=True),
    Endpoint("GET", "/ready", ready, "Whether it takes requests", results={"application/json": Health}, is_open=True),
    Endpoint("GET", "/metrics", metrics, "Counters for Prometheus", results={"text/plain": None}),
]
