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
from segue.engine.distributed import parts
from segue.engine.distributed.parallel import World
from segue.engine.state import start
from segue.engine.state.adapter import ADAPTER
from segue.engine.state.checkpoint import WEIGHTS, checksum_of, write_tensors, write_text
from segue.engine.state.start import Inherited
from segue.errors import UserError, count_of, warn
from segue.files import LOCK, PARTIAL, fcntl
from segue.layers import lora

REPORT = "start.json"
"""File in a run directory that lists each tensor with its fate (`start.Fate`)."""
_FATES: tuple[start.Fate, ...] = ("loaded", "resized", "new", "left behind")
_SHOWN = 8
TUNING_RATE = 0.3
"""Peak learning rate of fine-tuning / that of the base. A tenth learned less from recordings of another kind, where all
of it gained little more and forgot more (bench/RESULTS.md)."""
_TUNING = (
    *("engine.steps=auto", "engine.evaluate_every=auto", "engine.save_every=auto"),
    "engine.average_count=3",  # few development examples would choose one state by luck
    *("schedule.kind=cosine", "schedule.warmup_steps=100"),
    *('data.train=["train.jsonl"]', "data.dev=auto", "data.rehearsal=[]", "start.tokenizer=keep"),
    *("start.freeze=[]", "start.statistics=new", "start.depth_ratio=1.0", "start.thaw_steps=0"),
)


