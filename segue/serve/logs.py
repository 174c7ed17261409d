"""What does a server write while it runs? A line of JSON for each request and event, on standard error.

Exceptions quote what they choke on, so their messages are left out like texts: what remains is where it happened.
"""

import json
import logging
import sys
import time
import traceback
from typing import Any

LOGGER = logging.getLogger("segue.serve")


class _Lines(logging.Formatter):
    """Records as JSON."""

    def __init__(self, *, has_texts: bool) -> None:
        super().__init__()
        self._has_texts = has_texts

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        values: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": message if self._has_texts else message.partition("\n")[0],  # asyncio goes on with an exception
            **getattr(record, "values", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            problem = record.exc_info[1]
            values["traceback"] = "".join(traceback.format_exception(problem)) if self._has_texts else _places(problem)
        return json.dumps(values, ensure_ascii=False, default=str)


SAID = (
    "ASGI callable returned without completing handshake.",  # of each WebSocket that is refused
    "Invalid HTTP request received.",
    "Cancel %s running task(s), timeout graceful shutdown exceeded",
    "ASGI callable returned without completing response.",  # of each answer that is cut then
    "Invalid UTF-8 sequence received from client.",
    "Unsupported upgrade request.",  # it is answered as if it asked for none, as that of curl --http2
    "No supported WebSocket library detected. Please use \"pip install 'uvicorn[standard]'\", or install 'websockets' "
    "or 'wsproto' manually.",  # there is one, but answers are unread
)
"""What uvicorn says of what has a line of its own."""


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg not in SAID


def _places(problem: BaseException) -> str:
    """The tracebacks, without messages, of an exception and, before it, of its causes and of the parts of a group.

    Each comes once: exceptions may be causes of each other.
    """
    found, seen, left = list[str](), set[int](), [problem]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        found.append(f"{''.join(traceback.format_tb(each.__traceback__))}{type(each).__qualname__}\n")
        before = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        left += [before] if before is not None else []
        left += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
    return "\n".join(reversed(found))


def start(*, has_texts: bool) -> None:
    """Turns the lines on; `has_texts`: with the messages of exceptions, which may have texts of requests."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(has_texts=has_texts))
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)  # it quotes bodies; refusals have their line
    for name in ("segue.serve", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.addFilter(_is_news)
        logger.setLevel(logging.INFO if name == "segue.serve" else logging.WARNING)


def say(event: str, **values: object) -> None:
    """Writes an event."""
    LOGGER.info(event, extra={"values": values})


def fail(event: str, problem: BaseException, **values: object) -> None:
    """Writes an event that is a bug, with its traceback."""
    LOGGER.error(event, exc_info=problem, extra={"values": values})
