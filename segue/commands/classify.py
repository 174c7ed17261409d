"""`segue classify`: the class of each recording, or of each line of text."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segue import progress
from segue.commands import options
from segue.errors import UserError

SUMMARY = "the class of each recording, or of each line of text"
EXAMPLE = "segue classify runs/digits_sounds 7_george_2.wav --top 3"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="*",
        default=[],
        help="recordings or folders of them; for a model of texts, files with one text per line; none or -: stdin",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    parser.add_argument(
        "--top",
        metavar="K",
        type=options.positive,
        default=1,
        help="print the K most likely classes with probabilities",
    )
    parser.add_argument(
        "--channel",
        type=options.channel,
        help="channel of recordings: left, right, mix or a number from 1 (default: mix, if that makes sense)",
    )
    options.device(parser)


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    model = options.load_model(given, "classify")
    if model.is_of_sounds:
        return _sounds(model, given)
    if given.channel is not None:
        raise UserError("--channel: this model classifies texts")
    return _texts(model, given)


def _sounds(model: Any, given: Namespace) -> int:
    from segue import transcribe_files

    paths = transcribe_files.recordings(given.files or [Path(transcribe_files.STANDARD_INPUT)])
    rates = transcribe_files.LowRates(model.sample_rate_hz, "the class may be wrong because of that")
    has_failed = False
    for path in progress.progress(paths, "classifies", unit="recordings"):
        try:
            with transcribe_files.local(path) as file:
                found = model.classify(file, channel=given.channel)._replace(source=str(path))
                rates.say(path, model.rate_of(file))
        except UserError as problem:
            progress.say(f"segue: {problem}")
            has_failed = True
            continue
        name = f"{path}\t" if given.format == "text" and len(paths) > 1 else ""
        progress.say(name + found.written(given.format, "audio", given.top), sys.stdout)
    return 2 if has_failed else 0


def _texts(model: Any, given: Namespace) -> int:
    from segue import translate_files

    def say(lines: Iterable[str], window: int) -> None:
        for found in model.classify_lines(lines, window):
            print(found.written(given.format, "text", given.top), flush=window == 1)

    if given.files in ([], [Path("-")]):
        if sys.stdin is None:
            raise UserError("standard input is closed; name a file")
        # Interactive input is answered line by line.
        say(translate_files.lines(sys.stdin.buffer, "standard input"), 1 if sys.stdin.isatty() else model.WINDOW)
        return 0
    if Path("-") in given.files:
        raise UserError("- is standard input: give it alone")
    has_failed = False
    for path in given.files:
        try:
            say(translate_files.of_file(path), model.WINDOW)
        except UserError as problem:
            progress.say(f"segue: {problem}")
            has_failed = True
    return 2 if has_failed else 0
