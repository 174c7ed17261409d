"""What does a line of a manifest describe? An utterance, a pair of texts, a sound or text with its class, or a text."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from segue.data import channels
from segue.data.audio import TRUNCATION_SECONDS, Properties, Samples
from segue.data.audio import check as check_audio
from segue.data.audio import read as read_audio
from segue.data.channels import Channel
from segue.data.text import seen
from segue.errors import UserError
from segue.files import is_file

_RECORDINGS = "recordings with their texts (audio_filepath, duration, text)"
_PAIRS = "pairs of texts (source, target)"
_SOUNDS = "recordings with classes (audio_filepath, duration, label)"
_TEXTS = "texts with classes (text, label)"
CONTENTS = {
    _PAIRS: ("source", "target"),
    _SOUNDS: ("audio_filepath", "label"),
    _RECORDINGS: ("audio_filepath", "text"),
    _TEXTS: ("text", "label"),
    "recordings alone (audio_filepath)": ("audio_filepath",),
    "texts alone (text)": ("text",),
}
"""What a manifest may hold -> keys from which it is recognized, the most special first."""


class Writable(Protocol):
    """What can be a line of a manifest."""

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line in a manifest in `folder`, a resolved path."""


class Example(Protocol):
    """One line of a manifest, of any kind."""

    repeats: ClassVar[str]
    """The key that lines without an `id` have in common if their default ids are equal; "" if these always differ."""
    contents: ClassVar[tuple[str, ...]]
    """What manifests of this kind hold: some of CONTENTS."""

    @property
    def id(self) -> str:
        """The line's `id`, or a default."""

    @property
    def has_id(self) -> bool:
        """Whether the line has an `id` of its own, not a default."""

    @property
    def origin(self) -> str:
        """`file:line`, for messages."""

    @property
    def size(self) -> float:
        """Length of the example, to batch examples of similar length."""

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path, origin: str) -> Self:
        """The example of a line with these values in the manifest at `path`.

        Raises a UserError that names `origin` and the wrong key.
        """

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line in a manifest in `folder`, a resolved path."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a speech manifest."""

    repeats: ClassVar[str] = "audio"
    contents: ClassVar[tuple[str, ...]] = (_RECORDINGS,)

    id: str
    """The line's `id`, or its audio path as written (with `@offset` where it has one)."""
    audio: Path
    """`audio_filepath`; a relative one is resolved against the manifest's folder."""
    seconds: float
    """`duration`, from `offset_seconds` on."""
    text: str
    offset_seconds: float = 0.0
    speaker: str | None = None
    language: str | None = None
    """`lang`"""
    origin: str = ""
    """`file:line`, for messages."""
    has_id: bool = False
    """Whether the line has an `id` of its own, not a default."""
    channel: Channel = None
    """The channel to use: a number from 1, or "mix"; None: chosen automatically (`channels.choose`)."""

    @property
    def size(self) -> float:
        """Seconds."""
        return self.seconds

    def samples(self, sample_rate_hz: int) -> Samples:
        """(S) its samples. Raises a UserError, with the manifest's line, if they cannot be read or are all 0."""
        try:
            samples = read_audio(self.audio, sample_rate_hz, self.offset_seconds, self.seconds, self.channel)
            if not samples.any():
                raise UserError(f"{self.audio}: silent: every sample is 0")
        except UserError as problem:
            raise UserError(f"{self.origin}: {problem}") from None
        return samples

    def check_audio(self) -> Properties:
        """Checks that its audio exists, reading as little of the file as possible; returns the file's properties.

        Raises a UserError, with the manifest's line and key, if the file is missing, not audio, truncated or too short.
        """
        if not is_file(self.audio):
            raise UserError(f"{self.origin}: audio_filepath: no such file: {self.audio}")
        end = self.offset_seconds + self.seconds
        try:
            found = check_audio(self.audio, end - TRUNCATION_SECONDS)
        except UserError as problem:
            raise UserError(f"{self.origin}: audio_filepath: {problem}") from None
        if end > found.seconds + TRUNCATION_SECONDS:
            where = f"ends at {end:.2f} s" if self.offset_seconds else f"has {self.seconds:.2f} s"
            raise UserError(f"{self.origin}: duration: {where}, but {self.audio} has {found.seconds:.2f} s of sound")
        if isinstance(self.channel, int) and self.channel > found.num_channels:
            raise UserError(f"{self.origin}: channel: {self.channel}, but {self.audio} has {found.num_channels}")
        return found

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path, origin: str) -> Self:
        """The utterance of a manifest's line. Raises a UserError that names `origin` and the wrong key."""
        audio = _path(_value(values, origin, "audio_filepath", str, "a path"), origin)
        seconds, offset = _seconds(values, origin, "duration"), _seconds(values, origin, "offset", 0.0)
        if not (np.isfinite(seconds) and round(seconds, 6) > 0):  # as it is written
            raise UserError(f"{origin}: duration: seconds above 0 wanted, got {seconds}")
        if not (np.isfinite(offset) and offset >= 0):
            raise UserError(f"{origin}: offset: seconds from 0 wanted, got {offset}")
        given = _text_or_none(values, origin, "id")
        # A file name need not be valid UTF-8, but an id must be.
        name = os.fsencode(audio).decode(errors="backslashreplace")
        try:
            channel = channels.parse(values.get("channel"))
        except ValueError as problem:
            raise UserError(f"{origin}: channel: {problem}") from None
        return cls(
            id=given or (f"{name}@{offset}" if offset else name),
            audio=path.parent / audio,
            seconds=seconds,
            text=_whole(_value(values, origin, "text", str, "a text"), origin, "text"),
            offset_seconds=offset,
            speaker=_text_or_none(values, origin, "speaker"),
            language=_text_or_none(values, origin, "lang"),
            origin=origin,
            has_id=bool(given),
            channel=channel,
        )

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line in a manifest in `folder`, with the audio path relative to it where possible."""
        line: dict[str, Any] = {"id": self.id} if self.has_id else {}
        line |= {
            "audio_filepath": os.path.relpath(self.audio.resolve(), folder),
            "duration": round(self.seconds, 6),
            "text": self.text,
        }
        if self.offset_seconds:
            line["offset"] = self.offset_seconds
        if self.speaker is not None:
            line["speaker"] = self.speaker
        if self.language is not None:
            line["lang"] = self.language
        if self.channel is not None:
            line["channel"] = self.channel
        return line


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of a manifest of text pairs; neither text is blank."""

    repeats: ClassVar[str] = ""
    contents: ClassVar[tuple[str, ...]] = (_PAIRS,)

    id: str
    """The line's `id`, or FILE_NAME:LINE."""
    source: str
    target: str
    alternatives: tuple[str, ...] = ()
    """Other correct targets."""
    source_language: str | None = None
    target_language: str | None = None
    origin: str = ""
    """`file:line`, for messages."""
    has_id: bool = False
    """Whether the line has an `id` of its own, not a default."""

    @property
    def size(self) -> float:
        """Number of characters of the longer side."""
        return max(len(self.source), len(self.target))

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path, origin: str) -> Self:
        """The pair of a manifest's line. Raises a UserError that names `origin` and the wrong key."""
        alternatives = _value(values, origin, "alternatives", list, "a list of texts", [])
        if not all(isinstance(each, str) for each in alternatives):
            raise UserError(f"{origin}: alternatives: a list of texts wanted, got {json.dumps(alternatives)[:60]}")
        given = _text_or_none(values, origin, "id")
        return cls(
            id=given or path.name + origin.removeprefix(str(path)),
            source=_filled(_value(values, origin, "source", str, "a text"), origin, "source"),
            target=_filled(_value(values, origin, "target", str, "a text"), origin, "target"),
            alternatives=tuple(_filled(each, origin, "alternatives") for each in alternatives),
            source_language=_text_or_none(values, origin, "source_language"),
            target_language=_text_or_none(values, origin, "target_language"),
            origin=origin,
            has_id=bool(given),
        )

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line in a manifest in any folder."""
        del folder
        line: dict[str, Any] = {"id": self.id} if self.has_id else {}
        line |= {"source": self.source, "target": self.target}
        if self.alternatives:
            line["alternatives"] = list(self.alternatives)
        if self.source_language is not None:
            line["source_language"] = self.source_language
        if self.target_language is not None:
            line["target_language"] = self.target_language
        return line


@dataclass(frozen=True, slots=True)
class Labeled:
    """One line of a manifest for classification: a recording or a text, and its class."""

    repeats: ClassVar[str] = "audio"
    contents: ClassVar[tuple[str, ...]] = (_SOUNDS, _TEXTS)

    id: str
    """The line's `id`; or its audio path, as for utterances; or FILE_NAME:LINE."""
    label: str
    """Its class, without surrounding white space."""
    sound: Utterance | None = None
    """The recording, if it is one; its `text` is the label."""
    text: str = ""
    """The text, if it is one; not blank."""
    origin: str = ""
    """`file:line`, for messages."""
    has_id: bool = False
    """Whether the line has an `id` of its own, not a default."""

    @property
    def size(self) -> float:
        """Seconds of a recording, characters of a text."""
        return len(self.text) if self.sound is None else self.sound.seconds

    @property
    def speaker(self) -> str | None:
        """The speaker of a recording, if given."""
        return None if self.sound is None else self.sound.speaker

    def samples(self, sample_rate_hz: int) -> Samples:
        """(S) the samples of a recording. Raises a UserError, with the manifest's line, if they cannot be read."""
        assert self.sound is not None
        return self.sound.samples(sample_rate_hz)

    @classmethod
    def of(cls, utterance: Utterance) -> Self:
        """A recording whose class is its transcript."""
        return cls(utterance.id, utterance.text, utterance, origin=utterance.origin, has_id=utterance.has_id)

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path, origin: str) -> Self:
        """The example of a manifest's line. Raises a UserError that names `origin` and the wrong key."""
        label = str(_value(values, origin, "label", (str, int), "a text or a whole number"))
        label = _filled(label, origin, "label").strip()
        if "audio_filepath" in values:
            return cls.of(Utterance.parse({**values, "text": label}, path, origin))
        given = _text_or_none(values, origin, "id")
        return cls(
            id=given or path.name + origin.removeprefix(str(path)),
            label=label,
            text=_filled(_value(values, origin, "text", str, "a text"), origin, "text"),
            origin=origin,
            has_id=bool(given),
        )

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line in a manifest in `folder`, with the audio path relative to it where possible."""
        if self.sound is not None:
            line = self.sound.line(folder)
            return {"label" if key == "text" else key: value for key, value in line.items()}
        return {**({"id": self.id} if self.has_id else {}), "text": self.text, "label": self.label}


@dataclass(frozen=True, slots=True)
class Text:
    """One document of a language model: a text alone, not blank. `document_files.py` reads its line."""

    text: str
    origin: str
    """File, or `file:line`, for messages."""
    id: str = ""
    has_id: ClassVar[bool] = False

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line in a file in any folder."""
        del folder
        return {"text": self.text}


