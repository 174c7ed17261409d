"""Training that starts from another model, its base: finds the base, compares it with the recipe, loads its weights."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from segue import progress, recipe, tasks
from segue.data import manifests
from segue.engine.distributed.parallel import World
from segue.engine.state import start
from segue.engine.state.checkpoint import checksum_of, write_text
from segue.engine.state.start import Inherited
from segue.errors import UserError, warn

REPORT = "start.json"
"""File in a run directory that lists each tensor with its fate (`start.Fate`)."""
_FATES: tuple[start.Fate, ...] = ("loaded", "resized", "new", "left behind")
_SHOWN = 8
TUNING_RATE = 0.1
"""Peak learning rate of fine-tuning / that of the base."""
_TUNING = (
    *("engine.steps=auto", "engine.evaluate_every=auto", "engine.save_every=auto"),
    *("schedule.kind=cosine", "schedule.warmup_steps=100"),
    *('data.train=["train.jsonl"]', "data.dev=auto", "data.rehearsal=[]", "start.tokenizer=keep", "start.freeze=[]"),
)


def own_recipe(base: str, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """Recipe and overrides for fine-tuning without a recipe: the base's own, with changes, followed by `overrides`.

    The changes are other data, a number of steps that depends on them, and lower learning rates. Raises a UserError if
    `overrides` lack data.root.
    """
    if not any(each.startswith("data.root=") for each in overrides):
        raise UserError(
            f"data.root is missing: segue train --from {base} data.root=FOLDER, where `segue prepare` wrote train.jsonl"
        )
    path = tasks.folder_of(Path(base)) / "recipe.toml"
    optimizer = recipe.read(path).values["optimizer"]
    rates = [
        f"optimizer.{key}={value * TUNING_RATE:.3g}"
        for key, value in optimizer.items()
        if key.endswith("learning_rate")
    ]
    return path, [*_TUNING, *rates, *overrides]


def adopted(section: Any, module: ModuleType, run: Path) -> Any:
    """The recipe of a new run with the settings that it takes from its base; copies the base's tokenizers to `run`.

    Only the first rank calls it. Raises a UserError if the base is a model of an unsuitable task or has other inputs.
    """
    if section.start.model is None:
        return section
    folder, base = _base(section, module)
    inheritance = module.START
    for key in inheritance.same:
        changed = recipe.differences(getattr(base, key), getattr(section, key))
        if changed:  # a line without a key: one of the two recipes has no such table
            before = ", ".join(f"{key}.{line}" if not line.startswith(":") else key for line in changed)
            raise UserError(
                f"start.model: {folder} reads other input than this recipe ({before}); set the recipe's {key} to the "
                "base's, or train from scratch"
            )
    update: dict[str, Any] = {
        "start": section.start.model_copy(update={"story": _story(folder, base)}),
        # "auto" gets the base's value, since no other would fit its weights.
        "model": recipe.settled(section.model, base.model)
        if type(base.model) is type(section.model)
        else section.model,
    }
    if section.start.tokenizer == "keep" and base.task == section.task:
        for key, name in inheritance.tokenizers.items():
            update[key] = getattr(base, key)
            if (folder / name).is_file():
                shutil.copyfile(folder / name, run / name)
    with_base = section.model_copy(update=update)
    for line in recipe.differences(section, with_base):
        if not line.startswith("start.story"):
            progress.say(f"{line} (the base's)")
    return with_base


def as_adopted(section: Any, before: Any, module: ModuleType) -> Any:
    """The recipe of a resumed run, with the settings that it took from its base when it began (`before`)."""
    if section.start.model is None or before.start.model is None:
        return section
    update: dict[str, Any] = {"start": section.start.model_copy(update={"story": before.start.story})}
    if section.start.tokenizer == "keep":
        update |= {key: getattr(before, key) for key in module.START.tokenizers}
    return section.model_copy(update=update)


def begin(section: Any, module: ModuleType, run: Path, world: World) -> Callable[[nn.Module], None] | None:
    """A function that loads the base's weights into a new run's model and reports their fates; None without a base."""
    if section.start.model is None:
        return None
    folder, before = _base(section, module)
    inheritance: start.Inheritance = tasks.module(before.task).START
    is_same_task = before.task == section.task
    rows = inheritance.rows(start.Side(before, folder), start.Side(section, run)) if is_same_task else {}
    part = "" if is_same_task else module.START.of_others[before.task]
    base = start.Base(folder / "model.safetensors", inheritance.renamed, rows, part)

    def give(model: nn.Module) -> None:
        found = start.load(model, base, section.seed)
        if world.is_first:
            _report(found, rows, section, run)

    return give


def _report(found: Sequence[Inherited], rows: Mapping[str, start.Rows], section: Any, run: Path) -> None:
    """Prints a summary of the tensors' fates, and writes all of them to REPORT."""
    counts = ((fate, [each for each in found if each.fate == fate]) for fate in _FATES)
    tensors = {fate: each for fate, each in counts if each}
    path = run / REPORT
    told = {"model": section.start.model, "story": section.start.story, "tensors": [each._asdict() for each in found]}
    write_text(path, json.dumps(told, indent=1) + "\n")
    summary = ", ".join(f"{len(each)} {fate}" for fate, each in tensors.items())
    progress.say(f"starts from {section.start.model}: tensors: {summary} (each: {path})")
    for fate, each in tensors.items():
        if fate != "loaded":
            for tensor in each[:_SHOWN]:
                progress.say(f"  {fate}: {tensor.name}: {tensor.detail}")
            if len(each) > _SHOWN:
                progress.say(f"  {fate}: {len(each) - _SHOWN} more")
    for resized in tensors.get("resized", ()):
        num_drawn = sum(not row for row in rows[resized.name])
        if num_drawn > len(rows[resized.name]) / 2:
            warn(f"start.model: the base knows few of these tokens or classes; {resized.name}: {num_drawn} drawn")


def _base(section: Any, module: ModuleType) -> tuple[Path, Any]:
    """The base's model directory and recipe."""
    folder = tasks.folder_of(Path(section.start.model))
    draft = recipe.read(folder / "recipe.toml")
    task = draft.values.get("task")
    if task not in (section.task, *module.START.of_others):
        raise UserError(f"start.model: {folder} is a model of {task}; this recipe is of {section.task}")
    return folder, recipe.validate(draft, tasks.recipe_type(str(task)))


def _story(folder: Path, base: Any) -> str:
    """A description of the base for the model card: path, license, data, checksum, and the base's own base."""
    before = f"; that one from {base.start.story}" if base.start.story else ""
    checksum = checksum_of(folder / "model.safetensors")
    return (
        f"{folder} (license {base.license}, trained on {manifests.training_name(base.data)}; SHA-256 of its weights "
        f"{checksum[:16]}){before}"
    )
