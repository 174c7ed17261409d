"""What does the engine ask of a task? Protocols only; a task implements them and imports nothing from here to do so.

A task comes in two parts: a `Source`, which loader processes see, makes micro-batches; a `Task`, which the training
process has, makes a model, losses and scores of them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.engine.optimizer import OptimizerSection
from segue.engine.schedule import ScheduleSection

Split = Literal["train", "dev"]

LOSS = "loss"
"""Name of the term of a loss that has one; in the log, of the weighted sum of all."""


class Term(NamedTuple):
    """A part of a loss."""

    total: Tensor
    """Summed over the micro-batch, never averaged; scalar float32. Only the engine divides."""
    per: str = "targets"
    """Which of the task's `counts` it is divided by, of the whole step."""
    weight: float = 1.0
    """In the loss; with 0 it is logged, and not learned from."""


class Phase(NamedTuple):
    """A part of a step, with a loss, an optimizer and parameters of its own. Most tasks have one."""

    name: str
    """"" where there is one."""
    module: str
    """Whose parameters it changes: a path in the model, "" for all of it."""
    optimizer: OptimizerSection
    schedule: ScheduleSection


class Batch(Protocol):
    """One micro-batch, a NamedTuple whose fields may be tensors; it may be empty where bad examples were left out."""

    @property
    def ids(self) -> list[str]:
        """Of its examples."""
        ...

    @property
    def amount(self) -> float:
        """How much data it is, padding not counted, in the source's `unit`."""
        ...

    @property
    def num_skipped(self) -> int:
        """Bad examples that were left out of it."""
        ...


class MicroBatch(Protocol):
    """Which examples a micro-batch holds."""

    @property
    def epoch(self) -> int:
        """How often all examples were seen before."""
        ...

    @property
    def indices(self) -> NDArray[np.int64]:
        """Positions in the source's list of examples."""
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


class Source(Protocol):
    """Where micro-batches come from. Loader processes have it, and it holds no state."""

    unit: str
    """What `Batch.amount` counts: "seconds", "tokens"."""

    def plan(self, split: Split) -> Plan:
        """The order of a split."""
        ...

    def load(self, split: Split, micro_batch: Any) -> Any:
        """Reads and collates the examples; a UserError names what cannot be read."""
        ...

    def budgets(self) -> tuple[float, float]:
        """The smallest budget of a training micro-batch, and one that no more data could fill."""
        ...

    def with_budget(self, budget: float) -> Self:
        """The same source with other training micro-batches."""
        ...

    def fingerprint(self) -> str:
        """Changes when the data do: order and scores would be others."""
        ...


class Prediction(Protocol):
    """What a model said about one example, with all that scoring needs."""

    @property
    def id(self) -> str:
        """Of the example."""
        ...


class Task(Protocol):
    """A task: its model, losses and evaluation."""

    best_metric: tuple[str, Literal["min", "max"]]
    """Which score chooses the best model."""

    @property
    def phases(self) -> Sequence[Phase]:
        """Of a step, in order; they change different parameters."""
        ...

    def build_model(self) -> nn.Module:
        """The model. The engine calls this on torch's meta device, where no tensor has memory or values.

        They come later (`distributed/materialize.py`): from each module's own `reset_parameters`, then from the model's
        `initialize()`, if it has one, which sees whole tensors. Buffers that neither sets are made with numpy.
        """
        ...

    def counts(self, batch: Any) -> Mapping[str, float]:
        """What losses are divided by, from lengths alone; the same names for every batch, also for an empty one."""
        ...

    def loss(self, model: nn.Module, batch: Any, phase: str) -> Mapping[str, Term]:
        """Forward pass and losses of a micro-batch that is not empty, by name; the same names for every batch."""
        ...

    def predict(
        self, model: nn.Module, batch: Any, any_rank: Callable[[bool], bool] | None = None
    ) -> Sequence[Prediction]:
        """The model's output for each example of a batch, in evaluation mode.

        The engine gives `any_rank` where the model is sharded, and all ranks must make equally many passes through it:
        a search asks it, before each pass, whether any rank says that it has one to make (`prediction.py`).
        """
        ...

    def score(self, predictions: Sequence[Any]) -> dict[str, float]:
        """All predictions of a split, scored once."""
        ...

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Writes what a model directory holds beside the weights: recipe, tokenizer, model card."""
        ...
