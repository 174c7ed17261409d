"""Trains a recipe in a run directory: prepares the data, tries batch budgets if necessary, and runs the trainer."""

import math
import os
import re
import shlex
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

from segue import progress, recipe, tasks
from segue.data import automatic, manifests
from segue.data.mixture import Mixture
from segue.errors import UserError, missing_extra, warn
from segue.files import LOCK, PARTIAL, check_folder, fcntl, free

try:
    import torch

    from segue import starting
    from segue.engine import environment, settings
    from segue.engine.distributed import parallel
    from segue.engine.distributed.parallel import ALONE, World
    from segue.engine.distributed.watchdog import WAITS, Watchdog
    from segue.engine.log import MakeLogger
    from segue.engine.planning import trials
    from segue.engine.planning.simulation import simulate
    from segue.engine.state import replay
    from segue.engine.state.checkpoint import saved, write_text
    from segue.engine.step import NotFiniteError
    from segue.engine.trainer import Result, Trainer
except ModuleNotFoundError as error:
    if error.name in ("torch", "safetensors"):
        raise missing_extra(error.name, "train") from None
    raise

_MOST_CHANGES = 4  # in a command that is proposed
_STEP_COUNTS = ("steps", "evaluate_every", "save_every")  # of the engine
RANKS = ".ranks"
RECIPE = "recipe.toml"


def train(path: Path, run: Path, overrides: Sequence[str] = (), loggers: Sequence[MakeLogger] = ()) -> Result:
    """Trains the recipe at `path` in the directory `run`, or resumes there; `overrides` are key.path=value.

    `loggers` are used in addition to the recipe's `engine.loggers`. Under torchrun, every rank calls this function.
    Raises a UserError for mistakes in the recipe or the data, or if `run` belongs to another recipe or is in use.
    """
    progress.show()
    with _told_once_a_machine():
        check_folder("--out", run)
        section, module = read(path, overrides)
        module.check_data(section.data)  # first: if they are missing, differences from the run do not matter
    with (
        parallel.joined(section.engine.device) as world,
        _alone_in(run, world),
        Watchdog(run / RANKS, world, section.engine.watchdog_seconds) as watchdog,
    ):
        section = world.first(lambda: _claim(run, section, module))
        is_new = world.first(lambda: not saved(run / "checkpoints"))
        asked = section
        watchdog.note("prepares the data")
        with _told_once_a_machine():
            section, own, source = _data(section, module, run, world)
            task = module.build_task(section, own)
        if waits_for_budget(section, source):
            watchdog.note("tries budgets" if world.is_first else WAITS)
            found = world.first(lambda: _largest_budget(section, source, task, run, watchdog))
            section, source = _with_budget(section, source, found)
        section = task.recipe = _with_steps(section, source)  # as written to the model directory
        watchdog.note("takes up the run")
        if world.is_first:
            _say_what_was_open(asked, section)
        with _told_once_a_machine():
            operations = _operations_per_amount(section, module)
            start = starting.begin(section, module, run, world) if is_new else None
            trainer = _trainer(section, source, task, run, world, watchdog, operations, loggers, start)
        world.first(lambda: _keep(run, section))  # last, once nothing else can fail
        return trainer.train()


def num_processes(path: Path, overrides: Sequence[str] = ()) -> int:
    """Number of processes to start on this machine: one for each GPU that the recipe can use; 1 under torchrun."""
    if "WORLD_SIZE" in os.environ:
        return 1
    section, _ = read(path, overrides)
    engine = section.engine
    if engine.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return 1
    count = torch.cuda.device_count()
    if engine.data_parallel is not None and engine.shard is not None:
        return int(min(count, engine.data_parallel * engine.shard * engine.tensor_parallel))
    fixed = (engine.data_parallel or 1) * (engine.shard or 1)
    groups = count // engine.tensor_parallel // fixed * fixed
    used = max((n for n in range(fixed, groups + 1, fixed) if section.batch.micro_batches % n == 0), default=fixed)
    if used < groups:
        warn(
            f"batch.micro_batches: {section.batch.micro_batches} keeps {used} of {groups} GPUs or groups of them busy; "
            f"a multiple of {groups} would use all"
        )
    return used * int(engine.tensor_parallel)


