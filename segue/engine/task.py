"""What does the engine ask of a task? Protocols only; a task implements them and imports nothing from here to do so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Split = Literal["train", "dev"]


class Loss(NamedTuple):
    """What a micro-batch costs."""

    total: Tensor
    """Summed over the micro-batch's targets, never averaged; scalar float32. Only the engine divides."""
    metrics: dict[str, tuple[Tensor, Tensor]]
    """name -> (sum, count)"""


class Batch(Protocol):
    """One micro-batch; it may be empty where bad examples were left out."""

    @property
    def ids(self) -> list[str]:
        """Of its examples."""
        ...

    @property
    def amount(self) -> float:
        """How much data it is, padding not counted, in the task's `unit`."""
        ...

    @property
    def num_skipped(self) -> int:
        """Bad examples that were left out of it."""
        ...

    def pin_memory(self) -> Self:
        """The same batch with its tensors in memory that a GPU can read."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`; from pinned memory they may still be on their way."""
        ...


class MicroBatch(Protocol):
    """Which examples a micro-batch holds."""

    @property
    def epoch(self) -> int:
        """How often all examples were seen before."""
        ...

    @property
    def indices(self) -> NDArray[np.int64]:
        """Positions in the task's list of examples."""
        ...


class Plan(Protocol):
    """The order of the data, a pure function of the micro-batch's number."""

    num_micro_batches: int
    """In an epoch."""

    def micro_batch(self, number: int) -> MicroBatch:
        """Micro-batch `number`, counted from 0 over all epochs."""
        ...

    def heaviest(self) -> tuple[int, ...]:
        """Numbers of the first epoch's micro-batches that may need the most memory."""
        ...


class Prediction(Protocol):
    """What a model said about one example, with all that scoring needs."""

    @property
    def id(self) -> str:
        """Of the example."""
        ...


class Task(Protocol):
    """A task: its batches, loss and evaluation."""

    best_metric: tuple[str, Literal["min", "max"]]
    """Which score chooses the best model."""
    unit: str
    """What `Batch.amount` counts: "seconds", "tokens"."""

    def build_model(self) -> nn.Module:
        """The model with fresh weights."""
        ...

    def plan(self, split: Split) -> Plan:
        """The order of a split."""
        ...

    def budgets(self) -> tuple[float, float]:
        """The smallest budget of a training micro-batch, and one that no more data could fill."""
        ...

    def with_budget(self, budget: float) -> Self:
        """The same task with other training micro-batches."""
        ...

    def load(self, split: Split, micro_batch: Any) -> Batch:
        """Reads and collates the examples; runs in loader processes. A UserError names what cannot be read."""
        ...

    def num_targets(self, batch: Any) -> int:
        """What the loss is divided by, from lengths alone."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        """Forward pass and loss of a micro-batch that is not empty."""
        ...

    def predict(self, model: nn.Module, batch: Any) -> Sequence[Prediction]:
        """The model's output for each example of a batch, in evaluation mode."""
        ...

    def score(self, predictions: Sequence[Any]) -> dict[str, float]:
        """All predictions of a split, scored once."""
        ...

    def fingerprint(self) -> str:
        """Changes when the data do: order and scores would be others."""
        ...

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Writes what a model directory holds beside the weights: recipe, tokenizer, model card."""
        ...
