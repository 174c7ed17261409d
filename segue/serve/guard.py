"""What happens to a request before and after its endpoint? Host, origin, key and size are checked; errors become JSON;
each request has an id, a line in the log and its place in the metrics."""

import asyncio
import hmac
import ipaddress
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, State
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segue.serve import logs
from segue.serve.endpoint import Server, note
from segue.serve.refusals import RefusedError
from segue.serve.work import GONE

UNKNOWN = "unknown"
"""Name of all paths that no route has, and of requests whose head never became complete."""
_ID = re.compile(r"[\w.:-]{1,100}\Z", re.ASCII)
KEY_PROTOCOL = "openai-insecure-api-key."
"""Begins the WebSocket subprotocol that has a key: browsers cannot send headers with WebSockets."""
LEAST_SECONDS = 0.001
"""What has arrived is taken, however late it is."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Access(NamedTuple):
    """The paths of an application, by their names in routes, as /v1/models/{model}."""

    patterns: Mapping[str, re.Pattern[str]]
    """What the paths of each name match."""
    open: frozenset[str]
    """Those that need no key."""
    own_keys: frozenset[str]
    """Those that check it themselves."""
    plain_errors: frozenset[str]
    """Those whose errors have LibreTranslate's form."""

    def name_of(self, path: str) -> str:
        """The name of a path. There are few of them, whatever clients ask for."""
        return next((name for name, pattern in self.patterns.items() if pattern.match(path)), UNKNOWN)


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, server: Server, access: Access) -> None:
        self._app, self._server, self._access = app, server, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request or a WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        identity = given if _ID.match(given) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": identity}
        scope["segue"] = self._server
        scope["app"] = self
        path = self._access.name_of(scope["path"])
        answer = _Answer(send, identity, self._cross_origin(headers))
        started = time.monotonic()
        is_http = scope["type"] == "http"
        self._server.num_under_way += is_http
        self._server.metrics.under_way.inc(is_http)
        refused: RefusedError | None = None
        try:
            self._check(scope, headers, path)
            if is_http and scope["method"] == "OPTIONS" and answer.origin:
                await _preflight(answer)
            else:
                await self._app(scope, _Body(receive, self._server) if is_http else receive, answer)
        except Exception as problem:
            refused = _of(problem)
            if refused.status == 500:
                logs.fail("error", problem, id=identity)
        except asyncio.CancelledError:
            if not self._server.stopping.is_set():
                raise
            refused = _stopping()  # the time for what is under way is over
        finally:
            if refused is not None and not answer.has_started and refused.status != GONE:
                await _refuse(scope, answer, refused, is_plain=path in self._access.plain_errors)
            self._server.num_under_way -= is_http
            self._server.metrics.under_way.dec(is_http)
        self._tell(scope, path, identity, answer, refused, time.monotonic() - started)

    def _check(self, scope: Scope, headers: Headers, path: str) -> None:
        """Raises a RefusedError for a request that no endpoint should see."""
        self._check_host(headers.getlist("host"), scope["http_version"])
        origin = headers.get("origin")
        if origin and not self._cross_origin(headers) and _host_of(origin) != headers.get("host"):
            raise RefusedError(403, "pages of other origins may not use this server (--allow-origin)", "wrong_origin")
        if self._server.stopping.is_set() and path not in self._access.open:
            raise _stopping()
        if path not in self._access.open | self._access.own_keys and scope.get("method") != "OPTIONS":
            check_key(key_in(headers), self._server.settings.keys)
        length = headers.get("content-length", "")
        most = self._server.settings.body_megabytes * 10**6
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            raise _too_large(most)

    def _check_host(self, every: list[str], version: str) -> None:
        if not every and version == "1.0":  # which asks for none; probes of proxies send none
            every = [""]
        if len(every) != 1:  # RFC 9112, 3.2
            raise RefusedError(400, f"one Host header is wanted, not {len(every) or 'none'}", "wrong_host")
        [given] = every
        settings = self._server.settings
        name = given.rpartition(":")[0] if re.search(r":\d*\Z", given) else given
        known = {"localhost", settings.host, *settings.hosts}
        if "*" in known or name.lower() in {each.lower() for each in known}:
            return
        try:
            ipaddress.ip_address(name.strip("[]"))  # only a name can be another page's that leads here
        except ValueError:
            raise RefusedError(
                400, f"this server does not go by the name {name[:100]!r} (--allow-host)", "wrong_host"
            ) from None

    def _cross_origin(self, headers: Headers) -> str | None:
        """The origin of a page that may use the server, if it is another one."""
        origin, known = headers.get("origin"), self._server.settings.origins
        return origin if origin and ("*" in known or origin in known) else None

    def _tell(
        self, scope: Scope, path: str, identity: str, answer: "_Answer", refused: RefusedError | None, seconds: float
    ) -> None:
        state = State(scope["state"])
        noted: dict[str, Any] = getattr(state, "noted", {})
        status = refused.status if refused is not None and not answer.has_started else answer.status
        model = str(noted.get("model", ""))
        self._server.metrics.requests.labels(path, model, str(status)).inc()
        if scope["type"] == "http":
            self._server.metrics.seconds.labels(path, model).observe(seconds)
        client = scope.get("client") or ("", 0)
        logs.say(
            "request",
            id=identity,
            method=scope.get("method", "WS"),
            path=path,
            status=status,
            seconds=round(seconds, 4),
            client=client[0],
            **noted | ({"error": refused.code or refused.message} if refused is not None else {}),
        )


