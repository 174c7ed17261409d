"""Which arguments and argument types do several commands share?"""

import json
import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from segue.commands import COMMANDS
from segue.errors import UserError, missing_extra

VOICES_WANTED = (
    "segue train small_voices trains one, or take an ONNX file of a public one, such as CAM++ (docs/speakers.md)"
)


def model(parser: ArgumentParser) -> None:
    """Declares MODEL, for `load_model`."""
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="run directory, model directory or exported directory"
    )


def device(parser: ArgumentParser) -> None:
    """Declares --device, for `load_model`."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")


def skip_bad(parser: ArgumentParser) -> None:
    """Declares --skip-bad."""
    parser.add_argument("--skip-bad", action="store_true", help="leave out and count bad examples instead of stopping")


def base(parser: ArgumentParser) -> None:
    """Declares --from, for `chosen_recipe`."""
    parser.add_argument(
        "--from",
        dest="base",
        metavar="MODEL",
        help="run or model directory to start from (fine-tuning); without RECIPE, its own recipe is used",
    )


def chosen_recipe(
    given: str | None, overrides: Sequence[str], base: str | None, command: str
) -> tuple[Path, list[str], str]:
    """Path, overrides and a name of the recipe that RECIPE, KEY=VALUE and --from say. Imports torch for the latter."""
    from segue import recipe

    is_missing = given is None or ("=" in given and not Path(given).exists())
    overrides = list(overrides)
    if base is not None:
        overrides.insert(0, f"start.model={json.dumps(base)}")
    if is_missing and base is not None:
        from segue import starting

        path, overrides = starting.own_recipe(base, [*filter(None, [given]), *overrides], command)
        return path, overrides, f"{Path(base).resolve().name}_tuned"
    if given is None or is_missing:
        raise UserError(f"RECIPE is missing: segue {command} RECIPE (segue recipes list)")
    path = recipe.find(given)
    return path, overrides, path.stem


def load_model(given: Namespace, ability: str, path: Path | None = None, wanted: str = "") -> Any:
    """Loads the model of the command line, or at `path`. Raises a UserError if it lacks the method `ability`, and says
    which model is `wanted` there, or what this one is for."""
    from segue import tasks

    path = path or given.model
    model = tasks.load(path, given.device)
    if not hasattr(model, ability):
        *others, last = (f"segue {name}" for name in COMMANDS if hasattr(model, name))
        can = f"{', '.join(others)} and {last}" if others else last
        raise UserError(f"{path}: this model does not {ability}; {wanted or f'it is for {can}'}")
    return model


def speakers(parser: ArgumentParser) -> None:
    """Declares --speakers; its value is a number, AUTO, or None if it is not given."""
    parser.add_argument(
        "--speakers", metavar="N|auto", type=speaker_count, help="tell this number of speakers apart (auto: count them)"
    )


def check_names(names: Sequence[str] | None, count: int | str | None) -> None:
    """Raises a UserError if there are not as many --names as --speakers."""
    if names is not None and isinstance(count, int) and len(names) != count:
        raise UserError(f"--speakers {count}, but --names gives {len(names)}: {', '.join(names)}; give as many")


def load_voices(path: Path, device: str = "auto") -> Any:
    """Loads the model of voices at `path`: a run, model or exported directory, or an ONNX file that somebody else made.

    Raises a UserError if it is none.
    """
    from segue import tasks
    from segue.runtime import exported, onnx_embedder

    if path.is_file() and exported.is_runnable(path.parent):
        raise UserError(f"{path}: a file of an exported model; give its folder: {path.parent}")
    if path.is_file() or path.suffix == ".onnx":
        return onnx_embedder.open_graph(path)
    model = tasks.load(path, device)
    if not hasattr(model, "diarize"):
        raise UserError(f"{path}: not a model of voices; {VOICES_WANTED}")
    return model


def import_formats() -> Any:
    """Imports `segue.formats`. Raises a UserError if its extra is not installed."""
    try:
        from segue import formats
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "export") from None
    return formats


T = TypeVar("T", int, float)


def _number(name: str, kind: Callable[[str], T], is_right: Callable[[T], bool]) -> Callable[[str], T]:
    """A type for argparse; `name` is used in error messages."""

    def parse(text: str) -> T:
        try:
            number = kind(text)
        except ValueError:
            raise _wrong(name, text) from None
        if not is_right(number):
            raise _wrong(name, text)
        return number

    return parse


def _wrong(wanted: str, text: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"should be {wanted}, not {text!r}")


positive = _number("a whole number above 0", int, lambda number: number > 0)
whole = _number("a whole number from 0", int, lambda number: number >= 0)
above_zero = _number("a number above 0", float, lambda number: 0 < number < math.inf)
number = _number("a number from 0", float, lambda number: 0 <= number < math.inf)
share = _number("a number from 0 to 1", float, lambda number: 0 <= number <= 1)
points = _number("a number of points from 0", float, lambda number: 0 <= number < math.inf)


def names(text: str) -> list[str]:
    """Parses names that are separated by commas."""
    found = [" ".join(name.split()) for name in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise _wrong("different names, like Ann,Ben", text)
    return found


AUTO = "auto"


def speaker_count(text: str) -> int | str:
    """Parses a number of speakers."""
    return text if text == AUTO else _speakers(text)


_speakers = _number("a whole number above 0, or auto", int, lambda number: number > 0)


def channel(text: str) -> int | str:
    """Parses the channel of a recording."""
    return text if text in ("left", "right", "mix") else _channel(text)


_channel = _number("left, right, mix or a number from 1", int, lambda number: number > 0)
