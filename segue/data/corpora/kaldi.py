"""Kaldi data folders: `wav.scp`, `text`, and optionally `segments` and `utt2spk`.

SOURCE is one such folder, or a folder with train, dev and test. Commands in wav.scp (ending in |) are not run.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from segue.data import audio
from segue.data.corpora import Example, check_source, checked, measured, read_lines
from segue.data.corpora.splits import SplitOptions, divide, sources
from segue.data.examples import Utterance
from segue.data.text import seen
from segue.errors import UserError, count_of, warn
from segue.files import is_file


class Options(SplitOptions):
    """Kaldi data folders."""


class _Entry(NamedTuple):
    """A line after its id, with its origin."""

    origin: str
    rest: str


Table = dict[str, _Entry]


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Utterances in the order of `text`."""
    del out
    check_source(source, "a folder with wav.scp and text, or with train, dev and test, which have them")
    utterances = (each for split, folder in sources(source, "").items() for each in _utterances(split, folder))
    yield from divide(utterances, options)


def _utterances(split: str, folder: Path) -> Iterator[Example]:
    problems: list[UserError] = []
    recordings = _table(folder / "wav.scp", problems)
    has_segments, has_speakers = ((folder / name).is_file() for name in ("segments", "utt2spk"))
    segments = _table(folder / "segments", problems) if has_segments else None
    speakers = _table(folder / "utt2spk", problems) if has_speakers else {}
    for name, (origin, who) in speakers.items():
        if len(who.split()) != 1:
            problems.append(UserError(f"{origin}: one speaker of {name} wanted, got {who!r}"))
    texts = _table(folder / "text", problems)
    yield from ((split, problem) for problem in problems)
    _say_unused(recordings if segments is None else segments, texts, "without a line in text left out")
    if has_speakers:
        _say_unused(texts, speakers, "without a line in utt2spk, so without a speaker")
    for name, (origin, text) in texts.items():
        speaker = speakers[name].rest if name in speakers else None
        try:
            if not seen(text):
                raise UserError(f"{name} has no text")
            if segments is None:
                file = _file(recordings, name, folder)
                yield split, measured(file, text, origin, speaker, given_id=name)
            else:
                yield split, _segment(segments, recordings, folder, name, text, origin, speaker)
        except UserError as problem:
            yield split, UserError(f"{origin}: {problem}")


def _segment(
    segments: Table, recordings: Table, folder: Path, name: str, text: str, origin: str, speaker: str | None
) -> Utterance:
    if name not in segments:
        raise UserError(f"{name} is not in segments")
    where, columns = segments[name]
    channel = None
    try:
        recording, *times = columns.split()
        offset, end = map(float, times[:2])
        if len(times) == 3:
            channel = int(times.pop()) + 1  # Kaldi counts from 0
        if len(times) > 2 or (channel is not None and channel < 1):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{where}: recording, start and end wanted, and a channel from 0 where it has several"
        ) from None
    file = _file(recordings, recording, folder)
    if not is_file(file):
        raise UserError(f"no such file: {file}")
    if end == -1:  # in Kaldi: the end of the recording
        end = audio.duration(file)
    if not (0 <= offset < end < float("inf")):
        raise UserError(f"{where}: a start from 0 and an end after it wanted")
    found = checked(
        Utterance(name, file, end - offset, text, offset, speaker, origin=where, has_id=True, channel=channel)
    )
    if isinstance(found, UserError):
        raise found
    return replace(found, origin=origin)


def _file(recordings: Table, name: str, folder: Path) -> Path:
    if name not in recordings:
        raise UserError(f"{name} is not in wav.scp")
    where, path = recordings[name]
    if not path:
        raise UserError(f"{where}: {name} has no audio file")
    if path.endswith("|"):
        raise UserError(f"{where}: a command, which is not run; write the audio to files first")
    return folder / path


def _table(path: Path, problems: list[UserError]) -> Table:
    """First column -> rest of the line. Lines that repeat a first column are ambiguous and added to `problems`."""
    found: Table = {}
    for origin, line in read_lines(path):
        name, *rest = line.split(maxsplit=1)  # columns are separated by any white space
        if name in found:
            problems.append(UserError(f"{origin}: {name} is already in {found[name].origin}"))
        else:
            found[name] = _Entry(origin, rest[0].rstrip() if rest else "")
    return found


def _say_unused(all_entries: Table, others: Table, what: str) -> None:
    left = [(name, entry.origin) for name, entry in all_entries.items() if name not in others]
    if left:
        shown = ", ".join(f"{name} ({origin})" for name, origin in left[:3])
        warn(f"{count_of(len(left), 'entry', 'entries')} {what}: {shown}{', ...' if len(left) > 3 else ''}")
