"""One task, one file. A task's module has `Recipe`, `train`, and `load` for what a user does with a trained model."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from segue import recipe
from segue.errors import UserError, missing_extra
from segue.files import PARTIAL

try:
    import fcntl
except ModuleNotFoundError:  # Windows: runs are not locked there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

TASKS = {"speech_recognition": "segue.tasks.speech_recognition", "translation": "segue.tasks.translation"}
"""Name in a recipe's `task` -> module."""


def module_of(draft: recipe.Draft) -> ModuleType:
    """The module of the task that a recipe names."""
    name = draft.values.get("task")
    if name not in TASKS:
        wrong = "missing" if name is None else f"no such task: {name!r}"
        raise UserError(f"{draft.origin('task')}: task: {wrong} (tasks: {', '.join(TASKS)})")
    return _module(name)


def recipe_type(task: str) -> type[recipe.Section]:
    """What a recipe of this task looks like."""
    if task not in TASKS:
        raise UserError(f"no such task: {task!r} (tasks: {', '.join(TASKS)})")
    found: type[recipe.Section] = _module(task).Recipe
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(TASKS[name])
    except ModuleNotFoundError as error:
        if error.name in ("torch", "safetensors"):
            raise missing_extra(error.name, "train") from None
        raise


def train(path: Path, run: Path, overrides: Sequence[str] = ()) -> Any:
    """Trains the recipe at `path` in the directory `run`, or goes on there; `overrides` are key.path=value."""
    draft = recipe.read(path, overrides)
    module = module_of(draft)
    section = recipe.validate(draft, module.Recipe)
    with _alone_in(run):
        _claim(run, section)
        return module.train(section, run)


def load(model: Path, device: str = "auto") -> Any:
    """The trained model in a run directory or a model directory, ready for use."""
    folder = model / "model" if (model / "model").is_dir() else model
    if not (folder / "recipe.toml").is_file():
        if (model / "recipe.toml").is_file() or (model / "checkpoints").is_dir():
            raise UserError(f"{model}: no model in it yet; training writes one at its first evaluation")
        raise UserError(f"{model}: not a run directory or a model directory (it has no recipe.toml)")
    return module_of(recipe.read(folder / "recipe.toml")).load(folder, device)


# What may differ when a run goes on: none of it changes what is learnt.
_MAY_CHANGE = (
    "data.root",
    "data.skip_bad",  # a run that stopped at a bad example may go on without it
    "engine.device",
    "engine.workers",
    "engine.threads",
    "engine.log_every",
    "engine.save_every",
    "engine.keep_checkpoints",
)


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Refuses a run directory that another process trains in. The lock ends with the process, however it ends."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{run}: another process is training there; give another --out, or wait") from None
        yield


def _claim(run: Path, section: recipe.Section) -> None:
    """Makes `run` the directory of this recipe; refuses one that belongs to another."""
    from segue.engine.checkpoint import write_text  # imports torch

    kept = run / "recipe.toml"
    if kept.is_file() and not any((run / "checkpoints").glob("step_*")):
        (run / "tokenizer.json").unlink(missing_ok=True)  # nothing was learnt yet: the recipe may still change
    elif kept.is_file():
        before = recipe.validate(recipe.read(kept), type(section))
        changed = [line for line in recipe.differences(before, section) if not line.startswith(_MAY_CHANGE)]
        if changed:
            listed = "\n".join(f"  {line}" for line in changed)
            raise UserError(f"{run}: belongs to another recipe; give another --out. It differs in\n{listed}")
    elif not all(path.name.startswith((PARTIAL, LOCK)) for path in run.iterdir()):
        raise UserError(f"{run}: not empty, and no run directory; give another --out")
    write_text(kept, recipe.dump(section))
