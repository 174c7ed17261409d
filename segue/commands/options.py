"""Which arguments, kinds of values and models do several commands have in common?"""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from segue.commands import COMMANDS
from segue.errors import UserError, missing_extra


def model(parser: ArgumentParser) -> None:
    """MODEL, as `load_model` takes it."""
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="run directory, model directory or exported directory"
    )


def device(parser: ArgumentParser) -> None:
    """--device, as `load_model` takes it."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")


def skip_bad(parser: ArgumentParser) -> None:
    """--skip-bad."""
    parser.add_argument("--skip-bad", action="store_true", help="leave out and count bad examples instead of stopping")


def load_model(given: Namespace, ability: str, path: Path | None = None) -> Any:
    """The trained model that the command line names, or the one at `path`."""
    from segue import tasks

    path = path or given.model
    model = tasks.load(path, given.device)
    if not hasattr(model, ability):
        can = [name for name in COMMANDS if hasattr(model, name)]
        raise UserError(f"{path}: this model does not {ability}; it can {', '.join(can)}")
    return model


def import_formats() -> Any:
    """The module `segue.formats`, which needs an extra."""
    try:
        from segue import formats
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "export") from None
    return formats


T = TypeVar("T", int, float)


def _number(name: str, kind: Callable[[str], T], is_right: Callable[[T], bool]) -> Callable[[str], T]:
    """A type for argparse, which calls it `name` in messages."""

    def parse(text: str) -> T:
        number = kind(text)
        if not is_right(number):
            raise ValueError
        return number

    parse.__name__ = name
    return parse


positive = _number("whole number above 0", int, lambda number: number > 0)
whole = _number("whole number from 0", int, lambda number: number >= 0)
above_zero = _number("number above 0", float, lambda number: 0 < number < math.inf)
points = _number("number of points from 0", float, lambda number: 0 <= number < math.inf)


def channel(text: str) -> int | str:
    """Which channel of a recording."""
    return text if text in ("left", "right", "mix") else positive(text)


channel.__name__ = "channel (left, right, mix or a number from 1)"
