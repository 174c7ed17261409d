"""How is one token decoded quickly? With the tensors of all layers at hand, and nothing called but torch's functions.

For a model of a million parameters, calling modules takes longer than computing. For a model of 25 million and several
rows products take most of the time, half of it with matrices in the order in which oneDNN reads them. The result is
that of the modules.

Shape letters: N rows, I inputs, O outputs, D width, H heads, K heads of keys and values, d width of a head, S positions
so far, F hidden units.
"""

from collections.abc import Sequence
from platform import machine
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.layers.causal_attention import Memory, Rotation

PACKED_ROWS = 4
"""With fewer rows a packed matrix is not faster, or slower."""
PACKED_SIZE = 1 << 18
"""Numbers of a matrix; of smaller ones the product takes less than the call."""


class Layer(NamedTuple):
    """The tensors of a layer; matrices are transposed views, or packed."""

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
    norm: Tensor,
    memories: Sequence[Memory],
    first: int,
    by: Rotation,
    mask: Tensor | None,
    shape: Shape,
) -> Tensor:
    """(N, D) the embedded newest token of each row, at position `first` -> (N, D) the last layer's output, normalized
    by `norm`.

    Writes into the memories; `by` is (1, d) or (N, 1, d), `mask` (N, 1, 1, S) as in `CausalAttention`.
    """
    rows, width, last = x.shape[0], by.cosines.shape[-1], first + 1
    half, heads, own = width // 2, shape.heads, shape.key_value_heads
    mean, mean_of_head = _mean(x.shape[1], shape.epsilon, x), _mean(width, shape.epsilon, x)
    room = memories[0].keys.shape[2]
    bias = _bias(mask, own, last, room, x)
    for layer, memory in zip(layers, memories, strict=True):
        whole = product(_normalized(x, layer.attention_norm, mean), layer.projections).view(rows, -1, width)
        both, values = whole.split_with_sizes([heads + own, own], dim=1)  # (N, H + K, d), (N, K, d)
        if layer.norms is not None:
            parts = zip(both.split_with_sizes([heads, own], dim=1), layer.norms, strict=True)
            normalized = [_normalized(part.reshape(-1, width), each, mean_of_head) for part, each in parts]
            both = torch.cat([part.view(rows, -1, width) for part in normalized], dim=1)
        both = torch.addcmul(both * by.cosines, both.roll(half, dims=-1), by.sines)
        queries, keys = both.split_with_sizes([heads, own], dim=1)
        memory.keys.select(2, first).copy_(keys)
        memory.values.select(2, first).copy_(values)
        # Two products for all rows at once: scaled_dot_product_attention makes them one by one.
        scores = torch.baddbmm(
            bias,
            queries.reshape(rows * own, -1, width),  # (N K, H / K, d)
            memory.keys.view(rows * own, room, width).transpose(1, 2),
            alpha=width**-0.5,
        )
        found = torch.bmm(scores.softmax(dim=-1), memory.values.view(rows * own, room, width))
        x = _added(x, found.view(rows, -1), layer.output)
        gate, up = product(_normalized(x, layer.feed_forward_norm, mean), layer.up).chunk(2, dim=-1)
        x = _added(x, F.silu(gate).mul_(up), layer.down)
    return _normalized(x, norm, mean)


def packed(matrix: Tensor) -> Tensor:
    """(I, O) -> a copy for `product` with `PACKED_ROWS` or more, or the same where that is not faster."""
    is_known = matrix.dtype == torch.float32 and matrix.device.type == "cpu" and machine() in ("x86_64", "AMD64")
    # Measured on AMD processors with one thread. The operators are torch.compile's own, and no public ones.
    has_them = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    has_them = has_them and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (is_known and has_them) or matrix.numel() < PACKED_SIZE:
        return matrix
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix.t().contiguous(), 16)
    return found


def packed_layer(layer: Layer) -> Layer:
    """The same with packed matrices."""
    return layer._replace(
        projections=packed(layer.projections),
        output=packed(layer.output),
        up=packed(layer.up),
        down=packed(layer.down),
    )


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """(N, I), (I, O) -> (N, O)."""
    if not matrix.is_mkldnn:
        return torch.mm(x, matrix)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")
    return found


def _added(x: Tensor, inputs: Tensor, matrix: Tensor) -> Tensor:
    """(N, O), (N, I), (I, O) -> (N, O): x and the product."""
    return product(inputs, matrix).add_(x) if matrix.is_mkldnn else torch.addmm(x, inputs, matrix)


class _Mean(NamedTuple):
    """For `_normalized`: a square's mean and epsilon are one product, which is fewer calls than in `RMSNorm`."""

    column: Tensor
    """(D, 1) of 1 / D"""
    epsilon: Tensor
    """(1, 1)"""


def _mean(width: int, epsilon: float, like: Tensor) -> _Mean:
    return _Mean(like.new_full((width, 1), 1 / width), like.new_full((1, 1), epsilon))


def _normalized(x: Tensor, weight: Tensor, mean: _Mean) -> Tensor:
    """(N, D), (D) -> (N, D): as `RMSNorm`."""
    return (x * torch.addmm(mean.epsilon, x.square(), mean.column).rsqrt_()).mul_(weight)


def _bias(mask: Tensor | None, heads: int, last: int, room: int, like: Tensor) -> Tensor:
    """(N, 1, 1, S) -> (N K, 1, room), or (room) without a mask: 0 where it is True, else -inf, for each head."""
    found = like.new_zeros(room)
    found[last:] = -torch.inf
    if mask is None:
        return found
    hidden = F.pad(~mask, (0, room - last))
    return found.masked_fill(hidden, -torch.inf).expand(-1, heads, -1, -1).reshape(-1, 1, room)
