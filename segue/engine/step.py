"""What is one optimizer step? Forward and backward over its micro-batches, scale, sum over ranks, clip, update.

A step of M micro-batches is the same step on any number of ranks that divides M: they deal the micro-batches out, each
loss is divided by the targets of the whole step before its backward pass, dropout is seeded by micro-batch, and
BatchNorm sees one micro-batch at a time.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.distributed.parallel import Parallel
from segue.engine.distributed.watchdog import WAITS, Watchdog
from segue.engine.optimizer import Updater
from segue.engine.precision import LogMaxSection, LossScale, autocast
from segue.engine.settings import EngineSection
from segue.engine.task import Batch, Task
from segue.errors import UserError


class Outcome(NamedTuple):
    """What a step came to, the same on every rank."""

    loss: float
    """Mean over the step's targets."""
    norm: float
    """Of the whole gradient, before it was clipped; 0 without targets."""
    metrics: dict[str, float]
    num_targets: int
    num_skipped: int
    """Bad examples that were left out."""
    amount: float
    """Data in the task's unit."""
    is_updated: bool
    """False where float16 overflowed, or every example was bad."""
    is_stopping: bool
    """Whether any rank was asked to stop."""


class NotFiniteError(Exception):
    """A loss or gradient that is not finite, before anything was updated."""

    def __init__(self, what: str, size: float) -> None:
        super().__init__(f"the {what} is {size}")


