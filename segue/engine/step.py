"""What is one optimizer step? Forward and backward over its micro-batches, scale, sum over ranks, clip, update.

A step of M micro-batches is the same step on any number of ranks that divides M: micro-batches are divided among the
ranks, each term of a loss is divided by its count over the whole step before the backward pass, dropout is seeded per
micro-batch, and BatchNorm sees one micro-batch at a time. A step has one or more phases, which update disjoint sets of
parameters one after the other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.distributed.parallel import Parallel
from segue.engine.distributed.watchdog import WAITS, Watchdog
from segue.engine.loading import moved
from segue.engine.optimizer import Updater
from segue.engine.precision import LogMaxSection, LossScale, autocast
from segue.engine.settings import EngineSection
from segue.engine.task import LOSS, Batch, Phase, Source, Task, Term
from segue.errors import UserError


class Outcome(NamedTuple):
    """The result of a step, the same on every rank."""

    loss: float
    """Weighted sum of the terms, each a mean over the whole step; summed over phases. Can be non-finite in float16
    only."""
    numbers: dict[str, float]
    """Values for the log by name: losses, terms, norms."""
    num_skipped: int
    """Bad examples that were left out."""
    amount: float
    """Amount of data, in the source's unit."""
    is_empty: bool
    """Whether it had no targets: every example was bad, or noise without text."""
    has_overflowed: bool
    """Whether a gradient was not finite in float16, so that its phase was skipped."""
    is_updated: bool
    """Whether any parameter changed."""
    is_stopping: bool
    """Whether any rank was asked to stop."""


class NotFiniteError(Exception):
    """A loss or gradient is not finite; raised before anything is updated."""

    def __init__(self, what: str, size: float) -> None:
        super().__init__(f"the {what} is {size}")


class _Work(NamedTuple):
    """A phase with its optimizer and loss scale."""

    phase: Phase
    updater: Updater
    scale: LossScale | None

    def named(self, what: str) -> str:
        """The name of a value of this phase in the log."""
        return f"{self.phase.name}_{what}" if self.phase.name else what


