"""What does a server write while it runs? A line of JSON for each request and event, on standard error."""

import json
import logging
import sys
import time
import traceback
from typing import Any

LOGGER = logging.getLogger("segue.serve")


class _Lines(logging.Formatter):
    """Records as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "values", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            values["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(values, ensure_ascii=False, default=str)


def _is_true(record: logging.LogRecord) -> bool:
    """False for what uvicorn says of each WebSocket that was refused with a status and a body."""
    return record.msg != "ASGI callable returned without completing handshake."


def start() -> None:
    """Turns the lines on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name in ("segue.serve", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.addFilter(_is_true)
        logger.setLevel(logging.INFO if name == "segue.serve" else logging.WARNING)


def say(event: str, **values: object) -> None:
    """Writes an event."""
    LOGGER.info(event, extra={"values": values})


def fail(event: str, problem: BaseException, **values: object) -> None:
    """Writes an event that is a bug, with its traceback."""
    LOGGER.error(event, exc_info=problem, extra={"values": values})
