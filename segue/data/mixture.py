"""How are other data mixed into training? Every so many micro-batches is one of them: a pure function of its number.

What a fine-tuned model knew before is kept best by going on with a little of what it learned from (rehearsal; Robins
1995, "Catastrophic forgetting, rehearsal and pseudorehearsal").
"""

import math
from typing import Any, NamedTuple, Protocol, Self

from segue.data.batching import Indices, MicroBatch
from segue.data.manifests import Split


class Plan(Protocol):
    """An endless order: what a `BatchPlan` and a `WindowPlan` have."""

    num_micro_batches: int

    def micro_batch(self, number: int) -> MicroBatch:
        """Micro-batch `number`, counted from 0 over all epochs."""
        ...

    def heaviest(self) -> tuple[int, ...]:
        """Numbers of the first epoch's micro-batches that may need the most memory."""
        ...


class Part(Protocol):
    """Data to mix: what a `ManifestSource` and a `WindowSource` have."""

    unit: str

    def plan(self, split: Split) -> Plan:
        """The order of a split."""
        ...

    def load(self, split: Split, micro_batch: Any) -> Any:
        """Reads and collates the examples of a micro-batch."""
        ...

    def budgets(self) -> tuple[float, float]:
        """The smallest budget of a training micro-batch, and one that no more data could fill."""
        ...

    def with_budget(self, budget: float) -> Self:
        """The same data with other training micro-batches."""
        ...

    def epochs(self) -> float:
        """How often to learn from the training data where the recipe leaves it open."""
        ...

    def fingerprint(self) -> str:
        """Changes when the data do."""
        ...


class MixedMicroBatch(NamedTuple):
    """The examples of one micro-batch."""

    epoch: int
    """How often all examples of its own data were seen before."""
    indices: Indices
    """Positions in the list of these."""
    is_rehearsed: bool
    """Whether they are of the data that are mixed in."""


class MixedPlan:
    """Two endless orders as one: `share` of the micro-batches are of the second, spread evenly."""

    def __init__(self, own: Plan, rehearsed: Plan, share: float) -> None:
        self._own, self._rehearsed, self._share = own, rehearsed, share
        self.num_micro_batches = self._place_of_own(own.num_micro_batches - 1) + 1
        """Until all own examples were seen once."""

    def micro_batch(self, number: int) -> MixedMicroBatch:
        """Micro-batch `number`, counted from 0 over all epochs."""
        before, after = (math.floor(each * self._share) for each in (number, number + 1))
        is_rehearsed = after > before
        found = self._rehearsed.micro_batch(before) if is_rehearsed else self._own.micro_batch(number - before)
        return MixedMicroBatch(*found, is_rehearsed)

    def heaviest(self) -> tuple[int, ...]:
        """Numbers of the micro-batches with the longest example, and with the most, of both."""
        own = tuple(map(self._place_of_own, self._own.heaviest()))
        return own + tuple(map(self._place_of_rehearsed, self._rehearsed.heaviest()))

    def _place_of_own(self, number: int) -> int:
        """Which micro-batch of all is number `number` of the own ones."""
        place = max(number, math.floor(number / (1 - self._share)) - 2)  # not behind it yet
        while place - math.floor((place + 1) * self._share) < number:
            place += 1
        return place

    def _place_of_rehearsed(self, number: int) -> int:
        place = max(0, math.floor(number / self._share) - 1)
        while math.floor((place + 1) * self._share) <= number:
            place += 1
        return place


class Mixture:
    """Training data with `share` of other ones among them; development data are the first's own."""

    def __init__(self, own: Part, rehearsed: Part, share: float) -> None:
        self._own, self._rehearsed, self._share = own, rehearsed, share
        self.unit = own.unit
        self._mixed: MixedPlan | None = None

    def plan(self, split: Split) -> Plan | MixedPlan:
        """The order of a split."""
        if split == "dev":
            return self._own.plan(split)
        if self._mixed is None:  # every step asks for it
            self._mixed = MixedPlan(self._own.plan(split), self._rehearsed.plan(split), self._share)
        return self._mixed

    def load(self, split: Split, micro_batch: Any) -> Any:
        """Reads and collates the examples of a micro-batch."""
        source = self._rehearsed if split == "train" and micro_batch.is_rehearsed else self._own
        return source.load(split, micro_batch)

    def budgets(self) -> tuple[float, float]:
        """The smallest budget of a training micro-batch, and one that no more data could fill."""
        (own, all_own), (rehearsed, all_rehearsed) = self._own.budgets(), self._rehearsed.budgets()
        return max(own, rehearsed), max(all_own, all_rehearsed)

    def with_budget(self, budget: float) -> "Mixture":
        """The same data with other training micro-batches."""
        return Mixture(self._own.with_budget(budget), self._rehearsed.with_budget(budget), self._share)

    def epochs(self) -> float:
        """How often to learn from the own data where the recipe leaves it open."""
        return self._own.epochs()

    def fingerprint(self) -> str:
        """Changes when an example of either does."""
        return f"{self._own.fingerprint()} rehearsed {self._rehearsed.fingerprint()}"
