"""`segue align`: when the words of a known text are spoken."""

import dataclasses
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segue import progress
from segue.commands import options
from segue.errors import UserError, warn
from segue.files import replacing

SUMMARY = "when the words of a known text are spoken"
EXAMPLE = "segue align runs/english talk.mp3 talk.txt --format srt"
FORMATS = ("json", "srt", "vtt", "textgrid", "ctm")


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument(
        "recording", metavar="AUDIO|MANIFEST", type=Path, help="a recording of any length, or a manifest of recordings"
    )
    parser.add_argument("text", metavar="TEXT", type=Path, nargs="?", help="a file with what is said in AUDIO")
    parser.add_argument("--format", choices=FORMATS, default="json", help="(default: json)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write a file per recording there")
    parser.add_argument(
        "--utterances",
        metavar="OUT_DIR",
        type=Path,
        help="cut the recordings into short utterances to train on, and write their manifest OUT_DIR/train.jsonl",
    )
    parser.add_argument(
        "--least-score",
        metavar="SCORE",
        type=options.share,
        help="a text with a lower score, from 0 to 1, does not belong to its recording (default: 0.1); utterances to "
        "train on need 0.3",
    )
    parser.add_argument(
        "--longest", metavar="SECONDS", type=options.above_zero, help="longest of --utterances (default: 16)"
    )
    parser.add_argument("--channel", type=options.channel, help="left, right, mix or a number from 1")
    parser.add_argument("--language", metavar="TAG", help="language of the text, such as tr, where its letters need it")
    options.skip_bad(parser)
    options.device(parser)


class _Task(NamedTuple):
    """A recording with its text."""

    name: str
    audio: Path
    text: str
    utterance: Any = None
    """The line of the manifest, if it is from one."""


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    from segue.runtime.alignment_files import written

    tasks, num_skipped = _tasks(given)
    if given.utterances is not None and (given.out is not None or given.format != "json"):
        raise UserError("--utterances: writes a manifest; --format and --out are for times of words")
    if given.longest is not None and given.utterances is None:
        raise UserError("--longest: only with --utterances OUT_DIR")
    if given.utterances is None and given.out is None and given.format != "json" and len(tasks) > 1:
        raise UserError(f"--format {given.format} with several recordings needs --out DIR")
    suffix = "TextGrid" if given.format == "textgrid" else given.format
    targets = [] if given.out is None else _targets(tasks, given.out, suffix)
    model = options.load_model(given, "align")
    failed: list[int] = []
    results = _aligned(given, model, tasks, failed)
    if given.utterances is not None:
        _write_utterances(given, tasks, results)
    else:
        for number, found in results:
            text = written(dataclasses.replace(found, audio=str(tasks[number].audio)), given.format)
            if targets:
                with replacing(targets[number]) as partial:
                    partial.write_text(text + "\n", encoding="utf-8")
            else:
                progress.say(text, sys.stdout)
    if given.skip_bad and (failed or num_skipped):
        warn(f"{len(failed) + num_skipped} of {len(tasks) + num_skipped} recordings left out")
    return 2 if failed and not given.skip_bad else 0


def _tasks(given: Namespace) -> tuple[list[_Task], int]:
    """The recordings with their texts, and the number of bad lines."""
    from segue.data.encodings import decode
    from segue.data.examples import Utterance
    from segue.data.manifest import Manifest, read_content

    if given.text is None:
        if given.recording.suffix not in (".jsonl", ".json", ".gz"):
            raise UserError(
                f"{given.recording}: its text is missing: segue align MODEL AUDIO TEXT, where TEXT is a file; or a "
                "manifest (.jsonl)"
            )
        manifest = Manifest(Utterance, [given.recording], skip_bad=given.skip_bad)
        lines = [_Task(each.origin, each.audio, each.text, each) for each in manifest]
        return lines, manifest.num_skipped
    if not given.text.is_file() and " " in str(given.text):
        raise UserError(f"{str(given.text)[:60]!r}: TEXT is the name of a file; write the text into one")
    text = decode(read_content(given.text, "text"), given.text)
    if "-->" in text:
        raise UserError(f"{given.text}: subtitles with times; a plain text is needed here")
    if not text.strip():
        raise UserError(f"{given.text}: empty")
    return [_Task(str(given.recording), given.recording, text)], 0


