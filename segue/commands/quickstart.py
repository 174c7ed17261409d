"""`segue quickstart`: all steps on synthesized speech: train, evaluate, export, transcribe."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue.commands import options
from segue.files import check_folder

SUMMARY = "all steps on synthesized speech: train, evaluate, export, transcribe"
EXAMPLE = "segue quickstart --out quickstart"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("quickstart"), help="(default: quickstart)")
    parser.add_argument(
        "--recordings", metavar="DIR", type=Path, help="recordings of people: a folder named as fsdd's, or a manifest"
    )


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    options.import_formats()
    from segue import quickstart

    check_folder("--out", given.out)
    return quickstart.run(given.out, given.recordings)
