"""`segue align`: when the words of a known text are spoken."""

import dataclasses
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segue import progress
from segue.commands import options
from segue.errors import UserError, count_of, warn
from segue.files import check_folder, replacing

if TYPE_CHECKING:
    from segue.align_files import Task
    from segue.runtime.alignment import Aligned
    from segue.runtime.recognizer import Recognizer

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


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    from segue import align_files, transcribe_files
    from segue.runtime.alignment_files import written

    tasks, num_skipped = align_files.tasks(given.recording, given.text, skip_bad=given.skip_bad)
    if given.utterances is not None and (given.out is not None or given.format != "json"):
        raise UserError("--utterances: writes a manifest; --format and --out are for times of words")
    if given.longest is not None and given.utterances is None:
        raise UserError("--longest: only with --utterances OUT_DIR")
    if given.utterances is None and given.out is None and given.format != "json" and len(tasks) > 1:
        raise UserError(f"--format {given.format} with several recordings needs --out DIR")
    suffix = "TextGrid" if given.format == "textgrid" else given.format
    read = (given.recording, *([] if given.text is None else [given.text]))
    targets = (
        [] if given.out is None else transcribe_files.targets([task.audio for task in tasks], given.out, suffix, read)
    )
    model = options.load_model(given, "align")
    failed: list[int] = []
    results = _aligned(given, model, tasks, failed)
    if given.utterances is not None:
        _write_utterances(given, ((tasks[number], found) for number, found in results))
    else:
        for number, found in results:
            text = written(dataclasses.replace(found, audio=str(tasks[number].audio)), given.format)
            if targets:
                with replacing(targets[number]) as partial:
                    partial.write_text(text + "\n", encoding="utf-8")
                progress.say(str(targets[number]), sys.stdout)
            else:
                progress.say(text, sys.stdout)
    if given.skip_bad and (failed or num_skipped):
        warn(f"{len(failed) + num_skipped} of {count_of(len(tasks) + num_skipped, 'recording')} left out")
    return 2 if failed and not given.skip_bad else 0


def _aligned(
    given: Namespace, model: "Recognizer", tasks: "Sequence[Task]", failed: list[int]
) -> "Iterator[tuple[int, Aligned]]":
    """The number of each recording and its alignment; numbers of those that failed are added to `failed`."""
    from segue import align_files

    for number, task in enumerate(progress.progress(tasks, "aligns", unit="recordings")):
        try:
            found = align_files.aligned(model, task, given.channel, given.language, given.least_score)
        except UserError as problem:
            told = str(problem)
            progress.say(
                f"segue: {told if task.utterance is None or told.startswith(task.name) else f'{task.name}: {told}'}"
            )
            failed.append(number)
            continue
        yield number, found


def _write_utterances(given: Namespace, results: "Iterator[tuple[Task, Aligned]]") -> None:
    """Writes the manifest of short utterances, and says what is in it and what is not."""
    from segue import align_files
    from segue.runtime import cutting

    check_folder("--utterances", given.utterances)
    path = given.utterances / "train.jsonl"
    if path.exists():
        raise UserError(f"{path}: exists; give another folder to --utterances")
    longest = given.longest or cutting.LONGEST_SECONDS
    least = max(cutting.LEAST_SCORE, given.least_score or 0.0)
    made = align_files.write_utterances(path, results, longest, least, given.channel, given.language)
    minutes = f"{made.seconds / 60:.1f} of {made.of_seconds / 60:.1f} minutes"
    progress.say(f"{path}: {count_of(made.num_utterances, 'utterance')}, {minutes}", sys.stdout)
    for problem, stretches in made.left_out.items():
        said = f"{count_of(len(stretches), 'stretch', 'stretches')}, {sum(stretches) / 60:.1f} minutes"
        progress.say(f"left out: {said}: {problem}", sys.stdout)