class Begun(NamedTuple):
    """What a training begins with, on one device and without a run that is kept."""

    section: Any
    """The recipe, with what it leaves to the data."""
    module: ModuleType
    own: Any
    """The data that scores are of."""
    source: Any
    """These, with what is rehearsed."""
    run: Path
    """Folder of tokenizers."""

    def with_budget(self, budget: float) -> Self:
        """The same with this budget per micro-batch."""
        section, source = _with_budget(self.section, self.source, budget)
        return self._replace(section=section, source=source)


def begin(section: Any, module: ModuleType, run: Path) -> Begun:
    """Prepares the data of a recipe in an empty folder. Raises a UserError for mistakes in the recipe or the data."""
    section = starting.adopted(section, module, run)
    section, own, source = _data(section, module, run, ALONE)
    return Begun(section, module, own, source, run)


def trial(begun: Begun) -> Trainer:
    """A trainer for trial steps, whose budget is a number."""
    section = _with_steps(begun.section, begun.source)
    section = section.model_copy(update={"engine": _on_one_device(section.engine)})
    task = begun.module.build_task(section, begun.own)
    start = starting.begin(section, begun.module, begun.run, ALONE, is_reported=False)
    return _trainer(section, begun.source, task, begun.run, ALONE, begin=start)


def learning_rates(
    path: Path, overrides: Sequence[str] = (), *, smallest: float = 1e-6, largest: float = 1.0, num_steps: int = 100
) -> tuple[list[trials.Rate], float]:
    """A learning rate range test on one device: the losses at growing rates, and a suggested rate. Writes no run.

    Raises a UserError if the loss is never finite.
    """
    section, module = read(path, overrides)
    with tempfile.TemporaryDirectory() as folder:
        begun = begin(section, module, Path(folder))
        if waits_for_budget(begun.section, begun.source):
            task = module.build_task(begun.section, begun.own)
            begun = begun.with_budget(_largest_budget(begun.section, begun.source, task, begun.run))
        rates = list(trials.learning_rates(trial(begun), smallest, largest, num_steps))
    if not rates:
        raise UserError(f"{path}: the loss is not finite even at a learning rate of {smallest:g}")
    return rates, trials.suggested(rates)


def take_again(path: Path, overrides: Sequence[str] = ()) -> Iterator[replay.Finding]:
    """Repeats the step in the replay file `path`, one finding per micro-batch; `overrides` change the run's recipe."""
    replay.step_and_data(path)
    run = path.parent
    if not (run / RECIPE).is_file():
        raise UserError(f"{path}: no {RECIPE} next to it; a replay file is read in its run directory")
    section, module = read(run / RECIPE, overrides)
    section, own, source = _data(section, module, run, ALONE)
    task = module.build_task(section, own)
    return replay.take_again(task, source, section.engine, section.batch.micro_batches, section.seed, path)


@contextmanager
def _told_once_a_machine() -> Iterator[None]:
    """Inside, all ranks of a machine raise the same UserErrors; only its first rank reports them, others exit."""
    try:
        yield
    except UserError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise SystemExit(2) from None
        raise


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[Any, ModuleType]:
    """The recipe, and the module of its task. Raises a UserError for mistakes in it."""
    draft = recipe.read(path, overrides)
    module = tasks.module_of(draft)
    return recipe.validate(draft, module.Recipe), module


def _data(section: Any, module: ModuleType, run: Path, world: World) -> tuple[Any, Any, Any]:
    """The recipe with what it leaves to the data; the data that scores are of; and these with what is rehearsed."""
    section, own = module.build_source(section, run, world)
    if not section.data.rehearsal:
        return section, own, own
    earlier = section.model_copy(update={"data": manifests.rehearsal_of(section.data)})
    _, rehearsed = module.build_source(earlier, run, world)
    return section, own, Mixture(own, rehearsed, section.data.rehearsal_share)


def _operations_per_amount(section: Any, module: ModuleType) -> float | None:
    """Operations per unit of the batch budget, for a full micro-batch; None if the device's peak is unknown."""
    device = parallel.choose_device(section.engine.device)
    if environment.peak_operations(device, section.engine.precision, section.engine.matmul) is None:
        return None
    sketch = module.sketch(section)
    simulation = simulate(sketch.task, sketch.batch, section.engine)
    return simulation.plain.operations / simulation.amount


def _trainer(
    section: Any,
    source: Any,
    task: Any,
    run: Path,
    world: World,
    watchdog: Watchdog | None = None,
    operations_per_amount: float | None = None,
    loggers: Sequence[MakeLogger] = (),
    begin: Callable[[torch.nn.Module], None] | None = None,
) -> Trainer:
    return Trainer(
        task,
        source,
        run,
        section.engine,
        section.batch.micro_batches,
        section.seed,
        world,
        watchdog,
        operations_per_amount,
        loggers,
        begin,
    )


