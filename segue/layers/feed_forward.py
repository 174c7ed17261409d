"""What is the position-wise network? Two linear layers with an activation between them, or a gated variant.

Shape letters: B batch, T tokens, D width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from segue.layers.dropout import Dropout
from segue.layers.fused import Fused, at_once, side_by_side
from segue.layers.residual import Portion, by_columns, by_rows
from segue.layers.splits import Split

Activation = Literal["relu", "gelu", "gelu_tanh", "swish", "swiglu"]
PLAIN: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2
    "swish": F.silu,
}
"""The activations without a gate."""


class FeedForward(nn.Module):
    """Position-wise network (Vaswani et al. 2017, section 3.3); SwiGLU as in Shazeer 2020 (arXiv:2002.05202)."""

    splits: ClassVar[Mapping[str, Split]] = {"up": "column", "gate": "column", "down": "row"}

    def __init__(
        self, width: int, hidden: int, activation: Activation, *, dropout: float, has_biases: bool = True
    ) -> None:
        super().__init__()
        self.activation, self.hidden = activation, hidden
        self.up = nn.Linear(width, hidden, bias=has_biases)
        self.gate = nn.Linear(width, hidden, bias=has_biases) if activation == "swiglu" else None
        self.down = nn.Linear(hidden, width, bias=has_biases)
        self.dropout = Dropout(dropout)
        self.fused: Fused | None = None

    def dealt_out(self) -> dict[str, int]:
        """The number of hidden units."""
        return {f"feed_forward of {self.hidden}": self.hidden}

    def forward(self, x: Tensor, portion: Portion | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); of a `portion` of the residual stream, (p, D) -> (p, D)."""
        if self.gate is None:
            hidden = PLAIN[self.activation](self.up(x) if portion is None else by_columns(x, [self.up], portion))
        else:
            gate, up = at_once(x, (self.gate, self.up), self.fused, portion).chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        hidden = self.dropout(hidden)
        return self.down(hidden) if portion is None else by_rows(hidden, self.down, portion)

    def fuse(self) -> None:
        """Puts two matrices in one piece, for inference."""
        if self.gate is not None:
            self.fused = side_by_side((self.gate, self.up))
