"""How is one token decoded quickly? With the tensors of all layers at hand, and nothing called but torch's functions.

For a model of a million parameters, calling modules takes longer than computing. The result is that of the modules.

Shape letters: N rows, D width, H heads, K heads of keys and values, d width of a head, S positions so far, F hidden
units.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.layers.causal_attention import Memory, Rotation


class Layer(NamedTuple):
    """The tensors of a layer; matrices are transposed views."""

    attention_norm: Tensor
    projections: Tensor
    """(D, (H + 2 K) d) queries, keys, values"""
    norms: tuple[Tensor, Tensor] | None
    """(d) each, of queries and keys (QK-norm)"""
    output: Tensor
    """(H d, D)"""
    feed_forward_norm: Tensor
    up: Tensor
    """(D, 2 F) gate, up"""
    down: Tensor
    """(F, D)"""


class Shape(NamedTuple):
    """What the tensors do not say."""

    heads: int
    key_value_heads: int
    epsilon: float


def decoded(
    x: Tensor,
    layers: Sequence[Layer],
    memories: Sequence[Memory],
    first: int,
    by: Rotation,
    mask: Tensor | None,
    shape: Shape,
) -> Tensor:
    """(N, D) the embedded newest token of each row, at position `first` -> (N, D) the last layer's output.

    Writes into the memories; `by` is (1, d) or (N, 1, d), `mask` (N, 1, 1, S) as in `CausalAttention`.
    """
    rows, width, last = x.shape[0], by.cosines.shape[-1], first + 1
    half, heads, own = width // 2, shape.heads, shape.key_value_heads
    normalize = Normalization(x.shape[1], shape.epsilon, x)
    of_head = None if layers[0].norms is None else Normalization(width, shape.epsilon, x)
    bias = x.new_zeros(()) if mask is None else _bias(mask, own, x)
    for layer, memory in zip(layers, memories, strict=True):
        whole = torch.mm(normalize(x, layer.attention_norm), layer.projections).view(rows, -1, width)
        both, values = whole.split([heads + own, own], dim=1)
        if of_head is not None and layer.norms is not None:
            parts = zip(both.split([heads, own], dim=1), layer.norms, strict=True)
            both = torch.cat([of_head(part, norm) for part, norm in parts], dim=1)
        both = torch.addcmul(both * by.cosines, both.roll(half, dims=-1), by.sines)
        queries, keys = both.split([heads, own], dim=1)
        memory.keys.select(2, first).copy_(keys)
        memory.values.select(2, first).copy_(values)
        # Two products for all rows at once: scaled_dot_product_attention makes them one by one.
        scores = torch.baddbmm(
            bias,
            queries.reshape(rows * own, -1, width),  # (N K, H / K, d)
            memory.keys.view(rows * own, -1, width).narrow(1, 0, last).transpose(1, 2),
            beta=0 if mask is None else 1,
            alpha=width**-0.5,
        )
        found = torch.bmm(scores.softmax(dim=-1), memory.values.view(rows * own, -1, width).narrow(1, 0, last))
        x = torch.addmm(x, found.view(rows, -1), layer.output)
        gate, up = torch.mm(normalize(x, layer.feed_forward_norm), layer.up).chunk(2, dim=-1)
        x = torch.addmm(x, F.silu(gate).mul_(up), layer.down)
    return x


class Normalization:
    """As `RMSNorm`, with fewer calls: mean and epsilon by a product with a column of 1 / D."""

    def __init__(self, width: int, epsilon: float, like: Tensor) -> None:
        """`like` has the type of what is normalized."""
        self._column, self._epsilon = like.new_full((width, 1), 1 / width), like.new_full((1, 1), epsilon)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """(..., D), (D) -> (..., D)."""
        squares = x.square()
        if x.dim() == 2:
            return (x * torch.addmm(self._epsilon, squares, self._column).rsqrt_()).mul_(weight)
        return (x * (squares @ self._column).add_(self._epsilon).rsqrt_()).mul_(weight)


def _bias(mask: Tensor, heads: int, like: Tensor) -> Tensor:
    """(N, 1, 1, S) -> (N K, 1, S): 0 where it is True, else -inf, for each head."""
    found = like.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    return found.expand(-1, heads, -1, -1).reshape(-1, 1, mask.shape[-1])
