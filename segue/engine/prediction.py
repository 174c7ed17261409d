"""What does a model predict for the development data? Ranks divide them, with a whole model each or one sharded model.

With a sharded model the ranks predict in lockstep: each forward pass gathers the layers' weights from all ranks, so a
rank that made one pass more than the others would wait forever. Each rank runs the same number of batches; one that has
none left repeats an earlier batch and drops the predictions. A search takes as many steps as its longest output needs:
before each step the ranks ask each other whether any has one left.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn

from segue.engine.distributed.parallel import ALONE, Parallel, World
from segue.engine.distributed.watchdog import WAITS, Watchdog
from segue.engine.loading import Stream, moved
from segue.engine.precision import autocast
from segue.engine.settings import EngineSection
from segue.engine.task import Batch, Source, Task
from segue.progress import progress

Numbered = list[tuple[int, list[Any]]]
"""(number, predictions) of micro-batches."""


class StoppedError(Exception):
    """A signal came during an evaluation."""


@torch.no_grad()
def predict(
    task: Task,
    source: Source,
    model: nn.Module,
    engine: EngineSection,
    device: torch.device,
    world: World = ALONE,
    watchdog: Watchdog | None = None,
    noted: Sequence[int] = (),
    parallel: Parallel | None = None,
) -> tuple[list[Any], int]:
    """The predictions of `model` for every development example, once each, and the number of bad examples left out.

    Micro-batches are divided among the ranks; every rank gets all predictions, in an order that does not depend on the
    number of ranks. With `parallel` the model is sharded and the ranks predict in lockstep; without it each rank has a
    whole model. If any rank's `noted` contains a signal, all ranks raise StoppedError.
    """
    was_training = model.training
    model.eval()
    if parallel is None:
        predictions, num_skipped = _alone(task, source, model, engine, device, world, watchdog, noted)
    else:
        predictions, num_skipped = _in_step(task, source, model, engine, parallel, watchdog, noted)
    if watchdog is not None:
        watchdog.note(WAITS)
    model.train(was_training)
    shares = world.gather((predictions, num_skipped, bool(noted)))
    if any(is_stopping for _, _, is_stopping in shares):
        raise StoppedError
    ordered = sorted((part for each, _, _ in shares for part in each), key=lambda part: part[0])
    return [prediction for _, part in ordered for prediction in part], sum(count for _, count, _ in shares)


def _alone(
    task: Task,
    source: Source,
    model: nn.Module,
    engine: EngineSection,
    device: torch.device,
    world: World,
    watchdog: Watchdog | None,
    noted: Sequence[int],
) -> tuple[Numbered, int]:
    """This rank's share, with a whole model: ranks do not wait for each other."""
    own = range(world.rank, source.plan("dev").num_micro_batches, world.size)
    predictions: Numbered = []
    num_skipped = 0
    stream = Stream(source, "dev", own, engine.workers, device)
    with stream.explained():
        for number, batch in progress(zip(own, stream, strict=True), "evaluates", len(own), "batches"):
            if noted:
                break
            if watchdog is not None:
                watchdog.note("evaluates", batch.ids)
            num_skipped += batch.num_skipped
            if batch.ids:
                with autocast(engine.precision, device):
                    predictions.append((number, list(task.predict(model, moved(batch, device)))))
            if watchdog is not None:
                watchdog.note("reads data", reading=stream.being_read)
    return predictions, num_skipped


def _in_step(
    task: Task,
    source: Source,
    model: nn.Module,
    engine: EngineSection,
    parallel: Parallel,
    watchdog: Watchdog | None,
    noted: Sequence[int],
) -> tuple[Numbered, int]:
    """This rank's share of the predictions, with a sharded model, and the number of bad examples left out of it.

    `model` is in evaluation mode. All ranks stop together if any rank's `noted` contains a signal.
    """
    plan, ranks = source.plan("dev"), parallel.layout.data_ranks
    own = range(parallel.data_rank, plan.num_micro_batches, ranks)
    rounds = -(-plan.num_micro_batches // ranks)
    predictions: Numbered = []
    num_skipped = 0
    stand_in: Batch | None = None
    stream = Stream(source, "dev", own, engine.workers, parallel.device)
    with closing(iter(stream)) as batches, stream.explained():
        for number in progress(range(rounds), "evaluates", rounds, "batches"):
            if watchdog is not None:
                watchdog.note("reads data", reading=stream.being_read)
            batch = next(batches, None)
            if parallel.any_rank(bool(noted)):
                break
            is_real = batch is not None and bool(batch.ids)
            stand_in = batch if is_real else stand_in or _any_batch(source)
            if stand_in is None:  # every example is bad; all ranks come to this result
                continue
            if watchdog is not None:
                watchdog.note("evaluates", stand_in.ids if is_real else ())
            with autocast(engine.precision, parallel.device):
                found = list(task.predict(model, moved(stand_in, parallel.device), parallel.any_rank))
            if parallel.is_first_of_tensor and batch is not None:  # the other ranks of its group have the same
                num_skipped += batch.num_skipped
                if is_real:
                    predictions.append((own[number], found))
    return predictions, num_skipped


def _any_batch(source: Source) -> Batch | None:
    """A batch with at least one good example; None if there is none."""
    plan = source.plan("dev")
    for number in range(plan.num_micro_batches):
        batch: Batch = source.load("dev", plan.micro_batch(number))
        if batch.ids:
            return batch
    return None
