"""How is a model trained? The one loop: accumulate, clip, step, log, evaluate, save, stop.

Everything a step does follows from (recipe, data, step): the data order, augmentation and dropout hold no state. So a
checkpoint is weights, optimizer, averages and the step, and a resumed run repeats what an uninterrupted one does.
"""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from time import perf_counter, time
from types import FrameType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from segue.engine import averaging, checkpoint, precision
from segue.engine.averaging import MovingAverage, Snapshots, weights_of
from segue.engine.loading import Stream
from segue.engine.log import Log
from segue.engine.optimizer import OptimizerSection, ScheduleSection, build_optimizer, rate_share
from segue.engine.precision import Precision
from segue.engine.task import Batch, Split, Task
from segue.errors import UserError, warn
from segue.recipe import Section

Steps = Annotated[int, Field(gt=0)]


class EngineSection(Section):
    """How long and on what to train."""

    steps: Steps
    """Optimizer steps in the whole run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    precision: Precision = "float32"
    """Number format of the forward pass; weights stay float32."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads of the model; without it, as many as there are cores to use."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes that read data ahead; 0 reads in the training process. It never changes a result."""
    log_every: Steps = 10
    """Steps between lines in metrics.jsonl."""
    evaluate_every: Steps = 500
    """Steps between evaluations on the development data; the last step is always evaluated."""
    save_every: Steps = 500
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Steps = 2
    """Checkpoints that are kept."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the whole gradient."""
    moving_average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and keep an exponential moving average of the weights."""
    average_count: Annotated[int, Field(ge=0)] = 0
    """At the end, average the weights of so many evaluations and keep that as the model; 0 or 1 does not."""
    average_by: Literal["last", "best"] = "last"
    """Which evaluations those are."""
    batch_norm_micro_batches: Annotated[int, Field(gt=0)] = 50
    """Micro-batches from which BatchNorm statistics of averaged weights are estimated."""


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    score: float


class Result(NamedTuple):
    """How a run ended."""

    step: int
    best: Best | None
    """None where nothing was evaluated yet."""
    signal: int | None
    """The signal that interrupted it."""
    metric: str
    """What `best.score` is."""


class Trainer:
    """Trains a task's model in a run directory, from where the run left off."""

    def __init__(
        self,
        task: Task,
        run: Path,
        engine: EngineSection,
        optimizer: OptimizerSection,
        schedule: ScheduleSection,
        micro_batches: int,
        seed: int,
    ) -> None:
        """`micro_batches` is the number of micro-batches in a step."""
        self.task, self.run, self.engine = task, run, engine
        self.optimizer_section, self.schedule = optimizer, schedule
        self.micro_batches, self.seed = micro_batches, seed
        self.device = choose_device(engine.device)
        precision.check(engine.precision, self.device)
        self.threads = engine.threads or _usable_cores()
        torch.set_num_threads(self.threads)
        torch.manual_seed(seed)
        self.model = task.build_model().to(self.device)
        self.optimizer = build_optimizer(optimizer, self.model)
        decay = engine.moving_average_decay
        self.average = None if decay is None else MovingAverage(self.model, decay)
        name, direction = task.best_metric
        self.metric_name, self.direction = name, direction
        self.snapshots = Snapshots(run / "snapshots", engine.average_count, engine.average_by, direction)
        self.best: Best | None = None
        self.step = 0
        self._num_skipped = 0
        self._num_empty = 0  # steps in a row whose examples were all bad
        self._resume()

    def train(self) -> Result:
        """Trains to the last step, or until SIGINT or SIGTERM, saves, and says how it ended."""
        engine = self.engine
        first, last = self.step * self.micro_batches, engine.steps * self.micro_batches
        stream = Stream(self.task, "train", range(first, last), engine.workers, self.device)
        with (
            Log(self.run, self.step, engine.steps) as self.log,
            _signals_noted() as noted,
            closing(iter(stream)) as batches,
        ):
            self._introduce()
            since, waited, amount = perf_counter(), stream.seconds_waited, 0.0
            is_interrupted = False
            while self.step < engine.steps and not is_interrupted:
                step_batches = list(islice(batches, self.micro_batches))
                record = self._take_step(step_batches)
                amount += sum(batch.amount for batch in step_batches)
                self.log.advance(self.step)
                is_last = self.step == engine.steps
                is_evaluated = is_last or self.step % engine.evaluate_every == 0
                if is_evaluated or self.step % engine.log_every == 0:
                    now = perf_counter()
                    record["rate"], record["unit"] = amount / (now - since), self.task.unit
                    record["data_wait"] = (stream.seconds_waited - waited) / (now - since)
                    if is_evaluated:
                        record["dev"] = self._evaluate_and_keep()
                    if is_last and engine.average_count > 1:
                        record["averaged"] = self._average_and_keep()
                    self.log.write(record)
                    since, waited, amount = perf_counter(), stream.seconds_waited, 0.0
                is_interrupted = bool(noted)  # read once: a signal from here on still finds the loop going
                if is_last or is_interrupted or self.step % engine.save_every == 0:
                    self._save()
        if self._num_skipped:
            warn(f"{self._num_skipped} bad examples were left out while training")
        return Result(self.step, self.best, noted[0] if is_interrupted else None, self.metric_name)

    def _introduce(self) -> None:
        """Says what is about to happen."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        device = (
            f"cpu, {self.threads} thread{'s' * (self.threads > 1)}" if self.device.type == "cpu" else str(self.device)
        )
        per_epoch = self.task.plan("train").num_micro_batches / self.micro_batches
        start = f"on from step {self.step} to" if self.step else "up to"
        self.log.say(
            f"{count:,} parameters ({device}, {self.engine.precision}); {start} step {self.engine.steps}, "
            f"{per_epoch:.1f} steps an epoch"
        )

    def _take_step(self, batches: list[Batch]) -> dict[str, Any]:
        """One optimizer step over M micro-batches; the numbers for the log."""
        num_targets = sum(self.task.num_targets(batch) for batch in batches)
        self._num_skipped += sum(batch.num_skipped for batch in batches)
        self._num_empty = 0 if num_targets else self._num_empty + 1
        if self._num_empty * self.micro_batches >= self.task.plan("train").num_micro_batches:
            raise UserError(f"step {self.step + 1}: every example of the last epoch is bad; mend the data")
        share = rate_share(self.schedule, self.step, self.engine.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimizer_section.learning_rate * share
        self.model.train()
        total = torch.zeros((), device=self.device)
        metrics: dict[str, list[Tensor]] = {}
        norms = _BatchNormMean(self.model, self.micro_batches)
        for number, batch in enumerate(batches):
            if not batch.ids:
                continue
            torch.manual_seed(_mix(self.seed, self.step, number))  # dropout
            with precision.autocast(self.engine.precision, self.device):
                loss = self.task.loss(self.model, batch)
            assert num_targets > 0
            (loss.total / num_targets).backward()  # type: ignore[no-untyped-call]
            norms.after_micro_batch()
            total += loss.total.detach()
            for name, (value, count) in loss.metrics.items():
                sums = metrics.setdefault(name, [torch.zeros_like(total), torch.zeros_like(total)])
                sums[0] += value
                sums[1] += count
        norms.after_step()
        mean_loss = total.item() / max(1, num_targets)  # of no examples: 0, and nothing is updated
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.engine.clip_norm or math.inf).item()
        # Nothing is updated yet: what was saved and what is in memory stay as they were before this step.
        for what, size in (("loss", mean_loss), ("gradient's norm", norm)):
            if not math.isfinite(size):
                ids = [example for batch in batches for example in batch.ids]
                raise UserError(
                    f"step {self.step + 1}: the {what} is {size}; a lower optimizer.learning_rate or engine.clip_norm "
                    f"may help, or one of these examples is at fault: {', '.join(ids[:20])}"
                )
        self.optimizer.step()
        self.optimizer.zero_grad()
        epoch = self.step * self.micro_batches / self.task.plan("train").num_micro_batches
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)
        return {
            "step": self.step,
            "loss": mean_loss,
            "epoch": round(epoch, 4),
            "learning_rate": self.optimizer_section.learning_rate * share,
            "gradient_norm": norm,
            **{name: (value / count).item() for name, (value, count) in metrics.items()},
            "time": time(),
        }

    def _evaluate_and_keep(self) -> dict[str, float]:
        """Evaluates the weights that would be shipped; keeps them if they are the best, or for the final average."""
        weights = None if self.average is None else self.average.tensors
        with weights_of(self.model, weights):
            scores = self._evaluate()
            score, sign = scores[self.metric_name], 1 if self.direction == "min" else -1
            # An equal score counts as better: the later weights have learnt for longer.
            if self.best is None or math.isnan(self.best.score) or sign * score <= sign * self.best.score:
                self._keep(scores)
            if self.engine.average_count > 1:
                self.snapshots.add(self.step, scores[self.metric_name], self.model.state_dict())
        return scores

    def _average_and_keep(self) -> dict[str, float]:
        """The average of the kept evaluations' weights: evaluated and shipped.

        Even where a single evaluation scored better: on few development data that is luck, which averaging is against.
        """
        weights = self.snapshots.average()
        with weights_of(self.model, weights):
            count = min(self.engine.batch_norm_micro_batches, self.step * self.micro_batches)
            averaging.reestimate_batch_norms(self.model, self._forwards(count))
            scores = self._evaluate()
            self._keep(scores)
        return scores

    def _forwards(self, count: int) -> Iterator[None]:
        """Forward passes over the first `count` training micro-batches."""
        for number, batch in enumerate(Stream(self.task, "train", range(count), self.engine.workers, self.device)):
            if batch.ids:
                torch.manual_seed(_mix(self.seed, number, 0))
                self.task.loss(self.model, batch)
                yield

    def _evaluate(self) -> dict[str, float]:
        predictions, _ = predict(self.task, self.model, "dev", self.engine, self.device)
        return self.task.score(predictions)

    def _keep(self, scores: dict[str, float]) -> None:
        """Writes the model, as the best so far, to `model/`."""
        self.best = Best(self.step, scores[self.metric_name])
        folder = self.run / "model"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_tensors(folder / "model.safetensors", self.model.state_dict())
        self.task.save_assets(folder, scores)

    def _save(self) -> None:
        tensors = {"model": self.model.state_dict(), "optimizer": checkpoint.optimizer_tensors(self.optimizer)}
        if self.average is not None:
            tensors["average"] = self.average.tensors
        state = {
            "best": self.best,
            "snapshots": self.snapshots.kept,
            "threads": self.threads,
            "data": self.task.fingerprint(),
            "num_skipped": self._num_skipped,
        }
        folder = self.run / "checkpoints"
        checkpoint.save(folder, self.step, tensors, state, self.engine.keep_checkpoints)
        # Every checkpoint that is kept stays usable: what its average would need stays too.
        self.snapshots.drop_others(*(state["snapshots"] for state in checkpoint.states(folder)))

    def _resume(self) -> None:
        """Takes up the newest checkpoint that verifies, if there is one."""
        found = checkpoint.load_newest(self.run / "checkpoints")
        if found is None:
            return
        tensors, state = found
        if state["data"] != self.task.fingerprint():
            raise UserError(
                f"{self.run}: the data changed since step {state['step']}; give another --out, or put the "
                "data back as they were"
            )
        if state["threads"] != self.threads:
            warn(f"{self.threads} threads instead of {state['threads']}: results may differ in the last bits")
        self.model.load_state_dict(tensors["model"])
        checkpoint.load_optimizer(self.optimizer, tensors["optimizer"])
        if self.average is not None:
            self.average.tensors = {name: value.to(self.device) for name, value in tensors["average"].items()}
        self.best = None if state["best"] is None else Best(*state["best"])
        self.snapshots.kept = [(step, score) for step, score in state["snapshots"]]
        self._num_skipped = state["num_skipped"]
        self.step = state["step"]


@torch.no_grad()
def predict(
    task: Task, model: nn.Module, split: Split, engine: EngineSection, device: torch.device
) -> tuple[list[Any], int]:
    """What `model` says about every example of a split, once each, and how many bad ones were left out."""
    was_training = model.training
    model.eval()
    predictions: list[Any] = []
    num_skipped = 0
    for batch in Stream(task, split, range(task.plan(split).num_micro_batches), engine.workers, device):
        num_skipped += batch.num_skipped
        if batch.ids:
            with precision.autocast(engine.precision, device):
                predictions.extend(task.predict(model, batch))
    model.train(was_training)
    return predictions, num_skipped


def choose_device(name: str) -> torch.device:
    """The device of a recipe; a UserError if this machine lacks it."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if has[kind])
    if not has[name]:
        raise UserError(f"device: this machine has no {name}; it has {', '.join(k for k, v in has.items() if v)}")
    return torch.device(name)


def _usable_cores() -> int:
    """Cores that this process may use; only Linux can say that some are denied to it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _BatchNormMean:
    """Running statistics of a step: the mean over its micro-batches, each of which starts from the step before.

    So they depend neither on the order of the micro-batches nor on who computes them.
    """

    def __init__(self, model: nn.Module, micro_batches: int) -> None:
        norms = averaging.batch_norms(model) if micro_batches > 1 else []  # one is its own mean
        self._buffers: list[Tensor] = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]
        self._count = 0

    def after_micro_batch(self) -> None:
        if self._buffers:
            torch._foreach_add_(self._sums, self._buffers)
            torch._foreach_copy_(self._buffers, self._before)
        self._count += 1

    def after_step(self) -> None:
        if self._buffers and self._count:
            torch._foreach_copy_(self._buffers, torch._foreach_div(self._sums, self._count))


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Inside the block SIGINT and SIGTERM only note themselves; a second one acts as usual."""
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        noted.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in before:
            signal.signal(number, note)
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mix(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