class Steps:
    """Takes optimizer steps."""

    def __init__(
        self,
        task: Task,
        source: Source,
        model: nn.Module,
        spread: nn.Module,
        parallel: Parallel,
        engine: EngineSection,
        micro_batches: int,
        seed: int,
        watchdog: Watchdog,
    ) -> None:
        """`spread` is the module to call for a loss (as DDP wraps it); `micro_batches` is per step, over all ranks."""
        self.task, self.source, self.model, self.spread, self.parallel = task, source, model, spread, parallel
        self.engine, self.micro_batches, self.seed, self.watchdog = engine, micro_batches, seed, watchdog
        is_scaled = engine.precision == "float16"
        self.works = [
            _Work(
                phase,
                Updater(phase.optimizer, model.get_submodule(phase.module), phase.by_depth),
                LossScale(engine.loss_scaling) if is_scaled else None,
            )
            for phase in task.phases
        ]
        changed = [id(parameter) for work in self.works for parameter in work.updater.parameters]
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        assert len({work.phase.name for work in self.works}) == len(self.works)
        assert len(changed) == len(set(changed))  # no two phases change the same
        assert set(changed) == trained  # and what is trained has a phase
        # With a single micro-batch the statistics need no averaging; only float16 has steps to roll back.
        self._norms = _BatchNormMean(parts.learning_batch_norms(model) if micro_batches > 1 or is_scaled else [])
        self._stand_in: Batch | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The state of all optimizers, "{parameter}.{key}"."""
        found: dict[str, Tensor] = {}
        for phase, updater, _ in self.works:
            prefix = f"{phase.module}." if phase.module else ""
            found |= {prefix + name: tensor for name, tensor in updater.tensors().items()}
        return found

    @property
    def scale_states(self) -> Any:
        """State of the loss scales, as plain data; None outside of float16."""
        found = {work.phase.name: work.scale.state for work in self.works if work.scale is not None}
        return found.get("", found or None)

    @scale_states.setter
    def scale_states(self, states: Any) -> None:
        for work in self.works:
            if work.scale is not None and states is not None:
                work.scale.state = states[work.phase.name] if work.phase.name else states

    def take(self, batches: Sequence[Batch], step: int, *shares: float, is_stopping: bool = False) -> Outcome:
        """Takes step `step` (from 0) over this rank's micro-batches. Collective.

        `shares` are the phases' learning rates, as fractions of their peaks. Raises NotFiniteError if a loss or
        gradient is not finite in float32 or bfloat16, a UserError if loss scaling cannot help.
        """
        counts, num_skipped, amount, is_stopping = self._counted(batches, is_stopping)
        if not any(counts.values()):
            return Outcome(
                loss=0.0,
                numbers={},
                num_skipped=num_skipped,
                amount=amount,
                is_empty=True,
                has_overflowed=False,
                is_updated=False,
                is_stopping=is_stopping,
            )
        losses, num_finite, numbers = list[float](), 0, dict[str, float]()
        for number, (work, share) in enumerate(zip(self.works, shares, strict=True)):
            self._isolate(work)
            loss, norm, means, is_finite = self._phase(work, batches, step, number, counts, share)
            losses.append(loss)
            if is_finite:
                num_finite += 1
                terms = {work.named(name): value for name, value in means.items() if name != LOSS}
                numbers |= {work.named(LOSS): loss, work.named("gradient_norm"): norm, **terms}
        self._isolate(None)
        has_overflowed = num_finite < len(self.works)
        if not has_overflowed:
            numbers = {LOSS: sum(losses), **numbers}
        return Outcome(
            loss=sum(losses),
            numbers=numbers,
            num_skipped=num_skipped,
            amount=amount,
            is_empty=False,
            has_overflowed=has_overflowed,
            is_updated=num_finite > 0,
            is_stopping=is_stopping,
        )

    def _isolate(self, own: _Work | None) -> None:
        """Restricts gradients to the parameters of a phase; None, after the step, lifts the restriction."""
        if len(self.works) > 1:
            for work in self.works:
                for parameter in work.updater.parameters:
                    parameter.requires_grad_(own is None or work is own)

    def _phase(
        self, work: _Work, batches: Sequence[Batch], step: int, number: int, counts: Mapping[str, float], share: float
    ) -> tuple[float, float, dict[str, float], bool]:
        """Runs one phase: its loss, the norm of its gradient, the means of its terms, and whether all are finite.

        A phase that is not finite changes nothing.
        """
        parallel, updater, scaling = self.parallel, work.updater, work.scale
        self._norms.before_step()
        terms = self._backward(work, batches, step, number, counts)
        self.watchdog.note(WAITS)
        self._norms.after_step(parallel)
        summed = parallel.sum(torch.stack([term.total.float() for term in terms.values()]))
        groups = updater.local_groups(step)
        tensors = [each for of_group in groups for each in of_group.tensors]
        gradients = [each for of_group in groups for each in of_group.gradients]
        whole_norm = torch.linalg.vector_norm(parts.whole_norms(gradients, tensors))
        # A step synchronizes with a GPU only here, in one transfer of all values: each one leaves it idle for a while.
        *totals, norm = torch.cat([summed, whole_norm.to(summed.device).unsqueeze(0)]).tolist()
        means = {
            name: total / (counts[term.per] or 1.0) for total, (name, term) in zip(totals, terms.items(), strict=True)
        }
        loss = sum(term.weight * means[name] for name, term in terms.items() if term.weight)
        scale = 1.0 if scaling is None else scaling.value
        norm /= scale
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        if scaling is None:
            # Nothing is updated yet: weights and optimizer state are those from before this phase.
            for what, size in ((work.named(LOSS), loss), (f"{work.named('gradient')}'s norm", norm)):
                if not math.isfinite(size):
                    raise NotFiniteError(what, size)
        else:
            largest = norm
            if is_finite and isinstance(self.engine.loss_scaling, LogMaxSection):
                largest = parts.whole_norms(gradients, tensors, math.inf).max().item() / scale
            try:
                scaling.update(largest if is_finite else None)
            except UserError as problem:
                raise parallel.world.told_once(problem) from None
        if is_finite:
            # In float32, as torch's clip_grad_norm_ computes it, without another synchronization of the device.
            clipped = np.float32(self.engine.clip_norm or math.inf) / (np.float32(norm) + np.float32(1e-6))
            factor = min(1.0, float(clipped)) / scale
            if factor != 1.0:
                torch._foreach_mul_(gradients, factor)
            updater.step(share, step, groups)
        else:
            self._norms.roll_back()
        updater.clear()
        return loss, norm, means, is_finite

    def _counted(self, batches: Sequence[Batch], is_stopping: bool) -> tuple[dict[str, float], int, float, bool]:
        """Counts by name, number of examples left out, amount of data, and whether to stop, over all ranks."""
        each = [self.task.counts(batch) for batch in batches]
        names = list(each[0])
        here = [0.0] * (len(names) + 2)
        if self.parallel.is_first_of_tensor:  # the others of its group have the same batches
            here = [float(sum(counts[name] for counts in each)) for name in names]
            here += [sum(batch.num_skipped for batch in batches), sum(batch.amount for batch in batches)]
        self.watchdog.note(WAITS)
        total = self.parallel.sum_of_all(torch.tensor([*here, float(is_stopping)], dtype=torch.float64)).tolist()
        counts = dict(zip(names, total, strict=False))
        num_skipped, amount, stops = total[len(names) :]
        return counts, int(num_skipped), amount, stops > 0

    def _backward(
        self, work: _Work, batches: Sequence[Batch], step: int, phase: int, counts: Mapping[str, float]
    ) -> dict[str, Term]:
        """Computes the gradients of the whole step; returns this rank's terms, summed over its micro-batches."""
        parallel, device = self.parallel, self.parallel.device
        if not self.model.training:  # train() visits every module: 0.3 ms
            self.model.train()
        found: dict[str, Term] = {}
        for place, own in enumerate(batches):
            is_real = bool(own.ids)
            if parallel.layout.size == 1 and not is_real:
                continue
            # Passes are collective: a rank whose micro-batch is empty repeats another one, with its loss times 0.
            batch = own if is_real else self._stand_in or self._any_batch()
            if parallel.layout.size > 1:
                self._stand_in = batch
            self.watchdog.note("computes the loss", batch.ids)
            number = place * parallel.layout.data_ranks + parallel.data_rank
            _seed_dropout(mixed(self.seed, step, number, *([phase] if phase else [])), device)
            with parallel.accumulating(self.spread, is_last=place + 1 == len(batches)):
                with autocast(self.engine.precision, device):
                    terms = self.task.loss(self.spread, moved(batch, device), work.phase.name)
                factor = float(is_real) if work.scale is None else is_real * work.scale.value
                share = objective(terms, counts) * factor
                self.watchdog.note("computes gradients", batch.ids)
                share.backward()  # type: ignore[no-untyped-call]
            self._norms.after_micro_batch(is_real=is_real)
            for name, term in terms.items():
                before = found[name].total if name in found else torch.zeros((), device=device)
                found[name] = term._replace(total=before + term.total.detach() * is_real)
        if len(self.works) > 1:
            parallel.sum_gradients(work.updater.parameters)
        return found

    def _any_batch(self) -> Batch:
        """A training batch with at least one good example."""
        plan = self.source.plan("train")
        for number in range(plan.num_micro_batches):
            batch: Batch = self.source.load("train", plan.micro_batch(number))
            if batch.ids:
                return batch
        raise UserError("every training example is bad; fix the data")


