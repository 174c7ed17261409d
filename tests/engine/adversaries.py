"""A task of two phases, a generator of numbers and its discriminator: for test_phases.py and the ranks that it starts.

Four micro-batches make a step, six an epoch; the second of an epoch is empty, for all its examples are bad.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from segue import training
from segue.engine.distributed import parallel
from segue.engine.distributed.parallel import ALONE, World
from segue.engine.optimizer import AdamWSection, NovoGradSection
from segue.engine.schedule import ConstantSection, CosineSection
from segue.engine.settings import EngineSection
from segue.engine.task import Phase, Split, Term
from segue.engine.trainer import Trainer
from segue.errors import UserError

MICRO_BATCHES, AN_EPOCH, SIZE, EMPTY = 4, 6, 4, 1
GENERATOR = AdamWSection(kind="adamw", learning_rate=0.02, betas=(0.5, 0.9), weight_decay=0.1)
DISCRIMINATOR = NovoGradSection(kind="novograd", learning_rate=0.01, betas=(0.9, 0.5))


class Numbers(NamedTuple):
    """A micro-batch."""

    ids: list[str]
    num_skipped: int
    noise: Tensor
    """(B, 4)"""
    real: Tensor
    """(B, 3)"""
    sizes: Tensor
    """(B) how many values an example stands for"""

    @property
    def amount(self) -> float:
        return float(len(self.ids))


class Distance(NamedTuple):
    id: str
    value: float


class Dealt(NamedTuple):
    epoch: int
    indices: NDArray[np.int64]


class Source:
    """Plan and data in one."""

    unit = "examples"
    num_micro_batches = AN_EPOCH

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        count = AN_EPOCH * SIZE
        self.noise, self.real = torch.randn(count, 4, generator=draw), torch.randn(count, 3, generator=draw) + 1
        self.sizes = torch.randint(1, 9, (count,), generator=draw)

    def plan(self, split: Split) -> "Source":
        return self

    def micro_batch(self, number: int) -> Dealt:
        epoch, place = divmod(number, AN_EPOCH)
        return Dealt(epoch, np.arange(place * SIZE, (place + 1) * SIZE))

    def heaviest(self) -> tuple[int, ...]:
        raise NotImplementedError

    def budgets(self) -> tuple[float, float]:
        raise NotImplementedError

    def with_budget(self, budget: float) -> Self:
        raise NotImplementedError

    def load(self, split: Split, dealt: Dealt) -> Numbers:
        is_empty = dealt.indices[0] == EMPTY * SIZE
        rows = torch.from_numpy(dealt.indices[: 0 if is_empty else SIZE])
        ids = [str(row) for row in rows.tolist()]
        return Numbers(ids, SIZE - len(ids), self.noise[rows], self.real[rows], self.sizes[rows])

    def fingerprint(self) -> str:
        return "numbers"


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = network(4, 3), network(3, 1)


def network(inputs: int, outputs: int) -> nn.Sequential:
    # A bias before BatchNorm would have a gradient of rounding errors alone, which optimizers blow up.
    return nn.Sequential(
        nn.Linear(inputs, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, outputs)
    )


class Task:
    best_metric: tuple[str, Literal["min", "max"]] = ("distance", "min")
    phases: Sequence[Phase] = (
        Phase("generator", "generator", GENERATOR, CosineSection(kind="cosine", warmup_steps=1)),
        Phase("discriminator", "discriminator", DISCRIMINATOR, ConstantSection(kind="constant", warmup_steps=4)),
    )
    watched = 1.0
    """What the term that is not learned from is multiplied by."""

    def build_model(self) -> nn.Module:
        return Adversaries()

    def counts(self, batch: Numbers) -> dict[str, float]:
        return {"examples": len(batch.ids), "values": int(batch.sizes.sum())}

    def loss(self, model: Any, batch: Numbers, phase: str) -> dict[str, Term]:
        made, sizes = model.generator(batch.noise), batch.sizes
        if phase == "generator":
            distance = (made - batch.real).square().sum(dim=1)
            return {
                "adversarial": Term(softplus(-model.discriminator(made)).sum(), "examples"),
                "distance": Term((distance * sizes).sum(), "values", weight=0.5),
                "watched": Term(made.abs().sum() * self.watched, "values", weight=0.0),
            }
        made, real = (model.discriminator(each).squeeze(1) for each in (made.detach(), batch.real))
        return {
            "made": Term((softplus(made) * sizes).sum(), "values", weight=0.25),
            "real": Term(softplus(-real).sum(), "examples"),
        }

    def predict(self, model: Any, batch: Numbers, any_rank: Callable[[bool], bool] | None = None) -> list[Distance]:
        off = (model.generator(batch.noise) - batch.real).square().sum(dim=1)
        return [Distance(*row) for row in zip(batch.ids, off.tolist(), strict=True)]

    def score(self, predictions: Sequence[Distance]) -> dict[str, float]:
        return {"distance": sum(each.value for each in predictions) / len(predictions)}

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        pass


def trainer(run: Path, world: World = ALONE, task: Task | None = None, **engine: Any) -> Trainer:
    given = {"steps": 6, "log_every": 1, "evaluate_every": 3, "save_every": 2, "clip_norm": 0.5}
    section = EngineSection(**{**given, "device": "cpu", "threads": 1, "workers": 0, **engine})
    return Trainer(task or Task(), Source(), run, section, MICRO_BATCHES, 0, world)


def main(words: Sequence[str]) -> int:
    """A run directory, and engine settings as JSON: trains there; what `segue train` would return."""
    try:
        with parallel.joined("cpu") as world:
            with training._told_once_a_machine():
                made = trainer(Path(words[0]), world, **json.loads(words[1]))
            number = made.train().signal
    except UserError as mistake:
        print(f"segue: {mistake}", file=sys.stderr)
        return 2
    return 0 if number is None else 128 + number
