"""How does a new version of a model get served? `POST /admin/reload`, with the admin key; SIGHUP does the same."""

import asyncio

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from segue.errors import UserError
from segue.serve import logs
from segue.serve.endpoint import Endpoint, server_of
from segue.serve.guard import check_key, key_in
from segue.serve.refusals import RefusedError


class Reloaded(BaseModel):
    """What was loaded."""

    models: list[str]


async def reload(request: Request) -> Response:
    """Answers `POST /admin/reload`."""
    server = server_of(request)
    if server.settings.admin_key is None:
        message = "this server has no admin key, with which it would: segue serve --admin-key FILE, or SEGUE_ADMIN_KEY"
        raise RefusedError(404, f"models are not reloaded over HTTP: {message}", "no_admin_key")
    check_key(key_in(request.headers), [server.settings.admin_key])
    try:
        names = await asyncio.to_thread(server.models.reload)
    except UserError as problem:
        logs.say("reload failed", error=str(problem))
        raise RefusedError(
            422, "a model cannot be loaded, and all stay as they are; the log says why", "reload_failed"
        ) from None
    logs.say("reloaded", models=names)
    return JSONResponse(Reloaded(models=names).model_dump())


ENDPOINTS = [
    Endpoint(
        "POST",
        "/admin/reload",
        reload,
        "Loads all models anew",
        results={"application/json": Reloaded},
        has_own_key=True,
    )
]
