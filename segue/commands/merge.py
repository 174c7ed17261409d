"""`segue merge`: an adapter and its base as one model."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

SUMMARY = "an adapter and its base as one model"
EXAMPLE = "segue merge runs/digits_of_lucas models/digits_of_lucas"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="run or model directory whose adapter was trained")
    parser.add_argument("out", metavar="OUT", type=Path, help="model directory to write")


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue import starting

    print(starting.merge(given.model, given.out))
