"""How is an exported model loaded? By its `segue.json`, which describes the model and names its runtime."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segue.errors import UserError, missing_extra
from segue.recipe import Section
from segue.runtime.table import TASKS, find

NAME = "segue.json"


def save(folder: Path, target: str, metadata: Section, **more: Any) -> None:
    """Writes `segue.json` for `load`, with additional values for other programs."""
    values = {"target": target, **metadata.model_dump(mode="json"), **more}
    (folder / NAME).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path, device: str = "auto", threads: int | None = None) -> Any:
    """Loads the model in an exported directory for inference on the CPU.

    Raises a UserError for other devices, for exports that Segue cannot run, and for directories that are not exports.
    """
    if device not in ("auto", "cpu"):
        raise UserError(f"{folder}: exported models run on the CPU here, not on {device}")
    if threads is not None and threads < 1:
        raise UserError(f"threads: a number above 0 wanted, got {threads}")
    path = folder / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        entry, name = TASKS[values["task"]], values["target"]
        target = entry.targets.get(name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise _strange(path, str(problem)) from None
    if target is None or target.opens is None:
        ours = next(each for each, found in entry.targets.items() if found.opens is not None)
        raise UserError(
            f"{folder}: an export for {name}, which Segue does not run itself (its README.md says how); "
            f"export to {ours} to use it here"
        )
    try:
        kind, opens = find(entry.metadata), find(target.opens)
    except ModuleNotFoundError as error:
        if target.extra is None:
            raise
        raise missing_extra(error.name or target.extra, target.extra) from None
    return opens(folder, _metadata(path, values, kind), threads)


def is_runnable(folder: Path) -> bool:
    """Whether the directory is an export that `load` opens."""
    try:
        values = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return TASKS[values["task"]].targets[values["target"]].opens is not None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _metadata(path: Path, values: dict[str, Any], kind: type[Section]) -> Section:
    """The metadata section from the values of `segue.json`."""
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    try:
        return kind.model_validate_json(json.dumps(known))  # JSON's rules: lists are tuples
    except ValidationError as problem:
        first = problem.errors()[0]
        raise _strange(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _strange(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: not written by `segue export`: {problem}")
