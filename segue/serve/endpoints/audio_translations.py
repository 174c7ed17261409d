"""How is a recording translated into English? `POST /v1/audio/translations`: a recognizer, then a translator."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from segue.data.subtitles import cues, files, layout, translation
from segue.errors import gathered
from segue.serve import bodies
from segue.serve.endpoint import Endpoint, Server, note, server_of
from segue.serve.endpoints.transcriptions import (
    SUBTITLES,
    Answer,
    Form,
    Segment,
    Transcription,
    VerboseTranscription,
    observe,
    segments,
    transcribed,
    usage_of,
)
from segue.serve.endpoints.translations import check_languages
from segue.serve.loaded import Loaded
from segue.serve.refusals import RefusedError

ENGLISH = "en"


class AudioTranslationRequest(BaseModel, extra="allow", frozen=True):
    """A recording to be translated into English."""

    model: str | None = None
    """A model that recognizes speech; may be left out if there is only one."""
    translator: str | None = None
    """A model that translates into English; may be left out if there is only one."""
    prompt: str | None = None
    """Ignored."""
    response_format: Form = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    """Ignored: recognition draws nothing."""
    channel: str | None = None
    """Of a recording with several channels: left, right, mix or a number from 1."""

    @property
    def ignored(self) -> list[str]:
        """Fields that were given and mean nothing here."""
        given = {"prompt": self.prompt, "temperature": self.temperature}
        return [*(name for name, value in given.items() if value), *sorted(self.model_extra or {})]


def english(server: Server, name: str | None) -> Loaded:
    """The model of this name, which must translate into English; with None, the only one that does."""
    if name:
        loaded = server.models.find(name, "translation", "translator")
        if ENGLISH not in loaded.target_languages:
            message = f"translator: {name!r} is not known to write English (segue serve --pair {name}=SOURCE:en)"
            raise RefusedError(400, message, "invalid_value", "translator")
        return loaded
    found = [each for each in server.models.of("translation") if ENGLISH in each.target_languages]
    if not found:
        raise RefusedError(
            404, "this server has no model that is known to translate into English", "model_not_found", "translator"
        )
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise RefusedError(400, f"translator: which one? ({names})", "missing_required_parameter", "translator")
    return found[0]


async def translate(request: Request) -> Response:
    """Answers `POST /v1/audio/translations`."""
    server = server_of(request)
    bodies.check_kind(request, bodies.MULTIPART)
    async with bodies.of_form(request, AudioTranslationRequest) as (asked, upload):
        if upload is None:
            raise RefusedError(400, "file: a recording is needed", "missing_required_parameter", "file")
        loaded = server.models.find(asked.model, "speech_recognition")
        translator = english(server, asked.translator)
        note(request, model=loaded.name, translator=translator.name)
        return await server.workers.answer(
            request, [loaded, translator], lambda: _answer(request, server, loaded, translator, upload.path, asked)
        )


def _answer(
    request: Request, server: Server, loaded: Loaded, translator: Loaded, path: Path, asked: AudioTranslationRequest
) -> Response:
    recognized = transcribed(server, loaded, path, asked.channel)
    transcript = recognized.transcript
    observe(request, server, loaded, transcript)
    form: Literal["srt", "vtt"] = "vtt" if asked.response_format == "vtt" else "srt"
    said = cues.write(cues.cut(transcript.words, transcript.duration), form)
    target = check_languages(translator, None, ENGLISH)
    with gathered() as warned:
        found = translation.translate(
            said.encode(), form, lambda texts: list(translator.model.translate(texts, target)), translation.Shape()
        )
    recognized.warnings.extend(each.message for each in warned)
    plain = (
        [
            " ".join(layout.read(cue.body, "srt").plain.split())
            for cue in files.read(found.text, "srt", "the translation").cues
        ]
        if said and form == "srt"
        else []
    )
    text = " ".join(filter(None, plain))
    if server.settings.logs_texts:
        note(request, text=[transcript.text, text])

    def verbose() -> VerboseTranscription:
        shown: list[Segment] = [
            segment.model_copy(update={"text": each}) for segment, each in zip(segments(transcript), plain, strict=True)
        ]
        return VerboseTranscription(
            task="translate",
            language=ENGLISH,
            duration=round(transcript.duration, 3),
            text=text,
            segments=shown,
            usage=usage_of(transcript),
            model=loaded.name,
            warnings=recognized.warnings,
            ignored=asked.ignored,
        )

    return Answer(recognized, text, asked.ignored, lambda _: found.text, verbose).written(asked.response_format)


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/audio/translations",
        translate,
        "The English translation of a recording",
        body=AudioTranslationRequest,
        kinds=(bodies.MULTIPART,),
        has_file=True,
        results={
            "application/json": (Transcription, VerboseTranscription),
            "text/plain": None,
            **dict.fromkeys(SUBTITLES.values()),
        },
    )
]
