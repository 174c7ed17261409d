"""Does the recipe work on this machine? Memory and time of a step; and whether a few examples are learned by heart.

A model that cannot learn eight examples by heart will not learn eight thousand (Karpathy 2019, "A recipe for training
neural networks").
"""

import math
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch

from segue import tasks, training
from segue.data.batching import MicroBatch
from segue.diagnosis import Symptom
from segue.engine import environment
from segue.engine.distributed.parallel import choose_device
from segue.engine.planning import trials
from segue.engine.step import NotFiniteError
from segue.errors import UserError, count_of
from segue.progress import Bar
from segue.training import Begun

NUM_EXAMPLES = 8
HEART_SECONDS = 60.0
"""Time for learning examples by heart."""
TIMED_SECONDS = 15.0
"""Time for measuring steps."""
LEARNED = 0.25
"""Nats a target below which examples are known by heart: each is given a probability of 78 %."""
RISE_STEPS = 20
"""Steps in which the learning rate rises to the recipe's."""
LEAST_STEPS = 200
"""With fewer steps in the time, nothing can be said."""
FALLS, RESTS = 0.5, 0.9
"""Shares of the loss after RISE_STEPS: below the first it is falling, above the second it is not."""
TRIED_EXAMPLES = 4
"""Examples in a micro-batch if the recipe leaves its size open."""


def examine(begun: Begun) -> tuple[dict[str, str], list[Symptom]]:
    """Facts, and findings, of steps with the recipe's model; nothing is kept."""
    facts, found = dict[str, str](), list[Symptom]()
    section = begun.section
    device = choose_device(section.engine.device)
    is_open = training.waits_for_budget(section, begun.source)
    if is_open:
        smallest, largest = begun.source.budgets()
        budget = math.ceil(min(largest, TRIED_EXAMPLES * smallest))
        begun = begun.with_budget(budget)
        facts["batch"] = f'batch.{begun.source.unit} is "auto": training finds out what fits; here it is {budget:,.6g}'
    else:
        too_much = _memory(begun, device, facts)
        if too_much is not None:
            return facts, [too_much]
    # Compilation would take longer than these steps.
    engine = section.engine.model_copy(update={"compile": False, "workers": 0})
    begun = begun._replace(section=begun.section.model_copy(update={"engine": engine}))
    try:
        trainer = training.trial(begun)
        _time(begun, trainer, facts, is_open=is_open)
        found += _by_heart(begun, training.trial(begun), facts)  # with new weights
    except NotFiniteError as problem:
        found.append(
            Symptom(
                "error",
                "batch",
                f"{problem} in a trial step",
                "lower optimizer.learning_rate, set engine.clip_norm, or use engine.precision=float32",
            )
        )
    except torch.OutOfMemoryError:
        found.append(Symptom("error", "batch", "a step does not fit into memory", f"lower batch.{begun.source.unit}"))
    except UserError as problem:
        found.append(Symptom("error", "batch", str(problem)))
    return facts, found


def _memory(begun: Begun, device: torch.device, facts: dict[str, str]) -> Symptom | None:
    """A finding if the estimated memory of the largest micro-batch is not there."""
    try:
        free = trials.free_bytes(device)
        found = tasks.estimated(begun.section, begun.module, devices=1, memory_gb=free / 1e9)
    except UserError as problem:
        facts["memory"] = f"not estimated: {problem}"
        return None
    needed = found.alone.memory[begun.section.engine.recompute].total
    facts["memory"] = f"{needed / 1e9:.2f} GB for the largest micro-batch (estimated), {free / 1e9:.1f} GB are free"
    if needed <= free:
        return None
    engine = begun.section.engine
    is_split = engine.tensor_parallel > 1 or (engine.shard or 1) > 1
    return Symptom(
        "note" if is_split else "error",
        "batch",
        f"the largest micro-batch needs about {needed / 1e9:.1f} GB on one device, but {free / 1e9:.1f} GB are free",
        f"lower {found.sketch.budget}, or set engine.recompute=true; `segue estimate` shows layouts of several devices",
    )


