"""What does the server say of itself? An OpenAPI document from the endpoints, and a page that shows it."""

import html
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from segue.serve import bodies
from segue.serve.endpoint import Endpoint

EVENTS = "text/event-stream"
SCHEMAS = "#/components/schemas/{model}"
_REFUSALS = {
    400: "The request is wrong",
    401: "The API key is missing or not known",
    403: "The origin of the page may not use the server",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "Too large, or too long",
    415: "The body has another content type",
    422: "A model cannot be loaded",
    429: "Too many requests; Retry-After says when to try again",
    503: "Stopping, or not finished in time",
}


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """An error, in OpenAI's form."""

    error: ErrorDetail


class PlainError(BaseModel):
    """An error, in LibreTranslate's form."""

    error: str


def document(endpoints: Sequence[Endpoint], has_keys: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of endpoints."""
    inputs = [each for endpoint in endpoints for each in (endpoint.body, endpoint.form) if each is not None]
    outputs = [each for endpoint in endpoints for each in _results(endpoint)]
    results: list[type[BaseModel]] = [*outputs, Error, PlainError]
    asked: list[tuple[type[BaseModel], Any]] = [(each, "validation") for each in dict.fromkeys(inputs)]
    asked += [(each, "serialization") for each in dict.fromkeys(results)]
    references, definitions = models_json_schema(asked, ref_template=SCHEMAS)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references, has_keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Segue",
            "version": metadata.version("segue"),
            "description": "Models that were trained with Segue, over OpenAI's and LibreTranslate's interfaces. "
            "`WS /v1/audio/stream` takes sound while it is recorded, with Vosk's messages.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if has_keys else {}),
        },
    }


def _results(endpoint: Endpoint) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    for each in endpoint.results.values():
        found += each if isinstance(each, tuple) else [each] if each is not None else []
    return found


def _operation(endpoint: Endpoint, references: Any, has_keys: bool) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for kind, model in endpoint.results.items():
        every = model if isinstance(model, tuple) else (model,)
        schemas = [{"type": "string"} if each is None else references[each, "serialization"] for each in every]
        if kind == EVENTS:  # a stream of events has no schema as a whole
            answers[kind] = {}
            continue
        answers[kind] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    kind_of_error = PlainError if endpoint.has_plain_errors else Error
    error = {"application/json": {"schema": references[kind_of_error, "serialization"]}}
    statuses = [400, 403, 404, 408, 413, 429, 503] + [401] * has_keys + [415] * bool(endpoint.kinds)
    statuses += [401, 422] if endpoint.path.startswith("/admin") else []
    found: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method.lower()}{endpoint.path.replace('/', '_').translate({123: None, 125: None})}",
        "responses": {
            "200": {"description": "The answer", "content": answers},
            **{str(status): {"description": _REFUSALS[status], "content": error} for status in sorted(set(statuses))},
        },
    }
    if has_keys and not endpoint.is_open:
        found["security"] = [{"key": []}]
    names = [part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")]
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if endpoint.body is not None:
        content: dict[str, Any] = {}
        for kind in endpoint.kinds:
            fields = endpoint.body if kind == bodies.JSON or endpoint.form is None else endpoint.form
            if kind == bodies.MULTIPART and endpoint.has_file:
                schema = TypeAdapter(fields).json_schema(ref_template=SCHEMAS)
                schema.pop("$defs", None)
                schema["properties"] = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
                schema["required"] = ["file", *schema.get("required", ())]
                content[kind] = {"schema": schema}
            else:
                content[kind] = {"schema": references[fields, "validation"]}
        found["requestBody"] = {"required": True, "content": content}
    return found


def page(described: dict[str, Any]) -> str:
    """The document as HTML that loads nothing."""
    rows = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            rows.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>"
            )
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                rows.append(f"<h3>Body: {html.escape(kind)}</h3>{_table(content['schema'], described)}")
            for kind, content in operation["responses"]["200"]["content"].items():
                schema = content.get("schema", {"type": "events"})
                schemas = schema.get("anyOf", [schema])
                rows += [f"<h3>Answer: {html.escape(kind)}</h3>{_table(each, described)}" for each in schemas]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>Segue: endpoints</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;"
        "margin:2rem auto;padding:0 1rem;color-scheme:light dark}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
        "h3{font-size:1rem}h2{border-top:1px solid #8888;padding-top:1rem;font-size:1.2rem}</style>"
        f"<h1>Segue: endpoints</h1><p>{html.escape(described['info']['description'])} "
        f"As a document for programs: <a href=openapi.json>openapi.json</a>.</p>{''.join(rows)}</html>"
    )


def _table(schema: dict[str, Any], described: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    schema = described["components"]["schemas"].get(name, schema)
    needed = schema.get("required", ())
    rows = [
        f"<tr><td><code>{html.escape(key)}</code>{' *' if key in needed else ''}<td>{html.escape(_type(value))}"
        f"<td>{html.escape(value.get('description', ''))}"
        for key, value in schema.get("properties", {}).items()
    ]
    return f"<table>{''.join(rows)}</table>" if rows else f"<p>{html.escape(_type(schema))}</p>"


def _type(schema: dict[str, Any]) -> str:
    """A type in words."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("const", schema.get("format", schema.get("type", ""))))
