"""How is a model trained? One loop: step, log, evaluate, save, stop.

Each step is a function of (recipe, data, step): the data order, augmentation and dropout are stateless. So a checkpoint
consists of weights, optimizer state, averages and the step, and a resumed run repeats what an uninterrupted one would
do, on any number of ranks.
"""

import gc
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from time import perf_counter, sleep, time
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segue.engine import environment, memory, precision, trackers
from segue.engine.distributed import layout, parts
from segue.engine.distributed.materialize import blueprint, make_room
from segue.engine.distributed.parallel import ALONE, Parallel, World, choose_device
from segue.engine.distributed.watchdog import WAITS, Watchdog
from segue.engine.loading import Stream, moved
from segue.engine.log import Log, Loggers, MakeLogger, Silence
from segue.engine.prediction import StoppedError, predict
from segue.engine.schedule import rate_share
from segue.engine.settings import EngineSection, counted
from segue.engine.state import adapter, averaging, replay
from segue.engine.state.averaging import MovingAverage, Snapshot, Snapshots, weights_of
from segue.engine.state.checkpoint import Checkpoints, Tensors, is_readable, states, write_whole
from segue.engine.step import NotFiniteError, Outcome, Steps, mixed
from segue.engine.task import Batch, Source, Task
from segue.errors import UserError, count_of, warn
from segue.progress import progress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""Ctrl-C at a terminal; a scheduler that ends the job; a scheduler's advance warning."""

_SAME_SIGNAL_SECONDS = 1.0  # a scheduler signals all processes, and torchrun forwards its own: both count as one signal


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    score: float


class Result(NamedTuple):
    """How a run ended."""

    step: int
    best: Best | None
    """None if nothing was evaluated yet."""
    signal: int | None
    """The signal that interrupted it."""
    metric: str
    """Name of the score in `best`."""


