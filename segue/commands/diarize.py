"""`segue diarize`: who speaks when in recordings."""

import dataclasses
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue import progress
from segue.commands import options
from segue.errors import UserError
from segue.files import replacing

SUMMARY = "who speaks when"
EXAMPLE = "segue diarize runs/voices interview.mp3 --speakers 2 --format rttm"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "model",
        metavar="VOICES",
        type=Path,
        help="model of voices: run directory, model directory, exported directory or ONNX file",
    )
    parser.add_argument(
        "audio", metavar="AUDIO", type=Path, nargs="+", help="recordings of any length, folders, or - (standard input)"
    )
    options.speakers(parser)
    parser.add_argument(
        "--names", metavar="NAME,NAME", type=options.names, help="their names, in the order in which they first speak"
    )
    parser.add_argument("--format", choices=("text", "json", "rttm"), default="text", help="(default: text)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write a file per recording there")
    parser.add_argument(
        "--channel",
        type=options.channel,
        help="left, right, mix or a number from 1 (default: mix, if that makes sense)",
    )
    options.device(parser)


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    from segue import transcribe_files

    if given.speakers is None:
        raise UserError("--speakers N or --speakers auto: how many speakers are there?")
    options.check_names(given.names, given.speakers)
    paths = transcribe_files.recordings(given.audio)
    if given.format != "json" and len(paths) > 1 and given.out is None:
        raise UserError(f"--format {given.format} with several recordings needs --out DIR")
    suffix = "txt" if given.format == "text" else given.format
    targets = [] if given.out is None else transcribe_files.targets(paths, given.out, suffix)
    model = options.load_voices(given.model, given.device)
    count, has_failed = None if given.speakers == options.AUTO else given.speakers, False
    for number, path in enumerate(progress.progress(paths, "diarizes", unit="recordings")):
        try:
            with transcribe_files.local(path) as file:
                found = model.diarize(file, channel=given.channel, speakers=count, names=given.names or ())
        except UserError as problem:
            progress.say(f"segue: {problem}")
            has_failed = True
            continue
        if not found.turns:
            progress.say(f"{path}: no speech found")
        text = dataclasses.replace(found, audio=str(path)).written(given.format)
        if targets:
            with replacing(targets[number]) as partial:
                partial.write_text(text + "\n" * bool(text), encoding="utf-8")
            progress.say(str(targets[number]), sys.stdout)
        elif text:
            progress.say(text, sys.stdout)
    return 2 if has_failed else 0
