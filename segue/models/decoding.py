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
    rows, epsilon = x.shape[0], shape.epsilon
    turned, last = shape.heads + shape.key_value_heads, first + 1
    half = by.cosines.shape[-1] // 2
    is_grouped = shape.key_value_heads != shape.heads
    for layer, memory in zip(layers, memories, strict=True):
        whole = torch.mm(_normalized(x, layer.attention_norm, epsilon), layer.projections).view(rows, -1, 2 * half)
        both = whole[:, :turned]
        if layer.norms is not None:
            queries = _normalized(both[:, : shape.heads], layer.norms[0], epsilon)
            both = torch.cat([queries, _normalized(both[:, shape.heads :], layer.norms[1], epsilon)], dim=1)
        both = torch.addcmul(both * by.cosines, both.roll(half, dims=-1), by.sines)
        memory.keys[:, :, first] = both[:, shape.heads :]
        memory.values[:, :, first] = whole[:, turned:]
        found = F.scaled_dot_product_attention(
            both[:, : shape.heads].unsqueeze(2),
            memory.keys[:, :, :last],
            memory.values[:, :, :last],
            attn_mask=mask,
            enable_gqa=is_grouped,
        )
        x = torch.addmm(x, found.reshape(rows, -1), layer.output)
        gate, up = torch.mm(_normalized(x, layer.feed_forward_norm, epsilon), layer.up).chunk(2, dim=-1)
        x = torch.addmm(x, F.silu(gate).mul_(up), layer.down)
    return x


def _normalized(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """(..., D), (D) -> (..., D): as `RMSNorm`."""
    return (x * x.square().mean(dim=-1, keepdim=True).add_(epsilon).rsqrt_()).mul_(weight)
