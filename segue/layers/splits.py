"""How does tensor parallelism split a layer? Each layer that can be split declares it; the engine reads that.

Shoeybi et al. 2019, "Megatron-LM" (arXiv:1909.08053), section 3.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

Split = Literal["column", "row", "vocabulary"]
"""Which dimension of a matrix is dealt out to the ranks.

"column" is the outputs of a linear layer, "row" its inputs: the paper writes Y = XA, so a column of A is an output. A
column and then a row need one sum over the ranks. "vocabulary" is the tokens of an embedding or of an output layer
(`vocabulary.py`); only these may be dealt out unevenly.
"""


@runtime_checkable
class Splittable(Protocol):
    """A layer that declares how it is split. Its code is that of one device, and takes sizes from its tensors."""

    splits: Mapping[str, Split]
    """For each linear layer or embedding in it that is split, by the name of the attribute, which may be None."""

    def dealt_out(self) -> dict[str, int]:
        """What the ranks must divide, in words that a user knows from the recipe, and how many there are of it."""
        ...


def splits_of(module: object, ranks: int = 1) -> Mapping[str, Split]:
    """Of the parts of a module that are there; empty for one that declares nothing.

    A vocabulary of which one of `ranks` would have no token stays whole.
    """
    found: dict[str, Split] = {}
    for name, split in (module.splits if isinstance(module, Splittable) else {}).items():
        part = getattr(module, name)
        if part is not None and (split != "vocabulary" or _has_all_ranks(part.weight.shape[0], ranks)):
            found[name] = split
    return found


def _has_all_ranks(tokens: int, ranks: int) -> bool:
    """Whether torch.chunk leaves something for the last rank."""
    return -(-tokens // ranks) * (ranks - 1) < tokens
