"""How does a server run, stop and take up new models? With uvicorn; SIGTERM stops it, SIGHUP reloads models."""

import asyncio
import os
import signal
import socket
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from segue.errors import UserError, note
from segue.serve import app, logs
from segue.serve.connections import TimedConnection, TimedSocket
from segue.serve.endpoint import Server

POLL_SECONDS = 0.05


def run(server: Server, listening: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, and then until what is under way is finished, or the grace time is over.

    A batch that is still running then ends with the process, which this function ends in that case.
    """
    runner = uvicorn.Server(config(server, app.application(server)))
    try:
        asyncio.run(_serve(runner, server, listening))
    finally:
        is_over = app.close(server)
    if not is_over:  # a runtime's threads would abort an interpreter that ends in the usual way
        os._exit(0)


def listening(host: str, port: int) -> socket.socket:
    """A socket at the address. Raises a UserError if it cannot be had."""
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as problem:
        if found is not None:
            found.close()
        why = problem.strerror or problem
        raise UserError(f"cannot listen on {host} port {port}: {why}; --port and --host choose others") from None
    found.setblocking(False)
    return found


def config(server: Server, application: ASGIApp) -> uvicorn.Config:
    """Settings of uvicorn."""
    settings = server.settings
    http: Any = partial(TimedConnection, settings, server.metrics)
    sockets: Any = partial(TimedSocket, settings, server.metrics)
    return uvicorn.Config(
        application,
        settings.host,
        settings.port,
        lifespan="off",
        http=http,
        ws=sockets,
        ws_max_size=1 << 22,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
    )


async def _serve(runner: uvicorn.Server, server: Server, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(runner._serve([listening]))
    tasks = set[asyncio.Task[None]]()

    def started(work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    is_asked = False

    def stop() -> None:
        nonlocal is_asked
        if is_asked:  # the second time at once
            runner.should_exit = runner.force_exit = True
        is_asked = True
        started(stopped(runner, server))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: started(reloaded(server)))
    while not runner.started and not serving.done():
        await asyncio.sleep(0.01)
    if runner.started:
        host, port = runner.servers[0].sockets[0].getsockname()[:2]
        names = [each.name for each in server.models]
        logs.say("started", host=host, port=port, models=names)
        shown = f"[{host}]" if ":" in host else host
        note(f"serves {', '.join(names)} at http://{shown}:{port} (its endpoints: http://{shown}:{port}/docs)")
    await serving


async def stopped(runner: uvicorn.Server, server: Server) -> None:
    """Refuses new requests, waits for those under way, and ends the server."""
    server.stopping.set()
    logs.say("stopping", under_way=server.num_under_way, sockets=server.num_sockets)
    loop = asyncio.get_running_loop()
    until = loop.time() + server.settings.grace_seconds
    while (server.num_under_way or server.num_sockets) and loop.time() < until:
        await asyncio.sleep(POLL_SECONDS)
    logs.say("stopped", left=server.num_under_way + server.num_sockets)
    runner.should_exit = True


async def reloaded(server: Server) -> None:
    """Loads all models anew; if that fails, they stay as they are."""
    try:
        logs.say("reloaded", models=await asyncio.to_thread(server.models.reload))
    except UserError as problem:
        logs.say("reload failed", error=str(problem))
