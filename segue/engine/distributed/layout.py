"""How is a model laid out over devices? Copies, shards of a copy, tensor-parallel parts of a shard. Plain data."""

from typing import NamedTuple

from segue.errors import UserError, count_of

BYTES_PER_PARAMETER = 16
"""float32 weights, gradients and two moments of AdamW."""
SHARE_FOR_STATE = 0.5
"""Fraction of a device's memory for model state; the rest is for activations."""


class Layout(NamedTuple):
    """Number of ranks along each axis; their product is the total number of ranks."""

    data_parallel: int
    """Copies of the model, each with its own micro-batches."""
    shard: int
    """Ranks over which one copy's parameters, gradients and optimizer state are sharded (FSDP), each with its own
    micro-batches."""
    tensor_parallel: int
    """Ranks that compute each layer together, on the same micro-batches."""

    @property
    def size(self) -> int:
        """Total number of ranks."""
        return self.data_parallel * self.shard * self.tensor_parallel

    @property
    def data_ranks(self) -> int:
        """Number of ranks, or tensor-parallel groups of ranks, that see different micro-batches."""
        return self.data_parallel * self.shard

    def __str__(self) -> str:
        return f"data_parallel {self.data_parallel} x shard {self.shard} x tensor_parallel {self.tensor_parallel}"


def choose(
    num_ranks: int,
    data_parallel: int | None,
    shard: int | None,
    tensor_parallel: int,
    *,
    micro_batches: int,
    num_parameters: int,
    memory_bytes: float | None,
) -> Layout:
    """The layout of a recipe on `num_ranks`; unset numbers (None) are chosen so that a copy's state fits in memory.

    `memory_bytes` is that of one device; with None (CPUs, whose ranks share memory) nothing is sharded by default.
    Raises a UserError if the numbers do not multiply to `num_ranks`, or do not divide `micro_batches`.
    """
    fixed = (data_parallel or 1) * (shard or 1) * tensor_parallel
    rest, remainder = divmod(num_ranks, fixed)
    if remainder or (rest != 1 and data_parallel is not None and shard is not None):
        given = {"data_parallel": data_parallel, "shard": shard, "tensor_parallel": tensor_parallel}
        said = " x ".join(f"engine.{name} {value}" for name, value in given.items() if value is not None)
        wrong = "does not divide" if remainder else f"makes {count_of(fixed, 'rank')}, not"
        raise UserError(f"{said} {wrong} the {count_of(num_ranks, 'rank that was', 'ranks that were')} started")
    if shard is None:
        shard = 1
        if data_parallel is not None:
            shard = rest
        elif memory_bytes is not None:
            state = num_parameters / tensor_parallel * BYTES_PER_PARAMETER
            fitting = [n for n in range(1, rest + 1) if rest % n == 0 and state / n <= memory_bytes * SHARE_FOR_STATE]
            shard = min(fitting, default=rest)
    layout = Layout(num_ranks // (shard * tensor_parallel), shard, tensor_parallel)
    if micro_batches % layout.data_ranks:
        raise UserError(
            f"batch.micro_batches: {micro_batches} cannot be dealt out to {layout.data_ranks} ranks that see different "
            f"data; a multiple of {layout.data_ranks} can"
        )
    return layout
