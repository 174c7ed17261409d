"""Which examples are there? JSONL manifests, one example a line, with the keys that NeMo users know."""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError, some_of, warn


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a speech manifest."""

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


class Manifest(Sequence[Utterance]):
    """Utterances of one or more manifests, checked line by line when they are read.

    Lines stay as bytes and are parsed when asked for: a hundred thousand of them cost little memory, and loader
    processes that share them by fork touch no reference counts.
    """

    def __init__(self, paths: Sequence[Path], *, skip_bad: bool = False) -> None:
        """Reads `paths` in order. Bad lines raise a UserError that names them, or are counted with `skip_bad`."""
        self.paths = [Path(path) for path in paths]
        self.skip_bad = skip_bad
        self._contents: list[bytes] = []
        self.num_skipped = 0
        places, seconds, problems = array("q"), array("d"), list[str]()
        seen: dict[int, tuple[int, int]] = {}
        num_repeated = 0
        for file_number, path in enumerate(self.paths):
            content = _read(path)
            self._contents.append(content)
            for line_number, start, end in _lines(content):
                try:
                    utterance = _parse(content[start:end], path, line_number)
                except UserError as problem:
                    problems.append(str(problem))
                    continue
                earlier = seen.setdefault(hash(utterance.id), (file_number, line_number))
                if earlier != (file_number, line_number):
                    num_repeated += 1
                    if json.loads(content[start:end]).get("id") is not None:
                        where = f"{self.paths[earlier[0]]}:{earlier[1]}"
                        problems.append(f"{utterance.origin}: id: {utterance.id!r} stands already in {where}")
                        continue
                places.extend((file_number, line_number, start, end))
                seconds.append(utterance.seconds)
        if problems and not skip_bad:
            raise UserError(some_of(problems) + "\n(--skip-bad leaves such lines out and counts them)")
        if problems:
            self.num_skipped = len(problems)
            warn(f"{len(problems)} bad manifest lines left out:\n{some_of(problems, 3)}")
        if num_repeated and not problems:
            warn(f"{num_repeated} lines of {', '.join(map(str, self.paths))} repeat audio of an earlier line")
        if not seconds:
            raise UserError(f"{', '.join(map(str, self.paths))}: no examples in it")
        self._places = np.frombuffer(places, dtype=np.int64).reshape(-1, 4)
        self.seconds: NDArray[np.float64] = np.frombuffer(seconds, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        file_number, line_number, start, end = self._places[index].tolist()
        return _parse(self._contents[file_number][start:end], self.paths[file_number], line_number)

    def checksum(self) -> int:
        """Of the lines in use: another number for other data, whichever folder they lie in."""
        number = 0
        for file_number, _, start, end in self._places.tolist():
            number = crc32(self._contents[file_number][start:end], number)
        return number

    def without(self, indices: Iterable[int]) -> None:
        """Leaves out the examples with these indices."""
        keep = np.setdiff1d(np.arange(len(self)), np.fromiter(indices, dtype=np.int64))
        self.num_skipped += len(self) - len(keep)
        self._places, self.seconds = self._places[keep], self.seconds[keep]


def parse_manifest(path: Path) -> Iterator[Utterance | UserError]:
    """Each line of a manifest, or in its place what is wrong with it."""
    content = _read(path)
    for number, start, end in _lines(content):
        try:
            yield _parse(content[start:end], path, number)
        except UserError as problem:
            yield problem


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> int:
    """Writes one line per utterance, audio paths relative to the manifest where that is possible; returns the count."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    folder = path.parent.resolve()
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for utterance in utterances:
            line: dict[str, Any] = {
                "audio_filepath": os.path.relpath(utterance.audio.resolve(), folder),
                "duration": round(utterance.seconds, 6),
                "text": utterance.text,
            }
            if utterance.offset_seconds:
                line["offset"] = utterance.offset_seconds
            if utterance.speaker is not None:
                line["speaker"] = utterance.speaker
            if utterance.language is not None:
                line["lang"] = utterance.language
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read this manifest: {error.strerror}") from None


def _lines(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of every line that is not blank; numbers from 1."""
    start, number = 0, 1
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if content[start:end].strip():
            yield number, start, end
        start, number = end + 1, number + 1


def _parse(line: bytes, path: Path, number: int) -> Utterance:
    origin = f"{path}:{number}"
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UserError(f"{origin}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{origin}: not a JSON object")

    def value(key: str, wanted: type | tuple[type, ...], name: str, default: Any = None) -> Any:
        given = values.get(key, default)
        if given is None and key not in values:
            raise UserError(f"{origin}: lacks the key {key!r}")
        if not isinstance(given, wanted) or isinstance(given, bool):
            raise UserError(f"{origin}: {key}: {name} wanted, got {json.dumps(given)[:60]}")
        return given

    number_types = (int, float)
    audio = value("audio_filepath", str, "a path")
    seconds = float(value("duration", number_types, "seconds"))
    offset = float(value("offset", number_types, "seconds", 0.0))
    if not (np.isfinite(seconds) and seconds > 0):
        raise UserError(f"{origin}: duration: seconds above 0 wanted, got {seconds}")
    if not (np.isfinite(offset) and offset >= 0):
        raise UserError(f"{origin}: offset: seconds from 0 wanted, got {offset}")
    return Utterance(
        id=_text_or_none(values.get("id")) or (f"{audio}@{offset}" if offset else audio),
        audio=path.parent / audio,
        seconds=seconds,
        text=value("text", str, "a text"),
        offset_seconds=offset,
        speaker=_text_or_none(values.get("speaker")),
        language=_text_or_none(values.get("lang")),
        origin=origin,
    )


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
