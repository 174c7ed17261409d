"""Kaldi data folders: `wav.scp`, `text`, and where they are there `segments` and `utt2spk`.

SOURCE is one such folder, or a folder with train, dev and test. Commands in wav.scp (ending in |) are not run.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, measured, read_lines
from segue.data.corpora.splits import SplitOptions, divide, sources
from segue.data.examples import Utterance
from segue.errors import UserError


class Options(SplitOptions):
    """Kaldi data folders."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Utterances in the order of `text`."""
    del out
    utterances = (each for split, folder in sources(source, "").items() for each in _utterances(split, folder))
    yield from divide(utterances, options)


def _utterances(split: str, folder: Path) -> Iterator[Example]:
    recordings = dict(_pairs(folder / "wav.scp"))
    segments = dict(_pairs(folder / "segments")) if (folder / "segments").is_file() else None
    speakers = dict(_pairs(folder / "utt2spk")) if (folder / "utt2spk").is_file() else {}
    for origin, line in read_lines(folder / "text"):
        name, text = _columns(line)
        speaker = speakers.get(name, ("", None))[1]
        try:
            if segments is None:
                yield split, measured(_file(recordings, name, folder), text, origin, speaker)
            else:
                yield split, _segment(segments, recordings, folder, name, text, origin, speaker)
        except UserError as problem:
            yield split, UserError(f"{origin}: {problem}")


def _segment(
    segments: dict[str, tuple[str, str]],
    recordings: dict[str, tuple[str, str]],
    folder: Path,
    name: str,
    text: str,
    origin: str,
    speaker: str | None,
) -> Utterance:
    if name not in segments:
        raise UserError(f"{name} is not in segments")
    where, columns = segments[name]
    try:
        recording, start, end = columns.split()
        offset, seconds = float(start), float(end) - float(start)
    except ValueError:
        raise UserError(f"{where}: recording, start and end wanted") from None
    if not (offset >= 0 and seconds > 0):
        raise UserError(f"{where}: a start from 0 and an end after it wanted")
    file = _file(recordings, recording, folder)
    if not file.is_file():
        raise UserError(f"no such file: {file}")
    return Utterance(name, file, seconds, text, offset, speaker, origin=origin)


def _file(recordings: dict[str, tuple[str, str]], name: str, folder: Path) -> Path:
    if name not in recordings:
        raise UserError(f"{name} is not in wav.scp")
    where, path = recordings[name]
    if path.endswith("|"):
        raise UserError(f"{where}: a command, which is not run; write the audio to files first")
    return folder / path


def _pairs(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """First column -> (file:line, the rest)."""
    for origin, line in read_lines(path):
        name, rest = _columns(line)
        yield name, (origin, rest)


def _columns(line: str) -> tuple[str, str]:
    """The first column and the rest; any white space stands between them."""
    name, *rest = line.split(maxsplit=1)
    return name, rest[0].rstrip() if rest else ""