class _Body:
    """Receives a body: not more than allowed, and not slower, on the whole: a byte now and then is not enough."""

    def __init__(self, receive: Receive, server: Server) -> None:
        self._receive, self._left = receive, server.settings.body_megabytes * 10**6
        self._most = self._left
        self._settings = server.settings
        self._started = time.monotonic()
        self._is_read = False

    async def __call__(self) -> Message:
        if self._is_read:
            return await self._receive()
        try:
            async with asyncio.timeout(max(LEAST_SECONDS, self._started + self._seconds - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(
                408, "the body did not arrive in time", "slow_body", headers={"connection": "close"}
            ) from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise _too_large(self._most)
            self._is_read = not message.get("more_body", False)
        return message

    @property
    def _seconds(self) -> float:
        """How long the client may take until more of the body comes, from its start."""
        settings = self._settings
        earned = (self._most - self._left) / settings.bytes_per_second
        return min(settings.timeout_seconds, settings.head_seconds + earned)


class _Answer:
    """Sends an answer, with headers that all have."""

    def __init__(self, send: Send, identity: str, origin: str | None) -> None:
        self._send, self._identity, self.origin = send, identity, origin
        self.has_started, self.status = False, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.has_started, self.status = True, message["status"]
            more = [*HEADERS, (b"x-request-id", self._identity.encode())]
            if self.origin:
                more += [
                    (b"access-control-allow-origin", self.origin.encode()),
                    (b"access-control-expose-headers", b"x-request-id, segue-ignored, segue-warnings, retry-after"),
                    (b"vary", b"Origin"),
                ]
            message["headers"] = [*message.get("headers", []), *more]
        elif message["type"] == "websocket.accept":
            self.has_started, self.status = True, 101
        await self._send(message)


def check_key(given: str | None, keys: Iterable[str]) -> None:
    """Raises a RefusedError with 401 if there are keys and this is none of them. All wrong keys take as long."""
    keys = tuple(keys)
    if not keys:
        return
    headers = {"www-authenticate": "Bearer"}
    if not given:
        raise RefusedError(401, "an API key is needed: Authorization: Bearer KEY", "missing_api_key", headers=headers)
    matches = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
    if not any(matches):
        raise RefusedError(401, "this API key is not known", "invalid_api_key", headers=headers)


def key_in(headers: Headers) -> str | None:
    """The API key of a request: a bearer's, or that of a WebSocket's subprotocol."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    protocols = [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]
    return next((each.removeprefix(KEY_PROTOCOL) for each in protocols if each.startswith(KEY_PROTOCOL)), None)


def _host_of(origin: str) -> str | None:
    """The name and port of an origin; None if it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # a bracket that does not close
        return None


def _stopping() -> RefusedError:
    headers = {"retry-after": "5", "connection": "close"}
    return RefusedError(503, "the server is stopping", "stopping", headers=headers)


def _too_large(most: int) -> RefusedError:
    message = f"the body is larger than {most:,} bytes"
    return RefusedError(413, message, "body_too_large", headers={"connection": "close"})


def _of(problem: Exception) -> RefusedError:
    """What a client is told of an exception."""
    if isinstance(problem, RefusedError):
        return problem
    if isinstance(problem, ClientDisconnect):
        return RefusedError(GONE, "the client left")
    if isinstance(problem, HTTPException) and problem.status_code in (404, 405):
        messages = {
            404: "there is nothing at this path; /docs names those that there are",
            405: "this path does not have that method",
        }
        code = {404: "unknown_path", 405: "method_not_allowed"}[problem.status_code]
        return RefusedError(problem.status_code, messages[problem.status_code], code, headers=problem.headers)
    return RefusedError(500, "an error of the server; its log has more under the id of this request", "internal_error")


def failed(request: HTTPConnection, problem: Exception) -> RefusedError:
    """What a client is told of an exception once its answer has begun; the log has it, too."""
    refused = _of(problem)
    if refused.status == 500:
        logs.fail("error", problem, id=request.state.request_id)
    note(request, error=refused.code or refused.message)
    return refused


async def _refuse(scope: Scope, send: Callable[[Message], Any], refused: RefusedError, *, is_plain: bool) -> None:
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": refused.message[:100]})
        return
    written = refused.written(is_plain=is_plain)
    body = b"" if scope.get("method") == "HEAD" else written
    headers = {"content-type": "application/json", "content-length": str(len(written)), **refused.headers}
    pairs = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": f"{kind}.start", "status": refused.status, "headers": pairs})
    await send({"type": f"{kind}.body", "body": body})


async def _preflight(send: Callable[[Message], Any]) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
