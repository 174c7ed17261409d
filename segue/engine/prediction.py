"""What does a model predict of the development data? Ranks share them, each with a whole model or all with one.

A model that stays sharded predicts in step: each pass gathers the layers' weights from all ranks, so that one that made
a pass more than the others would wait for them without end. Ranks take as many batches each; one that has none left
repeats another, and drops what is predicted. A search makes as many steps as its longest output needs: before each one
the ranks ask each other who has any left.
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
"""Numbers of micro-batches, and what was predicted of each."""


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
    """What `model` says about every development example, once each, and how many bad ones were left out.

    Ranks deal the micro-batches out; each gets all predictions, in the same order on any number of ranks. With
    `parallel` the model is spread, and they predict in step; without it each has a whole one. It stops, and all ranks
    raise StoppedError, when a signal is in any rank's `noted`.
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
    """This rank's share, with a whole model: nobody waits for anybody."""
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
    """This rank's share of the predictions on the development data, and how many bad examples were left out of it.

    `model` is in evaluation mode. All ranks stop where a signal is in any rank's `noted`.
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
            if stand_in is None:  # every example is bad, which all ranks find
                continue
            if watchdog is not None:
                watchdog.note("evaluates", stand_in.ids if is_real else ())
            with autocast(engine.precision, parallel.device):
                found = list(task.predict(model, moved(stand_in, parallel.device), parallel.any_rank))
            if parallel.is_first_of_tensor and batch is not None:  # the others of its group have the same
                num_skipped += batch.num_skipped
                if is_real:
                    predictions.append((own[number], found))
    return predictions, num_skipped


def _any_batch(source: Source) -> Batch | None:
    """One with a good example."""
    plan = source.plan("dev")
    for number in range(plan.num_micro_batches):
        batch: Batch = source.load("dev", plan.micro_batch(number))
        if batch.ids:
            return batch
    return None
