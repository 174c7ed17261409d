"""What may a client ask for? Limits and access, each an option of `segue serve`."""

from typing import Annotated

from pydantic import Field

from segue.recipe import Section

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(Section):
    """Limits and access of a server."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port; 0: any free one."""
    body_megabytes: Positive = 100
    """Largest body of a request, in 10^6 bytes."""
    audio_seconds: Positive = 7200
    """Longest recording, and longest stream of a WebSocket."""
    characters: Positive = 100_000
    """Longest text of a request."""
    tokens: Positive = 4096
    """Most tokens that a completion may ask for, over all its choices."""
    requests: Positive = 128
    """Most requests at a time for a model; more get 429."""
    timeout_seconds: Seconds = 600.0
    """A request that takes longer gets 503; a client that takes longer to send its body 408."""
    head_seconds: Seconds = 20.0
    """A client that takes longer to send the head of a request gets 408."""
    bytes_per_second: Positive = 1000
    """A client that sends a body more slowly gets 408; the first `head_seconds` are free."""
    sockets: Positive = 64
    """Most WebSockets at a time."""
    idle_seconds: Seconds = 60.0
    """A WebSocket that completes no message in this time is closed, and one that brings far too little sound."""
    grace_seconds: Seconds = 30.0
    """When it is stopped, the server finishes what is under way for at most this long."""
    wait_milliseconds: Annotated[float, Field(ge=0)] = 5.0
    """Longest wait of a batch for other requests that are being read."""
    batch_seconds: Seconds = 48.0
    """Largest batch of sound, padded: its duration times its number of recordings."""
    batch_items: Positive = 32
    """Most recordings or sentences in a batch."""
    keys: tuple[str, ...] = ()
    """API keys; empty: none is needed."""
    admin_key: str | None = None
    """Key of `POST /admin/reload`; None: there is no such endpoint."""
    hosts: tuple[str, ...] = ()
    """Names in the Host header that are answered, besides localhost, addresses and `host`; "*": all."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may use the server (CORS), as https://example.org; "*": all."""
    logs_texts: bool = False
    """Whether logs have the texts of requests and answers."""