def content_of(values: dict[str, Any]) -> str | None:
    """Which of CONTENTS a line with these values is; None: unknown."""
    return next((name for name, keys in CONTENTS.items() if all(key in values for key in keys)), None)


def other_content(kind: type[Example], values: dict[str, Any]) -> str | None:
    """Which of CONTENTS a line with these values is, if it cannot be an example of `kind`."""
    if any(all(key in values for key in CONTENTS[name]) for name in kind.contents):
        return None
    return content_of(values)


def kind_of(content: str) -> "type[Utterance | Pair | Labeled] | None":
    """The kind of examples with such contents; None if there is none."""
    return next((kind for kind in (Utterance, Pair, Labeled) if content in kind.contents), None)


def sound_of(example: Utterance | Pair | Labeled | Text) -> Utterance | None:
    """The recording of an example; None if it has none."""
    if isinstance(example, Labeled):
        return example.sound
    return example if isinstance(example, Utterance) else None


def _value(
    values: dict[str, Any], origin: str, key: str, wanted: type | tuple[type, ...], name: str, default: Any = None
) -> Any:
    given = values.get(key, default)
    if given is None and key not in values:
        raise UserError(f"{origin}: lacks the key {key!r} (keys: {', '.join(map(repr, values))[:200]})")
    if not isinstance(given, wanted) or isinstance(given, bool):
        raise UserError(f"{origin}: {key}: {name} wanted, got {json.dumps(given)[:60]}")
    return given


def _filled(text: str, origin: str, key: str) -> str:
    """The text itself. Raises a UserError if it is blank."""
    if not seen(text):
        raise UserError(f"{origin}: {key}: empty")
    return _whole(text, origin, key)


def _whole(text: str, origin: str, key: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON escapes can encode half of a surrogate pair
        raise UserError(f"{origin}: {key}: lone surrogate: {text[error.start]!r}") from None
    return text


def _text_or_none(values: dict[str, Any], origin: str, key: str) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{origin}: {key}: a text or a number wanted, got {json.dumps(value)[:60]}")
    return _whole(str(value), origin, key)


def _seconds(values: dict[str, Any], origin: str, key: str, default: float | None = None) -> float:
    given = _value(values, origin, key, (int, float), "seconds", default)
    try:
        return float(given)
    except OverflowError:
        return math.inf


def _path(text: str, origin: str) -> str:
    """The path itself. Raises a UserError if no file can have this name. Surrogates stand for non-UTF-8 bytes."""
    try:
        is_path = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        is_path = False
    if not text or not is_path:
        raise UserError(f"{origin}: audio_filepath: a path wanted, got {json.dumps(text)[:60]}")
    return text