def _on_one_device(engine: Any) -> Any:
    """Engine settings for a trial on a single device."""
    return engine.model_copy(update={"data_parallel": None, "shard": None, "tensor_parallel": 1, "offload": False})


def waits_for_budget(section: Any, source: Any) -> bool:
    """Whether the budget of a micro-batch is to be found by trial steps."""
    return getattr(section.batch, source.unit) == recipe.AUTO  # type: ignore[no-any-return]


def _with_budget(section: Any, source: Any, budget: float) -> tuple[Any, Any]:
    """Recipe and source with this budget per micro-batch."""
    batch = section.batch.model_copy(update={source.unit: budget})
    return section.model_copy(update={"batch": batch}), source.with_budget(budget)


def _largest_budget(section: Any, source: Any, task: Any, run: Path, watchdog: Watchdog | None = None) -> float:
    """The largest budget per micro-batch that fits in the memory of one device."""
    engine, key = section.engine, f"batch.{source.unit}"
    if engine.tensor_parallel > 1 or (engine.shard or 1) > 1:
        raise UserError(f'{key}: "auto" tries one device; a model that is sharded needs a number (segue estimate)')
    no_run = {"steps": 1, "evaluate_every": 1, "save_every": 1}
    alone = _on_one_device(engine).model_copy(update={"compile": False, **no_run})
    device = parallel.choose_device(engine.device)

    def take(budget: float) -> None:
        progress.say(f"{key}: tries {budget:,.6g}")
        trial = source.with_budget(budget)
        trainer = Trainer(task, trial, run, alone, 1, section.seed, ALONE, watchdog)
        plan = trial.plan("train")
        for number in plan.heaviest():
            batch = trial.load("train", plan.micro_batch(number))
            try:
                trainer.steps.take([batch], number, *(0.0 for _ in task.phases))
            except NotFiniteError:
                continue  # only memory matters here

    smallest, largest = source.budgets()
    found = trials.largest_budget(smallest, largest, take, device)
    # Rounded, so that the recipe has the exact value and a resumed run the same batches. Seconds are rounded up: the
    # longest example has to fit.
    found = int(found) if source.unit == "tokens" else math.ceil(found * 100) / 100
    steps = source.with_budget(found).plan("train").num_micro_batches / section.batch.micro_batches
    progress.say(
        f"{key}: {found:g} fits in memory; an epoch has {steps:.1f} steps: check engine.steps ({engine.steps}) and "
        "the learning rate"
    )
    return found


def _with_steps(section: Any, source: Any) -> Any:
    """The recipe with numbers of steps in place of epochs and "auto" in `engine`."""
    engine = section.engine
    an_epoch = source.plan("train").num_micro_batches / section.batch.micro_batches

    def number(value: int | str, auto: Callable[[], int]) -> int:
        if isinstance(value, int):
            return value
        return auto() if value == recipe.AUTO else max(1, round(settings.epochs(value) * an_epoch))

    steps = number(engine.steps, lambda: automatic.num_steps(source.epochs(), an_epoch))
    evaluate_every = number(engine.evaluate_every, lambda: automatic.evaluate_every(steps))
    save_every = number(engine.save_every, lambda: automatic.save_every(steps))
    numbers = dict(zip(_STEP_COUNTS, (steps, evaluate_every, save_every), strict=True))
    return section.model_copy(update={"engine": engine.model_copy(update=numbers)})


def _say_what_was_open(asked: Any, section: Any) -> None:
    """Prints each key that was chosen from the data."""
    for each in recipe.differences(asked, section):
        progress.say(str(each))


_STAYS_OPEN = ("engine.device",)  # "auto" is resolved on each machine

# Keys that may differ when a run is resumed: they do not change what is learned.
_MAY_CHANGE = (
    "license",
    "data.root",
    "data.skip_bad",  # a run that stopped at a bad example may continue without it
    "engine.device",
    "engine.data_parallel",
    "engine.shard",
    "engine.tensor_parallel",
    "engine.offload",
    "engine.recompute",
    "engine.compile",
    "engine.watchdog_seconds",
    "engine.workers",
    "engine.threads",
    "engine.log_every",
    "engine.save_every",
    "engine.keep_checkpoints",
    "engine.loggers",
)


