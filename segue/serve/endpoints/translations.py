"""How is a text or a subtitle file translated over HTTP? `POST /v1/translations`, which is Segue's own."""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from segue.data.encodings import decode, split_lines
from segue.data.subtitles import translation
from segue.data.subtitles.lines import Form
from segue.data.subtitles.translation import Shape
from segue.errors import UserError, gathered
from segue.serve import bodies
from segue.serve.endpoint import Endpoint, Server, note, server_of
from segue.serve.endpoints.transcriptions import headers_of
from segue.serve.forms import Upload
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError

MOST_BEST = 20
MOST_BEAMS = 50
MEDIA: dict[str, str] = {"srt": "application/x-subrip", "vtt": "text/vtt", "ass": "text/x-ssa", "txt": "text/plain"}


class TranslationRequest(BaseModel, extra="forbid", frozen=True):
    """Texts to be translated."""

    model: str | None = None
    """A name of `GET /v1/models`; may be left out if there is only one that translates."""
    input: str | list[str]
    """A text, or several."""
    source: str | None = None
    """Source language; a model reads one language, or tells them apart itself."""
    target: str | None = None
    """Target language, needed if the model has several."""
    n: Annotated[int, Field(ge=1, le=MOST_BEST)] = 1
    """So many best translations of each text; above 1, each text is one sentence."""
    beams: Annotated[int, Field(ge=1, le=MOST_BEAMS)] | None = None
    """Beams of the search; default: the model's, or n if that is more."""


class FileRequest(BaseModel, extra="forbid", frozen=True):
    """A file to be translated."""

    model: str | None = None
    source: str | None = None
    target: str | None = None
    format: Literal["srt", "vtt", "ass", "txt"] | None = None
    """Default: by the name of the file."""
    response_format: Literal["json", "file"] = "json"
    """file: the translated file alone."""
    line_length: Annotated[int, Field(ge=10, le=200)] = 42
    """Of subtitles."""
    reading_speed: Annotated[float, Field(gt=0, le=1000)] = 17.0
    """Characters per second above which to warn."""


class Alternative(BaseModel):
    """One of the best translations."""

    text: str
    score: float
    """Log-probability, normalized by length: higher is better."""


class Translated(BaseModel):
    """A text and its translation."""

    source: str
    text: str
    alternatives: list[Alternative] | None = None
    """With n above 1, best first."""


class Translations(BaseModel):
    """The translations of texts, in order."""

    model: str
    target: str | None
    translations: list[Translated]
    warnings: list[str]


class TranslatedFile(BaseModel):
    """A translated file."""

    model: str
    target: str | None
    format: str
    text: str
    cues: int | None
    """Number of subtitles."""
    warnings: list[str]
    """What a person should check."""


def check_languages(loaded: Loaded, source: str | None, target: str | None) -> str | None:
    """The model's name of a target language. Raises a RefusedError if it does not translate between these languages."""
    known = loaded.source_language
    if source and source != "auto" and known is not None and source != known:
        raise RefusedError(
            400, f"source: the model {loaded.name!r} reads {known}, not {source[:50]!r}", "invalid_value", "source"
        )
    if loaded.source.languages is not None:
        if target and target != loaded.source.languages[1]:
            message = f"target: the model {loaded.name!r} writes {loaded.source.languages[1]}, not {target[:50]!r}"
            raise RefusedError(400, message, "invalid_value", "target")
        return loaded.source.languages[1] if loaded.model.languages else None
    if target and not loaded.model.languages:
        message = (
            f"target: the languages of {loaded.name!r} are not known (segue serve --pair {loaded.name}=SOURCE:TARGET)"
        )
        raise RefusedError(400, message, "invalid_value", "target")
    try:
        loaded.model.check_language(target)
    except UserError as problem:
        raise RefusedError(400, f"target: {problem}", "invalid_value", "target") from None
    return target


def written_language(loaded: Loaded, target: str | None) -> str | None:
    """The language of the translations, if it is known."""
    return target or (loaded.target_languages[0] if len(loaded.target_languages) == 1 else None)


def check_length(server: Server, count: int, param: str = "input") -> None:
    """Raises a RefusedError for too many characters."""
    most = server.settings.characters
    if count > most:
        raise RefusedError(413, f"{count:,} characters; at most {most:,} are accepted", "text_too_long", param)


