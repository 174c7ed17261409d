"""`segue serve`: models over HTTP and WebSockets."""

import os
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from segue.commands import options
from segue.errors import UserError, missing_extra, note

if TYPE_CHECKING:
    from segue.serve.loaded import Source

SUMMARY = "models over HTTP, as OpenAI's clients ask for them"
EXAMPLE = "segue serve digits_onnx en-de=translator --port 8000"
KEYS, ADMIN_KEY = "SEGUE_API_KEYS", "SEGUE_ADMIN_KEY"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        help="run, model or exported directories; NAME=DIRECTORY gives one a name other than the directory's",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1; all: 0.0.0.0)")
    parser.add_argument(
        "--port", type=options.whole, default=8000, help="port to listen on (default: 8000; 0: any that is free)"
    )
    parser.add_argument(
        "--pair",
        metavar="NAME=SOURCE:TARGET",
        action="append",
        default=[],
        help="languages of a translator whose training data did not name them, as film=en:de",
    )
    parser.add_argument("--keys", metavar="FILE", type=Path, help=f"API keys, one a line (or {KEYS}, with commas)")
    parser.add_argument("--admin-key", metavar="FILE", type=Path, help=f"key of POST /admin/reload (or {ADMIN_KEY})")
    parser.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="name in the Host header; *: all"
    )
    parser.add_argument(
        "--allow-origin", metavar="ORIGIN", action="append", default=[], help="whose pages may use it, as https://a.org"
    )
    limits = parser.add_argument_group("limits")
    for flag, kind, default, meaning in LIMITS:
        limits.add_argument(flag, metavar="N", type=kind, default=default, help=f"{meaning} (default: {default:g})")
    parser.add_argument("--log-texts", action="store_true", help="write what was said into the log")
    options.device(parser)


LIMITS = (
    ("--body-megabytes", options.positive, 100, "largest body of a request"),
    ("--audio-seconds", options.positive, 7200, "longest recording or stream"),
    ("--characters", options.positive, 100_000, "longest text of a request"),
    ("--tokens", options.positive, 4096, "most tokens of a completion"),
    ("--requests", options.positive, 128, "most requests at a time for a model"),
    ("--timeout-seconds", options.above_zero, 600.0, "longest time of a request"),
    ("--head-seconds", options.above_zero, 20.0, "longest time of a request's head"),
    ("--bytes-per-second", options.positive, 1000, "slowest body, after so many seconds"),
    ("--sockets", options.positive, 64, "most WebSockets at a time"),
    ("--idle-seconds", options.above_zero, 60.0, "a WebSocket with no messages, or no sound, for so long is closed"),
    ("--grace-seconds", options.above_zero, 30.0, "when stopped, finish what is under way for at most so long"),
    ("--wait-milliseconds", options.number, 5.0, "longest wait of a batch for other requests"),
    ("--batch-seconds", options.above_zero, 48.0, "largest batch of sound"),
    ("--batch-items", options.positive, 32, "most recordings or sentences in a batch"),
)


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    from segue import progress, tasks

    try:
        from segue.serve import app, logs, server
        from segue.serve.settings import Settings
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "starlette", "serve") from None

    settings = Settings(
        host=given.host,
        port=_port(given.port),
        keys=_keys(given.keys, KEYS),
        admin_key=_admin_key(given.admin_key),
        hosts=tuple(given.allow_host),
        origins=tuple(each.rstrip("/") for each in given.allow_origin),
        logs_texts=given.log_texts,
        **{key: getattr(given, key) for flag, *_ in LIMITS for key in [flag[2:].replace("-", "_")]},
    )
    progress.hide()  # bars of requests would be drawn over the log
    sources = _sources(given)
    with server.listening(settings.host, settings.port) as listening:  # before models are loaded, which takes longer
        note(f"loads {', '.join(_shown(source) for source in sources)}")
        loaded = app.start(sources, lambda path: tasks.load(path, given.device), settings)
        logs.start(has_texts=settings.logs_texts)
        server.run(loaded, listening)
    return 0


def _port(port: int) -> int:
    if port > 65535:
        raise UserError(f"--port {port}: at most 65535")
    return port


def _sources(given: Namespace) -> "list[Source]":
    """The models of the command line."""
    from segue.serve.loaded import Source

    pairs: dict[str, tuple[str, str]] = {}
    for pair in given.pair:
        found = re.fullmatch(r"([^=]+)=([\w-]+):([\w-]+)", pair)
        if found is None:
            raise UserError(f"--pair {pair}: NAME=SOURCE:TARGET wanted, as film=en:de")
        pairs[found[1]] = (found[2], found[3])
    sources = []
    for each in given.models:
        name, separator, path = each.partition("=")
        if not separator or Path(each).exists():
            name, path = Path(each).resolve().name, each
        if not name or not path:
            raise UserError(f"{each}: NAME=DIRECTORY wanted")
        if not Path(path).exists():
            raise UserError(f"{path}: no such directory")
        sources.append(Source(name, Path(path), pairs.pop(name, None)))
    if pairs:
        raise UserError(
            f"--pair {next(iter(pairs))}: no model has this name ({', '.join(each.name for each in sources)})"
        )
    return sources


def _shown(source: "Source") -> str:
    """A model with its directory, if that says more than its name."""
    return source.name if source.name == str(source.path) else f"{source.name} ({source.path})"


def _keys(path: Path | None, variable: str) -> tuple[str, ...]:
    """The keys in a file, one a line, or in a variable of the environment, separated by commas."""
    from segue.data.encodings import decode
    from segue.data.manifest import read_content

    if path is None:
        if variable not in os.environ:
            return ()
        found = [each.strip() for each in os.environ[variable].split(",")]
    else:
        found = [line.strip() for line in decode(read_content(path, "file of keys"), path).splitlines()]
    keys = tuple(each for each in found if each and not each.startswith("#"))
    if not keys:
        raise UserError(f"{path or variable}: holds no key; without it, no key is asked for")
    return keys


def _admin_key(path: Path | None) -> str | None:
    keys = _keys(path, ADMIN_KEY)
    if len(keys) > 1:
        raise UserError(f"{path or ADMIN_KEY}: holds {len(keys)} keys; one is wanted")
    return next(iter(keys), None)
