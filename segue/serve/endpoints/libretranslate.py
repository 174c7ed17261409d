"""How do clients of LibreTranslate translate? `POST /translate` and `GET /languages`, as LibreTranslate has them.

`GET /frontend/settings` is there, too; its other paths refuse plainly. Errors have its form: {"error": "text"}.
"""

import asyncio
import re
from functools import cache, partial
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from segue.serve import bodies
from segue.serve.endpoint import Endpoint, Server, note, server_of
from segue.serve.endpoints.translations import (
    MOST_BEST,
    check_languages,
    check_length,
    most_bytes,
    translated,
)
from segue.serve.guard import check_key, key_in
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError

if find_spec("iso639") is None:
    raise ModuleNotFoundError("python-iso639 is needed", name="python-iso639")

UNKNOWN = "und"
"""ISO 639's code for a language that is not known."""
TYPING_MILLISECONDS = 500
"""LibreTranslate's default."""
ABSENT = {
    "/detect": "this server does not recognize languages: name the source of a text, or leave it to /translate (auto)",
    "/translate_file": "files are translated by POST /v1/translations",
    "/suggest": "this server takes no suggestions",
    "/spec": "GET /openapi.json describes the endpoints",
}
"""Paths of LibreTranslate's that are not here, and what clients are told instead."""


class LibreRequest(BaseModel, extra="forbid", frozen=True):
    """A text to be translated, or several."""

    q: str | list[str]
    source: str = "auto"
    target: str
    format: Literal["text", "html"] = "text"
    """html is refused: tags would be translated."""
    alternatives: Annotated[int, Field(ge=0, lt=MOST_BEST)] = 0
    """So many translations besides the best."""
    api_key: str | None = None
    """Instead of a bearer's."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: object) -> object:
        return bodies.without_nulls(values)


class LibreTranslation(BaseModel):
    """A translation, or several."""

    translatedText: str | list[str]  # noqa: N815 (LibreTranslate's name)
    alternatives: list[str] | list[list[str]] | None = None


class Language(BaseModel):
    """A language that can be translated, and into which."""

    code: str
    name: str
    targets: list[str]


class NamedLanguage(BaseModel):
    """A language."""

    code: str
    name: str


class LanguagePair(BaseModel):
    """What is chosen at first."""

    source: NamedLanguage
    target: NamedLanguage


class FrontendSettings(BaseModel):
    """What a client should know before it asks, by LibreTranslate's names."""

    charLimit: int  # noqa: N815
    """Longest text of a request, in characters."""
    frontendTimeout: int  # noqa: N815
    """Milliseconds to wait for more typing, as LibreTranslate has them."""
    apiKeys: bool  # noqa: N815
    keyRequired: bool  # noqa: N815
    suggestions: bool
    filesTranslation: bool  # noqa: N815
    supportedFilesFormat: list[str]  # noqa: N815
    language: LanguagePair


class Languages(RootModel[list[Language]]):
    """All languages."""


def chosen(server: Server, source: str, target: str) -> Loaded:
    """The first model that translates between these languages. Raises a RefusedError."""
    known = server.models.some("translation")
    for loaded in known:
        reads = loaded.source_language
        if target in loaded.target_languages and (source == "auto" or reads is None or source == reads):
            return loaded
    pairs = ", ".join(f"{each.source_language or 'any'} to {code}" for each in known for code in each.target_languages)
    message = f"{source[:50]!r} to {target[:50]!r}: no model translates that way ({pairs or 'see segue serve --pair'})"
    raise RefusedError(400, message, "invalid_value", "target")


