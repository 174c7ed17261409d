"""Recordings with their texts, named on the command line, and the utterances cut from them. Independent of models."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from segue.data import audio
from segue.data.channels import Channel
from segue.data.encodings import decode
from segue.data.examples import Utterance
from segue.data.manifest import Manifest, open_manifest, read_content
from segue.errors import UserError
from segue.runtime import cutting
from segue.runtime.alignment import Aligned
from segue.runtime.recognizer import Recognizer

MANIFESTS = (".jsonl", ".json", ".gz")


class Task(NamedTuple):
    """A recording with its text."""

    name: str
    audio: Path
    text: str
    utterance: Utterance | None = None
    """The line of the manifest, if it is from one."""


def tasks(recording: Path, text: Path | None, *, skip_bad: bool = False) -> tuple[list[Task], int]:
    """A recording with the text in the file `text`, or without `text` the lines of a manifest; and the number of bad
    lines, which raise a UserError unless `skip_bad`."""
    if text is None:
        if recording.suffix not in MANIFESTS:
            raise UserError(
                f"{recording}: its text is missing: segue align MODEL AUDIO TEXT, where TEXT is a file; or a "
                "manifest (.jsonl)"
            )
        manifest = Manifest(Utterance, [recording], skip_bad=skip_bad)
        return [Task(each.origin, each.audio, each.text, each) for each in manifest], manifest.num_skipped
    if not text.is_file() and " " in str(text):
        raise UserError(f"{str(text)[:60]!r}: TEXT is the name of a file; write the text into one")
    said = decode(read_content(text, "text"), text)
    if "-->" in said:
        raise UserError(f"{text}: subtitles with times; a plain text is needed here")
    if not said.strip():
        raise UserError(f"{text}: empty")
    return [Task(str(recording), recording, said)], 0


def aligned(
    model: Recognizer, task: Task, channel: Channel, language: str | None, least_score: float | None
) -> Aligned:
    """The times of its words, in seconds of the whole file, also for a line of a manifest with an offset."""
    how: dict[str, Any] = {} if least_score is None else {"least_score": least_score}
    line = task.utterance
    if line is None:
        return model.align(task.audio, task.text, channel=channel, language=language, **how)
    how["language"] = line.language or language
    channel = channel or line.channel
    if not line.offset_seconds and abs(line.seconds - audio.properties(line.audio).seconds) < 0.1:
        return model.align(line.audio, line.text, channel=channel, **how)  # the whole file, block by block
    rate = model.metadata.sample_rate_hz
    samples = audio.read(line.audio, rate, line.offset_seconds, line.seconds, channel)
    return model.align(samples, line.text, rate, offset_seconds=line.offset_seconds, **how)


class Cuts(NamedTuple):
    """What became of aligned recordings."""

    num_utterances: int
    """Number of utterances in the manifest."""
    seconds: float
    """Of them."""
    of_seconds: float
    """Of the recordings."""
    left_out: dict[str, list[float]]
    """Why, and the seconds of each stretch."""


def write_utterances(
    path: Path,
    results: Iterable[tuple[Task, Aligned]],
    longest_seconds: float,
    least_score: float,
    channel: Channel,
    language: str | None,
) -> Cuts:
    """Writes the manifest of the utterances cut from aligned recordings (`runtime/cutting.py`).

    Raises a UserError, and writes nothing, if there is no utterance.
    """
    left_out: dict[str, list[float]] = {}
    count, kept, total = 0, 0.0, 0.0
    with open_manifest(path) as write:
        for number, (task, found) in enumerate(results):
            total += found.duration
            source = task.utterance
            for index, piece in enumerate(cutting.cut(found, longest_seconds, least_score)):
                seconds = round(piece.end - piece.start, 3)
                if piece.problem:
                    left_out.setdefault(piece.problem, []).append(seconds)
                    continue
                utterance = Utterance(
                    f"{task.audio.stem}_{number}_{index:04}",
                    task.audio,
                    seconds,
                    piece.text,
                    round(piece.start, 3),
                    speaker=None if source is None else source.speaker,
                    language=(None if source is None else source.language) or language,
                    has_id=True,
                    channel=channel or (None if source is None else source.channel),
                )
                write(_Cut(utterance, piece.score))
                count, kept = count + 1, kept + seconds
        if not count:
            raise UserError(f"{path}: not written: nothing is aligned well enough to train on")
    return Cuts(count, kept, total, left_out)


class _Cut(NamedTuple):
    """A line of a manifest, with its score."""

    utterance: Utterance
    score: float

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line."""
        return {**self.utterance.line(folder), "score": round(self.score, 4)}