@contextmanager
def _alone_in(run: Path, world: World) -> Iterator[None]:
    """Raises a UserError if another training uses the run directory. The lock ends with its process, even if killed."""
    locks: list[Any] = []  # of the first rank only
    world.first(lambda: locks.append(_lock(run)))
    try:
        yield
    finally:
        for lock in locks:
            lock.close()


def _lock(run: Path) -> Any:
    run.mkdir(parents=True, exist_ok=True)
    lock = (run / LOCK).open("a+", encoding="utf-8")
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise UserError(f"{run}: {holder} is training there; give another --out, or wait") from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    if fcntl is not None:
        # Otherwise, a data worker that hangs would keep the lock after its trainer was killed.
        os.register_at_fork(after_in_child=lock.close)
    return lock


def _claim(run: Path, section: Any, module: ModuleType) -> Any:
    """Makes `run` the directory of this recipe; raises a UserError if it belongs to another one.

    Returns the recipe with the value that each "auto" had when the run began.
    """
    kept = run / RECIPE
    if not kept.is_file() and not all(path.name.startswith((PARTIAL, LOCK, RANKS)) for path in run.iterdir()):
        raise UserError(f"{run}: not empty, and no run directory; give another --out")
    if not saved(run / "checkpoints"):
        if kept.is_file():  # nothing was learned yet: the recipe may still change
            (run / "tokenizer.json").unlink(missing_ok=True)
        section = starting.adopted(section, module, run)
        write_text(kept, recipe.dump(section))
    else:
        if recipe.read(kept).values.get("task") == section.task:
            section = starting.as_adopted(section, _kept(run, type(section)), module)
        _refuse_another(run, section)
        section = recipe.settled(section, _kept(run, type(section)), _STAYS_OPEN)
    return section


def _keep(run: Path, section: Any) -> None:
    """Writes the recipe with all values chosen from the data. Raises a UserError if a started run has another one."""
    if saved(run / "checkpoints"):
        _refuse_another(run, section)
    write_text(run / RECIPE, recipe.dump(section))


def _kept(run: Path, recipe_type: type[Any]) -> Any:
    """The recipe in a run directory."""
    return recipe.validate(recipe.read(run / RECIPE), recipe_type)


def _refuse_another(run: Path, section: Any) -> None:
    """Raises a UserError if the run, which has begun, has another recipe."""
    draft = recipe.read(run / RECIPE)
    task = draft.values.get("task")
    if task != section.task:  # nothing else could be compared
        changed = [recipe.Difference("task", str(task), section.task)]
    else:
        before = recipe.validate(draft, type(section))
        after = recipe.settled(section, before, _STAYS_OPEN)
        waiting = [name for name in _STEP_COUNTS if settings.epochs(getattr(after.engine, name))]
        ignored = (*_MAY_CHANGE, *(f"engine.{name}" for name in waiting))
        changed = [each for each in recipe.differences(before, after) if not each.key.startswith(ignored)]
    if changed:
        listed = "\n".join(f"  {each}" for each in changed)
        new = free(run)
        better = ""
        others = ("task", "start.model", *tasks.module(section.task).START.same)  # with these, its weights are no start
        if (run / "model").is_dir() and not any(each.key.startswith(others) for each in changed):
            better = f"; with the weights of this one: {_from(run, new, changed)}"
        raise UserError(
            f"{run}: belongs to another recipe. It differs in\n{listed}\n"
            f"{_progress(run)}; what a run learns cannot change once it has begun. "
            f"--out {shlex.quote(str(new))} begins a new one{better}"
        )


def _from(run: Path, new: Path, changed: Sequence[recipe.Difference]) -> str:
    """The command that trains a changed recipe from the model of a run."""
    words = [f"{key}={after}" for key, _, after in changed if re.fullmatch(r"[a-z_.]+", key) and after != "(none)"]
    recipe_of, changes = (run / RECIPE, words) if len(words) == len(changed) <= _MOST_CHANGES else ("RECIPE", [])
    return shlex.join(["segue", "train", str(recipe_of), "--from", str(run), "--out", str(new), *changes])


def _progress(run: Path) -> str:
    """The progress of a run, as a sentence."""
    step, _ = saved(run / "checkpoints")[0]
    planned = recipe.read(run / RECIPE).values.get("engine", {}).get("steps")
    return f"It is finished, at step {step}" if step == planned else f"It is at step {step} of {planned}"
