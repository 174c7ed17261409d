"""Tasks, one package or file each. Every task defines these names:

`Recipe`; `check_data`, `build_source`, `build_task` and `sketch` for training; `restore` and `load` for trained models;
`EXAMPLE` (the type of examples), `examples`, `compare` and `LEAST_IDENTICAL` for exports; `START` for fine-tuning.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from segue import recipe
from segue.errors import UserError, missing_extra
from segue.files import LOCK
from segue.runtime import exported
from segue.runtime.table import TASKS

WEIGHTS = ("model.safetensors", "adapter.safetensors")
"""Of a model directory; one of them."""


def module_of(draft: recipe.Draft) -> ModuleType:
    """The module of a recipe's task. Raises a UserError if the recipe names no known task."""
    name = draft.values.get("task")
    if not isinstance(name, str) or name not in TASKS:
        wrong = "missing" if name is None else f"no such task: {name!r}"
        raise UserError(f"{draft.origin('task')}: task: {wrong} (tasks: {', '.join(TASKS)})")
    return module(name)


def recipe_type(task: str) -> type[recipe.Section]:
    """The recipe class of a task."""
    if task not in TASKS:
        raise UserError(f"no such task: {task!r} (tasks: {', '.join(TASKS)})")
    found: type[recipe.Section] = module(task).Recipe
    return found


def module(task: str) -> ModuleType:
    """The module of a task, by its name."""
    try:
        return importlib.import_module(TASKS[task].module)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None


def load(model: Path, device: str = "auto", threads: int | None = None) -> Any:
    """Loads the model of a run, model or exported directory for inference.

    `threads` is the number of CPU threads of exported models; None: all cores.
    """
    if (model / exported.NAME).is_file():
        return exported.load(model, device, threads)
    folder = folder_of(model)
    return module_of(recipe.read(folder / "recipe.toml")).load(folder, device)


def restore(model: Path) -> Any:
    """The contents of a run or model directory: the recipe, the tokenizer and the PyTorch model."""
    folder = folder_of(model)
    return module_of(recipe.read(folder / "recipe.toml")).restore(folder)


def folder_of(model: Path) -> Path:
    """The model directory of a run directory; a model directory itself. Raises a UserError if there is no model."""
    if (model / exported.NAME).is_file():
        raise UserError(f"{model}: an exported model; the run or model directory that it came from is needed here")
    folder = model / "model" if (model / "model").is_dir() else model
    if not (folder / "recipe.toml").is_file() or not _has(folder, *WEIGHTS):
        raise UserError(f"{model}: {_without_model(model, folder)}")
    return folder


def _without_model(model: Path, folder: Path) -> str:
    """What is wrong with a path that has no model; `folder` is its model directory if it has one, else itself."""
    wanted = "a run, model or exported directory is wanted"
    if not model.exists():
        return f"no such folder; {wanted}"
    if model.suffix == ".nemo" or _has(model, "config.json", "adapter_config.json"):
        return f"a model of another toolkit; import it first: segue import {model} OUT"
    if not model.is_dir():
        is_part = _has(model.parent, "recipe.toml", exported.NAME)
        return f"a file; give its folder: {model.parent}" if is_part else f"a file; {wanted}"
    has_begun = _has(model, "checkpoints", "environment.json") or (_has(model, LOCK) and _has(model, "recipe.toml"))
    if folder == model and has_begun:
        return "no model in it yet; training writes one at its first evaluation"
    if _has(folder, "recipe.toml"):
        return f"incomplete: it has recipe.toml, but not {' or '.join(WEIGHTS)}; copy the whole folder"
    for found, lacking in ((WEIGHTS[0], "recipe.toml"), (WEIGHTS[1], "recipe.toml"), ("model.onnx", exported.NAME)):
        if _has(folder, found):
            return f"incomplete: it has {found}, but not {lacking}; copy the whole folder"
    return f"not a run, model or exported directory (it has no recipe.toml and no {exported.NAME})"


def _has(folder: Path, *names: str) -> bool:
    return any((folder / name).exists() for name in names)


def estimate(
    path: Path,
    devices: int,
    memory_gb: float,
    operations_per_second: float | None = None,
    overrides: Sequence[str] = (),
) -> Any:
    """What the recipe at `path` needs on `devices` devices with `memory_gb` * 10^9 bytes each.

    Needs neither the devices nor the data.
    """
    draft = recipe.read(path, overrides)
    task = module_of(draft)
    section: Any = recipe.validate(draft, task.Recipe)
    return estimated(section, task, devices, memory_gb, operations_per_second)


def estimated(
    section: Any, task: ModuleType, devices: int, memory_gb: float, operations_per_second: float | None = None
) -> Any:
    """The same for a recipe of the task in this module."""
    from segue.engine.planning import estimate as engine  # imports torch

    return engine.estimate(
        task.sketch(section),
        section.engine,
        section.batch.micro_batches,
        devices=devices,
        memory_gb=memory_gb,
        operations_per_second=operations_per_second,
    )