def objective(terms: Mapping[str, Term], counts: Mapping[str, float]) -> Tensor:
    """The objective: weighted sum of the terms, each divided by its count over the whole step.

    Dividing before the backward pass keeps sums over many targets within the range of float16.
    """
    weighted = [term.total / (counts[term.per] or 1.0) * term.weight for term in terms.values() if term.weight]
    return sum(weighted[1:], start=weighted[0])


class _BatchNormMean:
    """Running statistics after a step: the mean over its micro-batches, each started from the step before.

    So they depend neither on the order of the micro-batches nor on which rank computes them.
    """

    def __init__(self, norms: Sequence[Any]) -> None:
        self._buffers: list[Tensor] = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self._counters: list[Tensor] = [norm.num_batches_tracked for norm in norms]
        self._sizes = [buffer.numel() for buffer in self._buffers]

    def before_step(self) -> None:
        if not self._buffers:
            return
        self._before, self._counted_before = torch.cat(self._buffers), torch.stack(self._counters)
        self._sum, self._count, self._counted = torch.zeros_like(self._before), 0, self._counted_before

    def after_micro_batch(self, *, is_real: bool) -> None:
        if not self._buffers:
            return
        if is_real:
            self._sum += torch.cat(self._buffers)
            self._count += 1
            self._counted = torch.stack(self._counters)  # a layer may be called once, several times, or not at all
        else:
            torch._foreach_copy_(self._counters, self._counted.unbind())
        self._set(self._before)

    def after_step(self, parallel: Parallel) -> None:
        if not self._buffers:
            return
        count = torch.full((1,), float(self._count), device=self._sum.device)
        calls = (self._counted - self._counted_before).float()
        summed = parallel.sum(torch.cat([count, calls, self._sum]))
        count, calls, total = torch.split(summed, [1, len(calls), len(self._sum)])
        self._set(total / count)
        torch._foreach_copy_(self._counters, (self._counted_before + calls.long()).unbind())

    def roll_back(self) -> None:
        """Restores the statistics from before the step."""
        if self._buffers:
            self._set(self._before)
            torch._foreach_copy_(self._counters, self._counted_before.unbind())

    def _set(self, statistics: Tensor) -> None:
        torch._foreach_copy_(self._buffers, torch.split(statistics, self._sizes))


def _seed_dropout(seed: int, device: torch.device) -> None:
    # Not torch.manual_seed, which formats the stack for each device type that is not initialized yet: 0.3 ms.
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    elif device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    else:
        torch.manual_seed(seed)


def mixed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