def own_recipe(base: str, overrides: Sequence[str], command: str = "train") -> tuple[Path, list[str]]:
    """Recipe and overrides for fine-tuning without a recipe: the base's own, with changes, followed by `overrides`.

    The changes are other data, a number of steps that depends on them, and lower learning rates, except for an adapter
    or other tokens. Raises a UserError, which names `command`, if `overrides` lack data.root.
    """
    path = tasks.folder_of(Path(base)) / "recipe.toml"
    if not any(each.startswith("data.root=") for each in overrides):
        raise UserError(
            f"data.root is missing: segue {command} --from {base} data.root=FOLDER, "
            "where `segue prepare` wrote train.jsonl"
        )
    optimizer = recipe.read(path).values["optimizer"]
    # An adapter's matrices, one of which is zero at first, and rows of new tokens learn at the rates of a new model.
    given = [each.partition("=") for each in overrides]
    has_new_tokens = any(key == "start.tokenizer" and value.strip("\"' ") == "recipe" for key, _, value in given)
    share = 1.0 if has_new_tokens or any(key.startswith("start.adapter") for key, *_ in given) else TUNING_RATE
    rates = [
        f"optimizer.{key}={value * share:.3g}" for key, value in optimizer.items() if key.endswith("learning_rate")
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
        if changed:  # without a key: one of the two recipes has no such table
            before = ", ".join(f"{key}.{each}" if each.key else key for each in changed)
            own = " (--from without RECIPE takes its recipe)" if base.task == section.task else ""
            raise UserError(
                f"start.model: {folder} reads other input than this recipe ({before}); set the recipe's {key} to the "
                f"base's{own}, or train from scratch"
            )
    checksum = checksum_of(folder / WEIGHTS)
    update: dict[str, Any] = {
        "start": section.start.model_copy(update={"story": story(folder, base, checksum), "checksum": checksum}),
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
    for each in recipe.differences(section, with_base):
        if each.key not in ("start.story", "start.checksum"):
            progress.say(f"{each} (the base's)")
    return with_base


def as_adopted(section: Any, before: Any, module: ModuleType) -> Any:
    """The recipe of a resumed run, with the settings that it took from its base when it began (`before`)."""
    if section.start.model is None or before.start.model is None:
        return section
    kept = {"story": before.start.story, "checksum": before.start.checksum}
    update: dict[str, Any] = {"start": section.start.model_copy(update=kept)}
    if section.start.tokenizer == "keep":
        update |= {key: getattr(before, key) for key in module.START.tokenizers}
    return section.model_copy(update=update)


def begin(
    section: Any, module: ModuleType, run: Path, world: World, *, is_reported: bool = True
) -> Callable[[nn.Module], None] | None:
    """A function that loads the base's weights into a new run's model and reports their fates; None without a base."""
    if section.start.model is None:
        return None
    folder, before = _base(section, module)
    inheritance: start.Inheritance = tasks.module(before.task).START
    is_same_task = before.task == section.task
    rows = inheritance.rows(start.Side(before, folder), start.Side(section, run)) if is_same_task else {}
    part = "" if is_same_task else module.START.of_others[before.task]
    base = start.Base(folder / WEIGHTS, inheritance.renamed, rows, part)

    def give(model: nn.Module) -> None:
        found = start.load(model, base, section.seed)
        _refuse_frozen(model, found, section.start)
        if world.is_first and is_reported:
            _report(found, rows, section, run)
            _say_statistics(model)

    return give


def _refuse_frozen(model: nn.Module, found: Sequence[Inherited], section: start.StartSection) -> None:
    """Raises a UserError if a frozen parameter, or statistics that are kept, are not the base's."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    fresh = [each.name for each in found if each.fate in ("new", "resized")]
    statistics = [name for name in fresh if name.endswith(".running_mean")]
    if section.statistics == "keep" and statistics:
        raise UserError(f"start.statistics: {statistics[0]}: the base has none to keep; leave the key out")
    names = [name for name in fresh if name in frozen]
    if not names:
        return
    named = f"{', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}: not as in the base, and have to be trained"
    if section.adapter is None:
        raise UserError(f"start.freeze: {named}")
    learned = json.dumps(list(dict.fromkeys(name.partition(".")[0] for name in names)))
    raise UserError(f"start.adapter: {named}: start.adapter.learn='{learned}'")


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
        others = [tensor for tensor in each if fate != "loaded" and not lora.is_of_adapter(tensor.name)]
        for tensor in others[:_SHOWN]:
            progress.say(f"  {fate}: {tensor.name}: {tensor.detail}")
        if len(others) > _SHOWN:
            progress.say(f"  {fate}: {len(others) - _SHOWN} more")
    for resized in tensors.get("resized", ()):
        num_drawn = sum(not row for row in rows[resized.name])
        if num_drawn > len(rows[resized.name]) / 2:
            warn(f"start.model: the base knows few of these tokens or classes; {resized.name}: {num_drawn} drawn")


def _say_statistics(model: nn.Module) -> None:
    """Says what becomes of the base's statistics in BatchNorm layers."""
    count, num_learning = len(parts.batch_norms(model)), len(parts.learning_batch_norms(model))
    if not count:
        return
    said = f"{num_learning} estimated anew, {count - num_learning} kept as in the base"
    if num_learning in (0, count):
        said = "estimated anew" if num_learning else "kept as in the base"
    progress.say(f"statistics of {count_of(count, 'BatchNorm layer')}: {said}")


def _base(section: Any, module: ModuleType) -> tuple[Path, Any]:
    """The base's model directory and recipe."""
    folder = tasks.folder_of(Path(section.start.model))
    _refuse_running(folder)
    draft = recipe.read(folder / "recipe.toml")
    task = draft.values.get("task")
    if task not in (section.task, *module.START.of_others):
        raise UserError(f"start.model: {folder} is a model of {task}; this recipe is of {section.task}")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"start.model: {folder} is an adapter; make a model of it first: segue merge {folder} OUT")
    return folder, recipe.validate(draft, tasks.recipe_type(str(task)))


def _refuse_running(folder: Path) -> None:
    """Raises a UserError if a training is running in whose run directory this one is: its model may change any time."""
    lock = folder.resolve().parent / LOCK
    if fcntl is None or not lock.is_file():
        return
    with lock.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"start.model: {folder}: {file.read().strip() or 'another process'} is training it, so it may change; "
                "wait, or start from a copy of this folder"
            ) from None


def story(folder: Path, base: Any, checksum: str) -> str:
    """A description of the base for the model card: path, license, data, checksum, and the base's own base."""
    before = f"; that one from {base.start.story}" if base.start.story else ""
    return (
        f"{folder} (license {base.license}, trained on {manifests.training_name(base.data)}; SHA-256 of its weights "
        f"{checksum[:16]}){before}"
    )


def merge(model: Path, out: Path) -> Path:
    """Writes a plain model directory: an adapter and its base as one model, which computes the same.

    Raises a UserError if `model` is not an adapter, its base is not there, or `out` exists.
    """
    folder = tasks.folder_of(model)
    draft = recipe.read(folder / "recipe.toml")
    module = tasks.module_of(draft)
    section: Any = recipe.validate(draft, module.Recipe)
    if section.start.adapter is None:
        raise UserError(f"{model}: no adapter; it is a model already")
    if out.exists():
        raise UserError(f"{out}: exists already; give another directory")
    trained = module.restore(folder)
    partial = out.with_name(f"{PARTIAL}{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(ADAPTER, "recipe.toml"))
    plain = section.model_copy(update={"start": section.start.model_copy(update={"adapter": None})})
    write_text(partial / "recipe.toml", recipe.dump(plain))
    write_tensors(partial / WEIGHTS, trained.model.state_dict())
    partial.rename(out)
    return out