class Trainer:
    """Trains a task's model in a run directory, resuming from its newest checkpoint. Every rank has one."""

    def __init__(
        self,
        task: Task,
        source: Source,
        run: Path,
        engine: EngineSection,
        micro_batches: int,
        seed: int,
        world: World = ALONE,
        watchdog: Watchdog | None = None,
        operations_per_amount: float | None = None,
        loggers: Sequence[MakeLogger] = (),
        begin: Callable[[nn.Module], None] | None = None,
    ) -> None:
        """`micro_batches` is the number of micro-batches in a step, over all ranks.

        `begin` changes the initial weights of a new run.
        `operations_per_amount` is the FLOP count of forward and backward pass per unit of data, for the utilization in
        the log. `loggers` are constructed on rank 0, in addition to the log.
        """
        self.task, self.source, self.run, self.engine, self.world = task, source, run, engine, world
        self.micro_batches, self.seed = micro_batches, seed
        self.num_steps = counted(engine.steps)
        self.evaluate_every, self.save_every = counted(engine.evaluate_every), counted(engine.save_every)
        self.device = choose_device(engine.device)
        self.threads = engine.threads or max(1, _usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        torch.set_num_threads(self.threads)
        memory.keep_freed_memory()
        world.first(lambda: precision.check(engine.precision, self.device))
        precision.set_matmul(engine.matmul)
        self.model = blueprint(task.build_model)
        self.parallel = Parallel(world, world.first(self._layout), self.device)
        if engine.recompute:
            precision.recompute(self.model)
        dtype, num_phases = precision.DTYPES[engine.precision], len(task.phases)
        torch.manual_seed(seed)
        spread = self.parallel.spread(self.model, dtype, is_offloaded=engine.offload, num_phases=num_phases)
        if begin is not None:
            begin(self.model)
        if engine.compile:
            if engine.recompute and parts.batch_norms(self.model):
                warn("engine.compile: layers with BatchNorm that are recomputed are not compiled")
            # torch 2.13's compiler recurses endlessly over the sizes of sharded tensors if shapes are dynamic.
            self.model.compile(dynamic=False if self.parallel.layout.tensor_parallel > 1 else None)
        decay = engine.moving_average_decay
        self.average = None if decay is None else MovingAverage(self.model, decay)
        self.watchdog = watchdog or Watchdog(run, world, math.inf)
        self.steps = Steps(task, source, self.model, spread, self.parallel, engine, micro_batches, seed, self.watchdog)
        name, direction = task.best_metric
        self.metric_name, self.direction = name, direction
        self.snapshots = Snapshots(run / "snapshots", engine.average_count, engine.average_by, direction, world)
        self.checkpoints = Checkpoints(run / "checkpoints", engine.keep_checkpoints, world)
        self.best: Best | None = None
        self.step = 0
        self.last_step = self.num_steps
        """The step at which the training ends: earlier than `num_steps` if `engine.patience` ended it."""
        self._loggers = [*map(trackers.find, engine.loggers), *loggers]
        self._best_loss = math.nan
        self._num_worse = 0  # evaluations in a row without a better one
        self._operations_per_amount = operations_per_amount
        self._num_skipped = 0
        self._num_empty = 0  # steps in a row whose examples were all bad
        self._num_overflows = 0
        self._whole_model: nn.Module | None = None
        self._noted: list[int] = []  # signals
        self._pending: dict[str, Any] | None = None  # the record of a step whose evaluation is not done yet
        self._is_model_lost = False
        self._resume()

    def train(self) -> Result:
        """Trains to the last step or until one of STOP_SIGNALS arrives, and saves; returns how the run ended."""
        engine = self.engine
        first, last = self.step * self.micro_batches, self.num_steps * self.micro_batches
        own = range(first + self.parallel.data_rank, last, self.parallel.layout.data_ranks)
        stream = Stream(self.source, "train", own, engine.workers, self.device)
        gc.collect()  # old_objects_aside would keep garbage alive, such as models of earlier trials
        logged = self.step - (self._pending is not None)
        with (
            self._log(logged) if self.world.is_first else Silence() as self.log,
            _signals_noted() as self._noted,
            self.checkpoints,
            memory.old_objects_aside(),
            closing(iter(stream)) as batches,
            stream.explained(),
        ):
            self._introduce()
            since, waited, amount = perf_counter(), stream.seconds_waited, 0.0
            is_interrupted = False
            self.watchdog.note("starts", step=self.step)
            if self._is_model_lost:  # save now: after a kill the old checkpoint would name a best score of a lost model
                self._save()
            if self._pending is not None:
                is_interrupted = not self._concluded(self._pending)
                self._save()
            elif self.step == self.last_step and self.best is None:  # the run is finished, but its model was lost
                is_interrupted = not self._evaluated({})
                if not is_interrupted:
                    self._save()
            while self.step < self.last_step and not is_interrupted:
                self.watchdog.note("reads data", step=self.step + 1, reading=stream.being_read)
                outcome, record = self._take_step(
                    list(islice(batches, self.micro_batches // self.parallel.layout.data_ranks)), bool(self._noted)
                )
                amount += outcome.amount
                self.log.advance(self.step)
                # With several ranks, all learn of a signal during the next step, and stop after that step together.
                is_interrupted = outcome.is_stopping or (self.world.size == 1 and bool(self._noted))
                if self._is_evaluated() or self.step % engine.log_every == 0 or "is_skipped" in record:
                    now = perf_counter()
                    record["rate"], record["unit"] = amount / (now - since), self.source.unit
                    record["data_wait"] = (stream.seconds_waited - waited) / (now - since)
                    memory_gb = environment.peak_memory_gb(self.device)
                    if memory_gb is not None:
                        record["memory_gb"] = memory_gb
                    peak = environment.peak_operations(self.device, engine.precision, engine.matmul)
                    if peak is not None and self._operations_per_amount is not None:
                        record["utilization"] = record["rate"] * self._operations_per_amount / peak / self.world.size
                    is_interrupted |= not self._concluded(record)
                    since, waited, amount = perf_counter(), stream.seconds_waited, 0.0
                if self.step == self.last_step or is_interrupted or self.step % self.save_every == 0:
                    self._save()
            self.watchdog.note("saves")
        if self._num_skipped:
            warn(f"{count_of(self._num_skipped, 'bad example was', 'bad examples were')} left out while training")
        if self._num_overflows:
            warn(f"steps skipped because their gradients were not finite in float16: {self._num_overflows}")
        number = max(self.world.gather(self._noted[0] if self._noted else 0)) if is_interrupted else None
        return Result(self.step, self.best, number, self.metric_name)

    def _log(self, step: int) -> Loggers:
        """The loggers; they continue after `step`."""
        steps = self.num_steps
        others = [make(self.run, step, steps) for make in self._loggers]  # first: a package may be missing
        return Loggers(Log(self.run, step, steps), others)

    def _layout(self) -> layout.Layout:
        engine, is_cuda = self.engine, self.device.type == "cuda"
        return layout.choose(
            self.world.size,
            engine.data_parallel,
            engine.shard,
            engine.tensor_parallel,
            micro_batches=self.micro_batches,
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            memory_bytes=torch.cuda.get_device_properties(self.device).total_memory if is_cuda else None,
        )

    def _introduce(self) -> None:
        """Prints what is about to happen and writes `environment.json`."""
        if self.step == self.last_step and self._pending is None and self.best is not None:
            early = f" of {self.num_steps}" if self.step < self.num_steps else ""
            self.log.say(f"{self.run}: finished at step {self.step}{early}; nothing is left to train")
            return
        if self.world.is_first and self.step < self.last_step:
            environment.write(self.run, self.device, self.parallel.layout)
        parameters = list(self.model.parameters())
        count = sum(parameter.numel() for parameter in parameters)
        num_frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
        frozen = f", {num_frozen:,} of them frozen" if num_frozen else ""
        device = f"cpu, {count_of(self.threads, 'thread')}" if self.device.type == "cpu" else str(self.device)
        ranks = f", {self.world.size} ranks: {self.parallel.layout}" if self.world.size > 1 else ""
        per_epoch = self.source.plan("train").num_micro_batches / self.micro_batches
        way = f"on from step {self.step} to" if self.step else "up to"
        self.log.say(
            f"{count:,} parameters{frozen} ({device}, {self.engine.precision}{ranks}); {way} step {self.num_steps}, "
            f"{per_epoch:.1f} steps an epoch"
        )

    def _take_step(self, batches: list[Batch], is_asked_to_stop: bool) -> tuple[Outcome, dict[str, Any]]:
        """Takes one optimizer step; returns its outcome and the record for the log."""
        rates, shares, numbers = dict[str, float](), list[float](), dict[str, Any]()
        for work in self.steps.works:
            share = rate_share(work.phase.schedule, self.step, self.num_steps)
            shares.append(share)
            rates[work.named("learning_rate")] = work.phase.optimizer.learning_rate * share
            if work.scale is not None:
                numbers[work.named("loss_scale")] = work.scale.value
        try:
            outcome = self.steps.take(batches, self.step, *shares, is_stopping=is_asked_to_stop)
        except NotFiniteError as problem:
            # Interleaved, so that the first few come from all ranks; tensor-parallel ranks have the same examples.
            each = self.world.gather([example for batch in batches for example in batch.ids])
            ids = list(dict.fromkeys(example for row in zip_longest(*each) for example in row if example is not None))
            data = self.source.fingerprint()
            raise replay.keep(self.run, self.step, self._state(), ids, data, problem, self.world) from None
        self._num_skipped += outcome.num_skipped
        per_epoch = self.source.plan("train").num_micro_batches
        has_no_targets = outcome.is_empty and not outcome.num_skipped
        self._num_empty = self._num_empty + 1 if outcome.is_empty and not has_no_targets else 0
        if self._num_empty * self.micro_batches >= per_epoch:
            raise self.world.told_once(
                UserError(f"step {self.step + 1}: every example of the last epoch is bad; fix the data")
            )
        epoch = self.step * self.micro_batches / per_epoch
        self.step += 1
        if self.average is not None and outcome.is_updated:
            self.average.update(self.model, self.step)
        if outcome.has_overflowed:
            self._num_overflows += 1
            numbers["is_skipped"] = True
        if has_no_targets:
            numbers["has_no_targets"] = True
        numbers |= outcome.numbers
        return outcome, {"step": self.step, "epoch": round(epoch, 4), **rates, **numbers, "time": time()}

    @property
    def _is_in_step(self) -> bool:
        """Whether evaluation uses the sharded model, with all ranks in lockstep."""
        return self.engine.evaluate_sharded and self.parallel.is_sharded

    def _is_evaluated(self) -> bool:
        return self.step == self.last_step or self.step % self.evaluate_every == 0

    def _concluded(self, record: dict[str, Any]) -> bool:
        """Evaluates if this step is due for it, and logs the step; False if a signal interrupted the evaluation.

        In that case the record stays pending, and the resumed run evaluates first.
        """
        self._pending = record
        if not self._evaluated(record):
            return False
        self.log.write(record)
        self._pending = None
        return True

    def _evaluated(self, record: dict[str, Any]) -> bool:
        """Runs all evaluations due at this step into the record; False if a signal interrupted them."""
        try:
            if self._is_evaluated() and "dev" not in record:
                record["dev"] = self._evaluate_and_keep()
                if self._has_lost_patience() and self.step < self.num_steps:
                    self.last_step, record["is_last"] = self.step, True
                    assert self.engine.patience is not None
                    said = count_of(self.engine.patience, "evaluation was", "evaluations were")
                    self.log.say(
                        f"step {self.step}: the last {said} not better than the best, "
                        "and the training ends here (engine.patience)"
                    )
            if self.step == self.last_step and self.engine.average_count > 1:
                average = self.snapshots.average(self.model.state_dict())
                if average is None:
                    warn("nothing is left to average; the model stays that of the best evaluation")
                else:
                    record["averaged"] = self._average_and_keep(average)
        except StoppedError:
            return False
        return True

    def _evaluate_and_keep(self) -> dict[str, float]:
        """Evaluates the weights that would be shipped; keeps them as the best model and for the final average."""
        with self._to_evaluate(None if self.average is None else self.average.tensors) as model:
            scores = self._evaluate(model)
            gain = self._gain(scores)
            self._num_worse = 0 if gain > 0 else self._num_worse + 1
            if gain >= 0:  # on a tie, prefer the later weights, which were trained for longer
                self._keep(model, scores)
            if self.engine.average_count > 1:
                self.snapshots.add(self.step, scores[self.metric_name], model.state_dict())
        return scores

    def _gain(self, scores: dict[str, float]) -> float:
        """Above 0 if these scores are better than the best so far; equal scores are compared by their loss."""
        if self.best is None or math.isnan(self.best.score):
            return math.inf
        gain = (self.best.score - scores[self.metric_name]) * (1 if self.direction == "min" else -1)
        if gain == 0:
            gain = self._best_loss - scores.get("loss", math.nan)
            return 0.0 if math.isnan(gain) else gain
        return -math.inf if math.isnan(gain) else gain

    def _has_lost_patience(self) -> bool:
        return self.engine.patience is not None and self._num_worse >= self.engine.patience

    def _average_and_keep(self, average: Tensors) -> dict[str, float]:
        """Evaluates the averaged weights and keeps them as the model.

        Even if a single evaluation scored better: on small development data that is often chance, which averaging is
        meant to reduce.
        """
        with self._to_evaluate(average) as model:
            count = min(self.engine.batch_norm_micro_batches, self.step * self.micro_batches)
            averaging.reestimate_batch_norms(model, self._forwards(model, count))
            scores = self._evaluate(model)
            self._keep(model, scores)
        return scores

    @contextmanager
    def _to_evaluate(self, tensors: Tensors | None) -> Iterator[nn.Module]:
        """The model with these weights (None: its own); a whole model on every rank unless `evaluate_sharded`."""
        if self._is_in_step or not self.parallel.is_sharded:
            with weights_of(self.model, tensors):
                self.parallel.reshard(self.model)
                yield self.model
                self.parallel.reshard(self.model)
            return
        if self._whole_model is None:
            self._whole_model = blueprint(self.task.build_model)
            make_room(self._whole_model, self.device)
        model = self._whole_model.to(self.device)
        state = model.state_dict()
        for name, tensor in (tensors or self.model.state_dict()).items():
            state[name].copy_(parts.whole(tensor))
        yield model
        model.to("cpu")  # training needs the GPU memory between evaluations

    def _forwards(self, model: nn.Module, count: int) -> Iterator[None]:
        """Forward passes over the first `count` training micro-batches."""
        stream = Stream(self.source, "train", range(count), self.engine.workers, self.device)
        for number, batch in progress(enumerate(stream), "estimates BatchNorm statistics", count, "batches"):
            if self._noted:  # the evaluation that follows stops too
                return
            self.watchdog.note("estimates BatchNorm statistics", batch.ids)
            if batch.ids:
                torch.manual_seed(mixed(self.seed, number, 0))
                for phase in self.task.phases:
                    self.task.loss(model, moved(batch, self.device), phase.name)
                yield

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        """Scores on the development data: ranks divide the examples, and rank 0 scores them."""
        engine, device = self.engine, self.device
        parallel = self.parallel if self._is_in_step else None
        found, num_bad = predict(
            self.task, self.source, model, engine, device, self.world, self.watchdog, self._noted, parallel
        )
        if num_bad:
            said = count_of(num_bad, "bad example was", "bad examples were")
            warn(f"{said} left out of the evaluation at step {self.step}")
        self.watchdog.note("scores the evaluation" if self.world.is_first else WAITS)
        return self.world.first(lambda: self.task.score(found))

    def _keep(self, model: nn.Module, scores: dict[str, float]) -> None:
        """Writes the model to `model/` as the best so far."""
        self.best, self._best_loss = Best(self.step, scores[self.metric_name]), scores.get("loss", math.nan)

        folder = self.run / "model"
        name, own = adapter.shipped(model)
        write_whole(folder / name, own, self.world)
        self.world.first(lambda: self.task.save_assets(folder, scores))

    def _state(self) -> dict[str, Tensors]:
        """All tensors of a checkpoint, grouped by what they belong to."""
        tensors = {"model": dict(self.model.state_dict()), "optimizer": self.steps.tensors()}
        if self.average is not None:
            tensors["average"] = self.average.tensors
        return tensors

    def _save(self) -> None:
        self.watchdog.note("saves")
        state = {
            "best": self.best,
            "best_loss": self._best_loss,
            "num_worse": self._num_worse,
            "snapshots": self.snapshots.kept,
            "threads": self.threads,
            "layout": self.parallel.layout,
            "data": self.source.fingerprint(),
            "pending": self._pending,
            "num_skipped": self._num_skipped,
            "num_overflows": self._num_overflows,
            "loss_scale": self.steps.scale_states,
        }
        self.checkpoints.save(self.step, _flat(self._state()), state, in_background=self.step < self.last_step)
        # Snapshots that any kept checkpoint refers to are kept as well: a run resumed from it averages them.
        self.snapshots.drop_others(*(state["snapshots"] for state in states(self.checkpoints.folder)))

    def _resume(self) -> None:
        """Restores the newest valid checkpoint, if there is one."""
        found = self.checkpoints.newest()
        if found is None:
            return
        path, state = found
        if "owed" in state:  # earlier name of this key
            state["pending"] = state.pop("owed")
        if "pending" not in state:
            raise UserError(f"{path}: saved by an earlier version of Segue; give another --out")
        if state["data"] != self.source.fingerprint():
            raise UserError(
                f"{self.run}: the data changed since step {state['step']}; give another --out, or put the "
                "data back as they were"
            )
        if state["threads"] != self.threads:
            here = count_of(self.threads, "thread")
            warn(f"{here} instead of {state['threads']}: results may differ in the last bits")
        if state["layout"] != list(self.parallel.layout):
            before = layout.Layout(*state["layout"])
            warn(f"{self.parallel.layout} instead of {before}: results may differ in the last bits")
        self.checkpoints.read(path, _flat(self._state()))  # in place
        self.steps.scale_states = state["loss_scale"]
        self.best = None if state["best"] is None else Best(*state["best"])
        self.snapshots.kept = [Snapshot(*each) for each in state["snapshots"]]
        self._pending = state["pending"]
        self._num_skipped, self._num_overflows = state["num_skipped"], state["num_overflows"]
        self.step = state["step"]
        self._best_loss, self._num_worse = state.get("best_loss", math.nan), state.get("num_worse", 0)
        if self._has_lost_patience():  # no step was taken after that
            self.last_step = self.step
        weights = self.run / "model" / adapter.shipped(self.model)[0]
        if self.best is not None and not self.world.first(lambda: is_readable(weights)):
            warn(f"{weights}: missing or damaged; the next evaluation writes it again")
            self.best, self._is_model_lost = None, True


def _flat(groups: dict[str, Tensors]) -> dict[str, Tensor]:
    return {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def _usable_cores() -> int:
    """Number of cores that this process may use; only Linux reports CPU affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Inside the block, the first of STOP_SIGNALS is only recorded; a second one acts as usual."""
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        noted.append(number)
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        sleep(_SAME_SIGNAL_SECONDS)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in before:
            signal.signal(number, note)
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
