"""How does a model that stays sharded predict? All ranks make the same passes through it at the same time.

Each pass gathers the layers' weights from all ranks, so that one that made a pass more than the others would wait for
them without end. Ranks take as many batches each; one that has none left repeats another, and drops what is predicted.
A search makes as many steps as its longest output needs: before each one the ranks ask each other who has any left.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn

from segue.engine.distributed.parallel import Parallel
from segue.engine.distributed.watchdog import Watchdog
from segue.engine.loading import Stream, moved
from segue.engine.precision import autocast
from segue.engine.settings import EngineSection
from segue.engine.task import Batch, Source, Task
from segue.progress import progress

Numbered = list[tuple[int, list[Any]]]
"""Numbers of micro-batches, and what was predicted of each."""


@torch.no_grad()
def predict_in_step(
    task: Task,
    source: Source,
    model: nn.Module,
    engine: EngineSection,
    parallel: Parallel,
    watchdog: Watchdog | None = None,
    noted: Sequence[int] = (),
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