async def translate(request: Request) -> Response:
    """Answers `POST /v1/translations`."""
    server = server_of(request)
    if bodies.check_kind(request, bodies.JSON, bodies.MULTIPART) == bodies.MULTIPART:
        async with bodies.of_form(request, FileRequest) as (asked, upload):
            return await _translate_file(request, server, asked, upload)
    given = await bodies.of_json(request, TranslationRequest, most_bytes(server))
    texts = [given.input] if isinstance(given.input, str) else given.input
    check_length(server, sum(map(len, texts)))
    loaded = server.models.find(given.model, "translation")
    target = check_languages(loaded, given.source, given.target)
    note(request, model=loaded.name, characters=sum(map(len, texts)))
    found, warnings = await server.workers.answer(
        request, [loaded], partial(translated, loaded, texts, target, given.n, given.beams)
    )
    if server.settings.logs_texts:
        note(request, text=[each.text for each in found])
    shown = Translations(
        model=loaded.name, target=written_language(loaded, target), translations=found, warnings=warnings
    )
    return JSONResponse(
        shown.model_dump(exclude={"translations": {"__all__": {"alternatives"}}} if given.n == 1 else None)
    )


def most_bytes(server: Server) -> int:
    """Largest JSON body of texts."""
    return 12 * server.settings.characters + (1 << 16)  # \\ud83d\\ude00 is one character


def translated(
    loaded: Loaded, texts: list[str], target: str | None, count: int = 1, beams: int | None = None
) -> tuple[list[Translated], list[str]]:
    """The translations of texts, with the `count` best of each, and warnings."""
    model = loaded.model
    search = model.metadata.search
    wanted = beams or max(count, search.beams)
    if wanted != search.beams:
        search = search.model_copy(update={"beams": max(wanted, count)})
    with gathered() as warned:
        if count == 1:
            results = model.translate(texts, target, search)
            found = [Translated(source=text, text=result) for text, result in zip(texts, results, strict=True)]
        else:
            found = []
            longest = model.metadata.longest_tokens
            for number, text in enumerate(texts):
                if len(text.encode()) > longest and model.vocabularies.source.num_tokens([text])[0] > longest:
                    raise UserError(f"input.{number}: n above 1 wants single sentences of at most {longest} tokens")
                best = model.best(text, count, target, search) if text.strip() else [("", 0.0)]
                alternatives = [Alternative(text=each, score=round(score, 5)) for each, score in best]
                found.append(Translated(source=text, text=best[0][0], alternatives=alternatives))
    return found, [each.message for each in warned]


async def _translate_file(request: Request, server: Server, asked: FileRequest, upload: Upload | None) -> Response:
    if upload is None:
        raise RefusedError(400, "file: a file is needed", "missing_required_parameter", "file")
    form = asked.format or upload.suffix.replace("ssa", "ass")
    if form not in MEDIA:
        message = "format: srt, vtt, ass or txt wanted, here or as the ending of the file's name"
        raise RefusedError(400, message, "invalid_value", "format")
    if upload.size > 8 * server.settings.characters:
        raise RefusedError(413, f"file: larger than {8 * server.settings.characters:,} bytes", "text_too_long", "file")
    content = upload.path.read_bytes()
    loaded = server.models.find(asked.model, "translation")
    target = check_languages(loaded, asked.source, asked.target)
    note(request, model=loaded.name)
    shape = Shape(asked.line_length, reading_speed=asked.reading_speed)
    text, count, warnings = await server.workers.answer(
        request, [loaded], partial(_file, server, loaded, content, form, target, shape)
    )
    if server.settings.logs_texts:
        note(request, text=text)
    if asked.response_format == "file":
        kind = f"{MEDIA[form]}; charset=utf-8"
        return PlainTextResponse(text, headers=headers_of([], warnings), media_type=kind)
    language = written_language(loaded, target)
    found = TranslatedFile(model=loaded.name, target=language, format=form, text=text, cues=count, warnings=warnings)
    return JSONResponse(found.model_dump())


def _file(
    server: Server, loaded: Loaded, content: bytes, form: Any, target: str | None, shape: Shape
) -> tuple[str, int | None, list[str]]:
    """The translated content of a file, its number of subtitles, and warnings."""
    with gathered() as warned:
        if form == "txt":
            lines = split_lines(decode(content, "the file")) if content else []
            check_length(server, sum(map(len, lines)))
            text = "".join(line + "\n" for line in loaded.model.translate(lines, target))
            return text, None, [each.message for each in warned]

        def every(texts: list[str]) -> list[str]:
            check_length(server, sum(map(len, texts)))
            results: list[str] = loaded.model.translate(texts, target)
            return results

        kind: Form = form
        found = translation.translate(content, kind, every, shape)
    return found.text, found.num_cues, [*found.warnings, *(each.message for each in warned)]


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/translations",
        translate,
        "The translation of texts, or of a text or subtitle file",
        body=TranslationRequest,
        form=FileRequest,
        kinds=(bodies.JSON, bodies.MULTIPART),
        has_file=True,
        results={"application/json": (Translations, TranslatedFile), **dict.fromkeys(MEDIA.values())},
    )
]