def _time(begun: Begun, trainer: Any, facts: dict[str, str], *, is_open: bool) -> None:
    """Takes steps of the recipe for a while, the first with the largest micro-batch."""
    plan, source, size = begun.source.plan("train"), begun.source, trainer.micro_batches
    environment.forget_peak_memory(trainer.device)
    steps = amount = 0.0
    with Bar("tries steps"):
        trainer.steps.take([source.load("train", plan.micro_batch(plan.heaviest()[0]))], 0, *_shares(trainer, 0.0))
        since = perf_counter()
        while perf_counter() - since < TIMED_SECONDS and steps < trainer.num_steps:
            numbers = range(int(steps) * size, (int(steps) + 1) * size)
            batches = [source.load("train", plan.micro_batch(number)) for number in numbers]
            # The rates are 0: the weights stay, and so does the loss.
            outcome = trainer.steps.take(batches, int(steps), *_shares(trainer, 0.0))
            steps, amount = steps + 1, amount + outcome.amount
        seconds = (perf_counter() - since) / steps
    peak = environment.peak_memory_gb(trainer.device)
    if peak is not None:
        facts["memory"] = f"{peak:.2f} GB for the whole process in trial steps; {facts.get('memory', 'not estimated')}"
    rate = amount / (seconds * steps)
    facts["speed"] = (
        f"{seconds:.3g} s a step, {rate:,.3g} {source.unit} a second ({trainer.device.type}, no loader processes)"
    )
    an_epoch = plan.num_micro_batches / size
    if is_open:
        facts["time"] = f"about {_duration(seconds * an_epoch)} an epoch"
    else:
        facts["time"] = (
            f"about {_duration(seconds * trainer.num_steps)} for {count_of(trainer.num_steps, 'step')} "
            f"({trainer.num_steps / an_epoch:,.1f} epochs), without evaluations"
        )


def _by_heart(begun: Begun, trainer: Any, facts: dict[str, str]) -> Iterator[Symptom]:
    """Learns a few training examples, over and over."""
    source = begun.own
    if hasattr(source, "lengths"):
        lengths = source.lengths("train")
        few = np.argsort(lengths, kind="stable")[len(lengths) // 4 :][:NUM_EXAMPLES]  # rather short ones
    else:  # windows, all of the same length
        few = source.plan("train").micro_batch(0).indices[:NUM_EXAMPLES]
    batch = source.load("train", MicroBatch(0, few))
    name = "likelihood_loss"  # without label smoothing, which has a floor
    losses: list[float] = []
    since = perf_counter()
    with Bar("learns a batch by heart", HEART_SECONDS, "s") as bar:
        while not losses or (min(losses) > LEARNED and perf_counter() - since < HEART_SECONDS):
            share = min(1.0, (len(losses) + 1) / RISE_STEPS)
            outcome = trainer.steps.take([batch], len(losses), *_shares(trainer, share))
            losses.append(outcome.numbers.get(name, outcome.loss))
            bar.advance(min(HEART_SECONDS, perf_counter() - since) - bar.done)
            bar.note(f"  loss {losses[-1]:.3g}")
    seconds, best = perf_counter() - since, min(losses)
    said = (
        f"the loss of {count_of(len(batch.ids), 'training example')} fell from {losses[0]:.3g} to {best:.3g} in "
        f"{count_of(len(losses), 'step')}, {seconds:.0f} s"
    )
    facts["by heart"] = said
    if best <= LEARNED:
        return
    begins = losses[min(RISE_STEPS, len(losses) - 1)]
    if len(losses) < LEAST_STEPS or best < FALLS * begins:
        yield Symptom(
            "note",
            "batch",
            f"{said}: too little time to say whether they are learned by heart",
            "try it on the device of the training",
        )
        return
    yield Symptom(
        "warning" if best < RESTS * begins else "error",
        "batch",
        f"{said}: they are not learned by heart",
        "look for a wrong learning rate (segue train --find-learning-rate), texts that belong to other examples, or a "
        "model that is far too small",
    )


def _shares(trainer: Any, share: float) -> tuple[float, ...]:
    return tuple(share for _ in trainer.task.phases)


def _duration(seconds: float) -> str:
    """For people."""
    if seconds < 120:
        return count_of(round(seconds), "second")
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
