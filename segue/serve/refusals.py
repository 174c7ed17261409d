"""How does a client learn that its request failed? By a status and an error, in OpenAI's form or LibreTranslate's."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "client_error",
    500: "server_error",
    503: "unavailable_error",
}
"""The type of an error by its status."""


WANTED: Mapping[str, str] = {
    "missing": "it is missing",
    "extra_forbidden": "there is no such field here",
    "model_type": "a JSON object is wanted",
}
"""What pydantic's messages leave open, by their types."""
_OPTION = re.compile(r" \(--[^)]*\)")


def without_options(message: str) -> str:
    """A message without the options of commands in parentheses, which requests do not have."""
    return _OPTION.sub("", message)


class RefusedError(Exception):
    """A request that is not answered as asked."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error in JSON."""
        error = {"message": self.message, "type": TYPES[self.status], "param": self.param, "code": self.code}
        return {"error": error}

    def written(self, *, is_plain: bool = False) -> bytes:
        """The body in bytes; `is_plain`: as LibreTranslate writes it, with the message alone."""
        return json.dumps({"error": self.message} if is_plain else self.body).encode()


def of_fields(problem: ValidationError) -> RefusedError:
    """The refusal of a request with wrong fields: it names the first."""
    first, *others = problem.errors(include_url=False, include_context=False, include_input=False)
    is_one_of_two = first["loc"][-1:] == ("str",)  # a text, or a list of texts
    names = first["loc"][:-1] if is_one_of_two else first["loc"]
    param = ".".join(str(each) for each in names) or None
    wanted = "a text or a list of texts is wanted" if is_one_of_two else WANTED.get(first["type"], str(first["msg"]))
    message = f"{param}: {wanted}" if param else wanted
    more = sum(each["loc"][: len(names)] != names for each in others)
    if more:
        message += f" (and {more} more)"
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return RefusedError(400, message, code, param)
