"""What does the engine require of a task? Protocols; a task implements them without importing them.

A task has two parts: a `Source`, used in loader processes, makes micro-batches; a `Task`, used in the training process,
makes the model, losses and scores.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.engine.optimizer import DepthRates, OptimizerSection
from segue.engine.schedule import ScheduleSection

Split = Literal["train", "dev"]

LOSS = "loss"
"""Name of the only term of a loss; in the log, of the weighted sum of all terms."""


class Term(NamedTuple):
    """One term of a loss."""

    total: Tensor
    """Sum over the micro-batch, not averaged (the engine divides); scalar float32."""
    per: str = "targets"
    """The name in the task's `counts` by whose total over the step the sum is divided."""
    weight: float = 1.0
    """Weight in the objective; a term of weight 0 is only logged."""


class Phase(NamedTuple):
    """A part of a step, with a loss, an optimizer and parameters of its own. Most tasks have one."""

    name: str
    """"" for the only phase of a step."""
    module: str
    """The submodule whose parameters it updates: a path in the model, "" for the whole model."""
    optimizer: OptimizerSection
    schedule: ScheduleSection
    by_depth: DepthRates | None = None
    """If given, lower layers learn slower or later."""


class Batch(Protocol):
    """One micro-batch, a NamedTuple whose fields may be tensors; it may be empty where bad examples were left out."""

    @property
    def ids(self) -> list[str]:
        """Ids of the examples."""
        ...

    @property
    def amount(self) -> float:
        """Amount of data without padding, in the source's `unit`."""
        ...

    @property
    def num_skipped(self) -> int:
        """Number of bad examples that were left out of the batch."""
        ...


class MicroBatch(Protocol):
    """Which examples a micro-batch holds."""

    @property
    def epoch(self) -> int:
        """Epoch, from 0."""
        ...

    @property
    def indices(self) -> NDArray[np.int64]:
        """Positions in the source's list of examples."""
        ...


class Plan(Protocol):
    """The order of the data: a pure function of the micro-batch number."""

    num_micro_batches: int
    """Micro-batches per epoch."""

    def micro_batch(self, number: int) -> MicroBatch:
        """Micro-batch `number`, counted from 0 over all epochs."""
        ...

    def heaviest(self) -> tuple[int, ...]:
        """Numbers of the first epoch's micro-batches that may need the most memory."""
        ...


class Source(Protocol):
    """Makes micro-batches. Stateless; used in loader processes."""

    unit: str
    """The unit of `Batch.amount`: "seconds", "tokens"."""

    def plan(self, split: Split) -> Plan:
        """The order of a split."""
        ...

    def load(self, split: Split, micro_batch: Any) -> Any:
        """Reads and collates the examples. Raises a UserError that names an example that cannot be read."""
        ...

    def budgets(self) -> tuple[float, float]:
        """The smallest budget of a training micro-batch, and one that holds the whole training data."""
        ...

    def with_budget(self, budget: float) -> Self:
        """A copy of the source with another budget for training micro-batches."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the data change in a way that affects their order or scores."""
        ...


class Prediction(Protocol):
    """A model's output for one example, with everything that scoring needs."""

    @property
    def id(self) -> str:
        """Id of the example."""
        ...


class Task(Protocol):
    """A task: its model, losses and evaluation."""

    best_metric: tuple[str, Literal["min", "max"]]
    """The score that selects the best model, and its direction."""

    @property
    def phases(self) -> Sequence[Phase]:
        """The phases of a step, in order; they update disjoint sets of parameters."""
        ...

    def build_model(self) -> nn.Module:
        """The model. The engine calls this on torch's meta device, where tensors have neither memory nor values.

        Values are set later (`distributed/materialize.py`): by each module's `reset_parameters`, then by the model's
        `initialize()`, if it has one, which sees whole tensors. Buffers that neither sets must be made with numpy.
        """
        ...

    def counts(self, batch: Any) -> Mapping[str, float]:
        """The denominators of the losses, from lengths alone; the same names for every batch, even an empty one."""
        ...

    def loss(self, model: nn.Module, batch: Any, phase: str) -> Mapping[str, Term]:
        """Forward pass and losses of a micro-batch that is not empty, by name; the same names for every batch."""
        ...

    def predict(
        self, model: nn.Module, batch: Any, any_rank: Callable[[bool], bool] | None = None
    ) -> Sequence[Prediction]:
        """The model's output for each example of a batch, in evaluation mode.

        The engine passes `any_rank` if the model is sharded and all ranks must make the same number of forward passes:
        before each pass a search calls it with whether it needs the pass, and gets whether any rank does
        (`prediction.py`).
        """
        ...

    def score(self, predictions: Sequence[Any]) -> dict[str, float]:
        """Scores of all predictions of a split, by name."""
        ...

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Writes what a model directory holds beside the weights: recipe, tokenizer, model card."""
        ...
