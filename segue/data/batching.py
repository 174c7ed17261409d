"""Which examples make up micro-batch n? A pure function of (lengths, budget, seed, n).

Nothing here has state, so any number of ranks and workers sees the same order, and resuming needs only the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Indices, Indices]:
    """(B, longest) rows of numbers, such as tokens, padded with `padding`; (B) lengths."""
    lengths = np.array([len(row) for row in rows], np.int64)
    table = np.full((len(rows), int(lengths.max(initial=0))), padding, np.int64)
    for row, numbers in zip(table, rows, strict=True):
        row[: len(numbers)] = numbers
    return table, lengths


class MicroBatch(NamedTuple):
    """The examples of one micro-batch."""

    epoch: int
    """Epoch, from 0."""
    indices: Indices
    """Positions in the list of examples."""


class BatchPlan:
    """An endless sequence of micro-batches: epoch after epoch, each example exactly once per epoch.

    Examples are sorted by length into buckets. A bucket has a fixed number of micro-batches of nearly equal size, as
    few as the budget allows; so every epoch has the same number of micro-batches, and schedules do not drift.
    """

    def __init__(
        self, lengths: NDArray[np.float64], budget: float, *, buckets: int, seed: int, is_shuffled: bool = True
    ) -> None:
        """`budget` limits number of examples x longest one, in the unit of `lengths`; no example may be longer."""
        assert len(lengths) > 0
        assert lengths.max() <= budget
        self._seed = seed
        self._is_shuffled = is_shuffled
        order = np.argsort(lengths, kind="stable")
        self._buckets = [bucket for bucket in np.array_split(order, min(buckets, len(order))) if len(bucket)]
        self._num_parts = []
        for bucket in self._buckets:
            largest = int(budget // lengths[bucket].max())
            self._num_parts.append(-(-len(bucket) // largest))
        self.num_micro_batches = sum(self._num_parts)
        """Micro-batches in an epoch."""
        self._epoch = -1
        self._batches: list[Indices] = []
        self._order = order

    def micro_batch(self, number: int) -> MicroBatch:
        """Micro-batch `number`, counted from 0 over all epochs."""
        epoch, position = divmod(number, self.num_micro_batches)
        if epoch != self._epoch:  # only a cache: consecutive numbers are in the same epoch
            self._batches, self._epoch = self._deal(epoch), epoch
        return MicroBatch(epoch, self._batches[position])

    def heaviest(self) -> tuple[int, int]:
        """Numbers of the first epoch's micro-batches with the longest example, and with the most examples."""
        batches = self._deal(0)
        longest = next(number for number, batch in enumerate(batches) if self._order[-1] in batch)
        return longest, max(range(len(batches)), key=lambda number: len(batches[number]))

    def _deal(self, epoch: int) -> list[Indices]:
        draw = np.random.default_rng([self._seed, 0, epoch])
        batches: list[Indices] = []
        for bucket, num_parts in zip(self._buckets, self._num_parts, strict=True):
            order = draw.permutation(bucket) if self._is_shuffled else bucket
            batches.extend(np.array_split(order, num_parts))
        if self._is_shuffled:
            batches = [batches[n] for n in draw.permutation(len(batches))]
        return batches