class Steps:
    """Takes optimizer steps."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        spread: nn.Module,
        parallel: Parallel,
        updater: Updater,
        engine: EngineSection,
        micro_batches: int,
        seed: int,
        watchdog: Watchdog,
    ) -> None:
        """`spread` is what to call for a loss; `micro_batches` the number in a step, over all ranks."""
        self.task, self.model, self.spread, self.parallel, self.updater = task, model, spread, parallel, updater
        self.engine, self.micro_batches, self.seed, self.watchdog = engine, micro_batches, seed, watchdog
        self.scale = LossScale(engine.loss_scaling) if engine.precision == "float16" else None
        # Of one micro-batch they are what they should be, and only float16 takes a step back.
        is_needed = micro_batches > 1 or self.scale is not None
        self._norms = _BatchNormMean(parts.batch_norms(model) if is_needed else [])
        self._stand_in: Batch | None = None

    def take(self, batches: Sequence[Batch], step: int, rate: float, *, is_stopping: bool = False) -> Outcome:
        """Step `step` (from 0) over this rank's micro-batches at this share of the peak learning rate."""
        parallel, updater = self.parallel, self.updater
        num_targets, num_skipped, amount, is_stopping = self._counted(batches, is_stopping)
        if not num_targets:
            return Outcome(0.0, 0.0, {}, 0, num_skipped, amount, False, is_stopping)
        self._norms.before_step()
        total, metrics = self._backward(batches, step, num_targets)
        self.watchdog.note(WAITS)
        self._norms.after_step(parallel)
        sums = [total, *(value for pair in metrics.values() for value in pair)]
        summed = parallel.sum(torch.stack([value.float() for value in sums]))
        held = updater.held()
        tensors = [each for of_group in held for each in of_group.tensors]
        gradients = [each for of_group in held for each in of_group.gradients]
        whole_norm = torch.linalg.vector_norm(parts.whole_norms(gradients, tensors))
        # The engine waits for a GPU here alone, and fetches all together: each time the GPU is idle for a while.
        *numbers, norm = torch.cat([summed, whole_norm.to(summed.device).unsqueeze(0)]).tolist()
        loss = numbers[0] / num_targets
        means = {name: numbers[1 + 2 * n] / numbers[2 + 2 * n] for n, name in enumerate(metrics)}
        scale = 1.0 if self.scale is None else self.scale.value
        norm /= scale
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        if self.scale is None:
            # Nothing is updated yet: what was saved and what is in memory stay as they were before this step.
            for what, size in (("loss", loss), ("gradient's norm", norm)):
                if not math.isfinite(size):
                    raise NotFiniteError(what, size)
        else:
            largest = norm
            if is_finite and isinstance(self.engine.loss_scaling, LogMaxSection):
                largest = parts.whole_norms(gradients, tensors, math.inf).max().item() / scale
            try:
                self.scale.update(largest if is_finite else None)
            except UserError as problem:
                raise parallel.world.told_once(problem) from None
        if is_finite:
            # In float32, as torch's clip_grad_norm_ computes it; without another synchronisation of the device.
            clipped = np.float32(self.engine.clip_norm or math.inf) / (np.float32(norm) + np.float32(1e-6))
            factor = min(1.0, float(clipped)) / scale
            if factor != 1.0:
                torch._foreach_mul_(gradients, factor)
            updater.step(rate, held)
        else:
            self._norms.roll_back()
        updater.clear()
        return Outcome(loss, norm, means, num_targets, num_skipped, amount, is_finite, is_stopping)

    def _counted(self, batches: Sequence[Batch], is_stopping: bool) -> tuple[int, int, float, bool]:
        """Targets, examples left out, amount of data, and whether to stop, over all ranks."""
        here = [0.0, 0.0, 0.0, float(is_stopping)]
        if self.parallel.is_first_of_tensor:  # the others of its group have the same batches
            here[0] = sum(self.task.num_targets(batch) for batch in batches)
            here[1] = sum(batch.num_skipped for batch in batches)
            here[2] = sum(batch.amount for batch in batches)
        self.watchdog.note(WAITS)
        total = self.parallel.sum_of_all(torch.tensor(here, dtype=torch.float64)).tolist()
        return int(total[0]), int(total[1]), total[2], total[3] > 0

    def _backward(
        self, batches: Sequence[Batch], step: int, num_targets: int
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Leaves the gradients of the whole step; this rank's loss, summed, and metrics as (sum, count)."""
        parallel, device = self.parallel, self.parallel.device
        if not self.model.training:  # it walks through every module: 0.3 ms
            self.model.train()
        total = torch.zeros((), device=device)
        metrics: dict[str, tuple[Tensor, Tensor]] = {}
        for place, own in enumerate(batches):
            is_real = bool(own.ids)
            if parallel.layout.size == 1 and not is_real:
                continue
            # All ranks must take part in every pass: one whose micro-batch is empty repeats another, times 0.
            batch = own if is_real else self._stand_in or self._any_batch()
            if parallel.layout.size > 1:
                self._stand_in = batch
            self.watchdog.note("computes the loss", batch.ids)
            number = place * parallel.layout.data_ranks + parallel.data_rank
            _seed_dropout(mixed(self.seed, step, number), device)
            with parallel.accumulating(self.spread, is_last=place + 1 == len(batches)):
                with autocast(self.engine.precision, device):
                    loss = self.task.loss(self.spread, batch.to(device))
                share = (
                    loss.total / num_targets * (float(is_real) if self.scale is None else is_real * self.scale.value)
                )
                self.watchdog.note("computes gradients", batch.ids)
                share.backward()  # type: ignore[no-untyped-call]
            self._norms.after_micro_batch(is_real=is_real)
            for name, (value, count) in loss.metrics.items():
                before = metrics.get(name, (torch.zeros_like(total), torch.zeros_like(total)))
                metrics[name] = (before[0] + value * is_real, before[1] + count * is_real)
            total = total + loss.total.detach() * is_real
        return total, metrics

    def _any_batch(self) -> Batch:
        """One with a good example."""
        plan = self.task.plan("train")
        for number in range(plan.num_micro_batches):
            batch = self.task.load("train", plan.micro_batch(number))
            if batch.ids:
                return batch
        raise UserError("every training example is bad; mend the data")


class _BatchNormMean:
    """Running statistics of a step: the mean over its micro-batches, each of which starts from the step before.

    So they depend neither on the order of the micro-batches nor on who computes them.
    """

    def __init__(self, norms: Sequence[Any]) -> None:
        self._buffers: list[Tensor] = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self._counters: list[Tensor] = [norm.num_batches_tracked for norm in norms]
        self._sizes = [buffer.numel() for buffer in self._buffers]

    def before_step(self) -> None:
        if not self._buffers:
            return
        self._before, self._counted_before = torch.cat(self._buffers), torch.stack(self._counters)
        self._sum, self._count = torch.zeros_like(self._before), 0

    def after_micro_batch(self, *, is_real: bool) -> None:
        if not self._buffers:
            return
        if is_real:
            self._sum += torch.cat(self._buffers)
            self._count += 1
        self._set(self._before)

    def after_step(self, parallel: Parallel) -> None:
        if not self._buffers:
            return
        count = torch.full((1,), float(self._count), device=self._sum.device)
        summed = parallel.sum(torch.cat([count, self._sum]))
        self._set(summed[1:] / summed[0])
        torch._foreach_copy_(self._counters, (self._counted_before + summed[0].long()).unbind())

    def roll_back(self) -> None:
        """As before the step."""
        if self._buffers:
            self._set(self._before)
            torch._foreach_copy_(self._counters, self._counted_before.unbind())

    def _set(self, statistics: Tensor) -> None:
        torch._foreach_copy_(self._buffers, torch.split(statistics, self._sizes))


def _seed_dropout(seed: int, device: torch.device) -> None:
    # torch.manual_seed formats the stack for each kind of device that may come yet: 0.3 ms.
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    elif device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    else:
        torch.manual_seed(seed)


def mixed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
