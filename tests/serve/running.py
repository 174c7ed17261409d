"""A server in a thread of this process."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from segue import tasks
from segue.serve import app, server
from segue.serve.endpoint import Server
from segue.serve.loaded import Source
from segue.serve.settings import Settings


@dataclass
class Running:
    """A server that runs."""

    url: str
    server: Server
    runner: uvicorn.Server

    @property
    def socket_url(self) -> str:
        return self.url.replace("http:", "ws:") + "/v1/audio/stream"


@contextmanager
def running(sources: Sequence[Source], load: Any = tasks.load, **settings: Any) -> Iterator[Running]:
    """A server of these models on a free port."""
    shared = app.start(sources, load, Settings(port=0, **settings))
    runner = uvicorn.Server(server.config(shared, app.application(shared)))
    thread = threading.Thread(target=lambda: asyncio.run(runner.serve()), daemon=True)
    thread.start()
    while not runner.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = runner.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", shared, runner)
    finally:
        runner.should_exit = True
        thread.join()
        app.close(shared)
