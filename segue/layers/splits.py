"""How does tensor parallelism split a layer? Each layer that can be split declares it, for the engine.

Shoeybi et al. 2019, "Megatron-LM" (arXiv:1909.08053), section 3.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

Split = Literal["column", "row", "vocabulary", "heads", "positions"]
"""The dimension of a matrix that is split over ranks.

"column" splits the outputs of a linear layer, "row" its inputs: the paper writes Y = XA, so a column of A is an output.
A column split followed by a row split needs one sum over ranks. "vocabulary" splits the tokens of an embedding or an
output layer (`vocabulary.py`); only these may be split unevenly. "heads" splits nothing: every rank has the whole
layer, and applies it to its own heads (QK-norm), so its gradient is a sum over ranks. "positions" splits a residual
stream (`residual.py`), which has no parameters.
"""


@runtime_checkable
class Splittable(Protocol):
    """A layer that declares how it is split. Its code is written for one device, and takes sizes from its tensors."""

    splits: Mapping[str, Split]
    """The split of each part, by attribute name; the attribute may be None."""

    def dealt_out(self) -> dict[str, int]:
        """Counts that the number of ranks must divide, by a description in the recipe's terms."""
        ...


def splits_of(module: object, ranks: int = 1) -> Mapping[str, Split]:
    """The splits of a module's existing attributes; empty if it declares none.

    A vocabulary that would leave one of the `ranks` without tokens is not split.
    """
    found: dict[str, Split] = {}
    for name, split in (module.splits if isinstance(module, Splittable) else {}).items():
        part = getattr(module, name)
        if part is not None and (split != "vocabulary" or _has_all_ranks(part.weight.shape[0], ranks)):
            found[name] = split
    return found


def _has_all_ranks(tokens: int, ranks: int) -> bool:
    """Whether torch.chunk gives the last rank at least one token."""
    return -(-tokens // ranks) * (ranks - 1) < tokens