async def translate(request: Request) -> Response:
    """Answers `POST /translate`."""
    server = server_of(request)
    if bodies.check_kind(request, bodies.JSON, bodies.FORM, bodies.MULTIPART) == bodies.JSON:
        asked = await bodies.of_json(request, LibreRequest, most_bytes(server))
    else:
        # Whether there is a key is known only afterwards: nobody without one fills the disk.
        async with bodies.of_form(request, LibreRequest, most_bytes(server)) as (asked, upload):
            if upload is not None:
                raise RefusedError(
                    400, "file: q is wanted here; POST /v1/translations takes files", "invalid_value", "file"
                )
    check_key(key_in(request.headers) or asked.api_key, server.settings.keys)
    if asked.format == "html":
        raise RefusedError(400, "format: only text is translated, not html", "invalid_value", "format")
    texts = [asked.q] if isinstance(asked.q, str) else asked.q
    check_length(server, sum(map(len, texts)))
    loaded = chosen(server, asked.source, asked.target)
    note(request, model=loaded.name, characters=sum(map(len, texts)))
    target = check_languages(loaded, asked.source, asked.target)
    work = partial(translated, loaded, texts, target, 1 + asked.alternatives)
    found, _ = await server.workers.answer(request, [loaded], work)
    if server.settings.logs_texts:
        note(request, text=[each.text for each in found])
    others = [[each.text for each in (one.alternatives or [])[1:]] for one in found]
    is_one = isinstance(asked.q, str)
    shown = LibreTranslation(
        translatedText=found[0].text if is_one else [each.text for each in found],
        alternatives=(others[0] if is_one else others) if asked.alternatives else None,
    )
    return JSONResponse(shown.model_dump(exclude_none=True))


@cache
def name_of(code: str) -> str:
    """The English name of a language: German for de, Portuguese (BR) for pt-BR; the code if ISO 639 has none."""
    from iso639 import Language as Known  # reads all of ISO 639, which takes longer than the rest of a start
    from iso639 import LanguageNotFoundError

    main, *more = re.split("[-_]", code)
    try:
        name = Known.match(main.lower()).name
    except LanguageNotFoundError:
        return code
    name = re.sub(r" \(.*\)$", "", name)  # Modern Greek (1453-)
    return f"{name} ({'-'.join(more)})" if more else name


async def languages(request: Request) -> Response:
    """Answers `GET /languages`."""
    found: dict[str, dict[str, None]] = {}
    for loaded in server_of(request).models.of("translation"):
        code = loaded.source_language or UNKNOWN
        found.setdefault(code, {}).update(dict.fromkeys(loaded.target_languages))
        for target in loaded.target_languages:
            found.setdefault(target, {})
    names = await asyncio.to_thread(lambda: [name_of(code) for code in found])  # reads a table the first time
    shown = [
        Language(code=code, name=name, targets=list(targets))
        for (code, targets), name in zip(found.items(), names, strict=True)
    ]
    return JSONResponse([each.model_dump() for each in shown])


async def settings(request: Request) -> Response:
    """Answers `GET /frontend/settings`. Raises a RefusedError if no model translates."""
    server = server_of(request)
    first = server.models.some("translation")[0]
    codes = first.source_language or UNKNOWN, next(iter(first.target_languages), UNKNOWN)
    source, target = await asyncio.to_thread(lambda: [NamedLanguage(code=each, name=name_of(each)) for each in codes])
    has_keys = bool(server.settings.keys)
    found = FrontendSettings(
        charLimit=server.settings.characters,
        frontendTimeout=TYPING_MILLISECONDS,
        apiKeys=has_keys,
        keyRequired=has_keys,
        suggestions=False,
        filesTranslation=False,
        supportedFilesFormat=[],
        language=LanguagePair(source=source, target=target),
    )
    return JSONResponse(found.model_dump())


async def absent(request: Request) -> Response:
    """Answers the paths in `ABSENT`."""
    raise RefusedError(404, ABSENT[request.scope["path"]], "unknown_path")


ENDPOINTS = [
    Endpoint(
        "POST",
        "/translate",
        translate,
        "LibreTranslate's translation of texts",
        body=LibreRequest,
        kinds=(bodies.JSON, bodies.FORM, bodies.MULTIPART),
        results={"application/json": LibreTranslation},
        has_own_key=True,
        has_plain_errors=True,
    ),
    Endpoint(
        "GET",
        "/languages",
        languages,
        "LibreTranslate's list of languages",
        results={"application/json": Languages},
        is_open=True,  # as LibreTranslate's, whose clients send their key in a body here, or not at all
        has_plain_errors=True,
    ),
    Endpoint(
        "GET",
        "/frontend/settings",
        settings,
        "LibreTranslate's limits",
        results={"application/json": FrontendSettings},
        is_open=True,
        has_plain_errors=True,
    ),
]
