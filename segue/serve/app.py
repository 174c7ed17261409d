"""Which endpoints does a server have? All of them, with what describes them, as an ASGI application."""

import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from segue.serve import openapi
from segue.serve.bodies import Uploads
from segue.serve.endpoint import Endpoint, Server
from segue.serve.endpoints import (
    admin,
    audio_translations,
    classifications,
    completions,
    health,
    libretranslate,
    models,
    stream,
    transcriptions,
    translations,
)
from segue.serve.guard import Access, Guard
from segue.serve.loaded import Models, Source
from segue.serve.metrics import Metrics
from segue.serve.refusals import RefusedError
from segue.serve.settings import Settings
from segue.serve.work import Workers

ENDPOINTS: Sequence[Endpoint] = [
    *transcriptions.ENDPOINTS,
    *audio_translations.ENDPOINTS,
    *translations.ENDPOINTS,
    *libretranslate.ENDPOINTS,
    *completions.ENDPOINTS,
    *classifications.ENDPOINTS,
    *models.ENDPOINTS,
    *health.ENDPOINTS,
    *admin.ENDPOINTS,
]
PAGE = Path(__file__).parent / "page"
"""Folder of the page at `/`."""
PAGE_FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
CLOSING_SECONDS = 0.5
"""So long a batch may still run at the end; the thread of an idle model ends at once."""


def start(sources: Sequence[Source], load: Callable[[Path], Any], settings: Settings) -> Server:
    """Loads the models. Raises a UserError if one cannot be loaded."""
    metrics = Metrics()
    loaded = Models(sources, load, settings, metrics)
    workers = Workers(settings.requests * len(sources) + settings.sockets, settings.timeout_seconds)
    return Server(settings, loaded, metrics, workers, Uploads(settings.requests * len(sources)))


def application(server: Server) -> ASGIApp:
    """The ASGI application of a server."""
    has_admin = server.settings.admin_key is not None
    offered = [each for each in ENDPOINTS if has_admin or each not in admin.ENDPOINTS]
    routes: list[Route | WebSocketRoute] = [Route(each.path, each.answer, methods=[each.method]) for each in ENDPOINTS]
    described = openapi.document(offered, bool(server.settings.keys))
    shown = openapi.page(described)

    async def document(request: Request) -> Response:
        del request
        return JSONResponse(described)

    async def docs(request: Request) -> Response:
        del request
        return HTMLResponse(shown, headers={"content-security-policy": DOCS_POLICY})

    routes += [Route("/openapi.json", document), Route("/docs", docs), WebSocketRoute(stream.PATH, stream.stream)]
    routes += [Route(path, libretranslate.absent, methods=["GET", "POST"]) for path in libretranslate.ABSENT]
    has_page = PAGE.is_dir()
    if has_page:
        routes += [Route(path, _file(PAGE / name)) for path, name in PAGE_FILES.items()]
    is_open = [each.path for each in ENDPOINTS if each.is_open] + ["/openapi.json", "/docs"]
    access = Access(
        {route.path: route.path_regex for route in routes},
        open=frozenset([*is_open, *libretranslate.ABSENT, *(PAGE_FILES if has_page else ())]),
        own_keys=frozenset(each.path for each in ENDPOINTS if each.has_own_key),
        plain_errors=frozenset([*libretranslate.ABSENT, *(each.path for each in ENDPOINTS if each.has_plain_errors)]),
    )
    # A redirect to a path without its last slash would lead to http, also where a proxy has TLS.
    guarded = Guard(Router(routes, redirect_slashes=False, default=_nothing), server, access)

    async def found(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope["path"] == "/":  # where Vosk's clients look for it
            scope = {**scope, "path": stream.PATH}
        await guarded(scope, receive, send)

    return found


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """No route: also for WebSockets, which starlette's own would close without a word."""
    del receive, send
    if scope["type"] == "http" and scope["path"] == stream.PATH:
        raise RefusedError(426, "this path takes WebSockets only", "not_a_websocket", headers={"upgrade": "websocket"})
    raise HTTPException(404)


def _file(path: Path) -> Callable[[Request], Any]:
    content, (kind, _) = path.read_bytes(), mimetypes.guess_type(path.name)

    async def answer(request: Request) -> Response:
        del request
        headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}
        return Response(content, headers=headers, media_type=kind)

    return answer


def close(server: Server) -> bool:
    """Ends the threads of a server and removes its files. Whether all have ended: a batch cannot be stopped."""
    for loaded in server.models:
        loaded.batcher.close()
    server.workers.close()
    server.uploads.close()
    return all(loaded.batcher.is_over(CLOSING_SECONDS) for loaded in server.models)