def _aligned(given: Namespace, model: Any, tasks: Sequence[_Task], failed: list[int]) -> Iterator[tuple[int, Any]]:
    """The number of each recording and its alignment; numbers of those that failed are added to `failed`."""
    how = {"channel": given.channel}
    if given.least_score is not None:
        how["least_score"] = given.least_score
    for number, task in enumerate(progress.progress(tasks, "aligns", unit="recordings")):
        try:
            if task.utterance is None:
                found = model.align(task.audio, task.text, language=given.language, **how)
            else:
                found = _of_line(model, task.utterance, given.language, how)
        except UserError as problem:
            told = str(problem)
            progress.say(
                f"segue: {told if task.utterance is None or told.startswith(task.name) else f'{task.name}: {told}'}"
            )
            failed.append(number)
            continue
        yield number, found


def _of_line(model: Any, line: Any, language: str | None, how: dict[str, Any]) -> Any:
    """The alignment of a line of a manifest; times are those of its whole file."""
    from segue.data import audio

    language = line.language or language
    channel = how["channel"] or line.channel
    is_whole = not line.offset_seconds and abs(line.seconds - audio.properties(line.audio).seconds) < 0.1
    if is_whole:  # block by block
        return model.align(line.audio, line.text, language=language, **{**how, "channel": channel})
    rate = model.metadata.sample_rate_hz
    samples = audio.read(line.audio, rate, line.offset_seconds, line.seconds, channel)
    how = {**how, "channel": None}
    return model.align(samples, line.text, rate, language=language, offset_seconds=line.offset_seconds, **how)


def _targets(tasks: Sequence[_Task], out: Path, suffix: str) -> list[Path]:
    """A file for each recording, with a number where recordings have the same name."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file; the name of a folder is wanted")
    stems = [task.audio.stem for task in tasks]
    counts, seen = Counter(stems), Counter[str]()
    found = []
    for stem in stems:
        seen[stem] += 1
        found.append(out / f"{stem if counts[stem] == 1 else f'{stem}_{seen[stem]:04}'}.{suffix}")
    return found


class _Cut(NamedTuple):
    """A line of a manifest, with its score."""

    utterance: Any
    score: float

    def line(self, folder: Path) -> dict[str, Any]:
        """The values of its line."""
        return {**self.utterance.line(folder), "score": round(self.score, 4)}


def _write_utterances(given: Namespace, tasks: Sequence[_Task], results: Iterator[tuple[int, Any]]) -> None:
    """Writes the manifest of short utterances, and says what is in it and what is not."""
    from segue.data.examples import Utterance
    from segue.data.manifest import open_manifest
    from segue.runtime import cutting

    path = given.utterances / "train.jsonl"
    if path.exists() and given.text is None and path.resolve() == given.recording.resolve():
        raise UserError(f"{path}: is read; give another folder to --utterances")
    longest = given.longest or cutting.LONGEST_SECONDS
    least = max(cutting.LEAST_SCORE, given.least_score or 0.0)
    left_out: dict[str, list[float]] = {}
    count, kept, total = 0, 0.0, 0.0
    with open_manifest(path) as write:
        for number, found in results:
            task = tasks[number]
            total += found.duration
            source = task.utterance
            for index, piece in enumerate(cutting.cut(found, longest, least)):
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
                    speaker=source and source.speaker,
                    language=(source and source.language) or given.language,
                    has_id=True,
                    channel=given.channel or (source and source.channel),
                )
                write(_Cut(utterance, piece.score))
                count, kept = count + 1, kept + seconds
        if not count:
            raise UserError(f"{path}: not written: nothing is aligned well enough to train on")
    progress.say(f"{path}: {count:,} utterances, {kept / 60:.1f} of {total / 60:.1f} minutes", sys.stdout)
    for problem, stretches in left_out.items():
        progress.say(f"left out: {len(stretches):,} that {problem}, {sum(stretches) / 60:.1f} minutes", sys.stdout)
