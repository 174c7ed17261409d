"""How does a language model attend? To earlier tokens of the same document, with a cache while it generates.

Shape letters: B rows, T positions, S positions so far, D width, H heads, K heads of keys and values, d width of a head.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.errors import count_of
from segue.layers.fused import Fused, at_once, side_by_side
from segue.layers.residual import Portion, by_rows
from segue.layers.rms_norm import RMSNorm
from segue.layers.splits import Split

SHORT_DOCUMENT = 48
"""Documents of fewer tokens on average are separated by a mask; longer ones are faster one by one."""


class Span(NamedTuple):
    """A document, or the part of one that lies in a row."""

    row: int
    start: int
    stop: int


class Documents(NamedTuple):
    """Which positions belong together, in one of two forms."""

    spans: list[Span] | None
    """All parts of documents, or"""
    mask: Tensor | None
    """(B, 1, T, T): True where a position may attend."""


def separated(documents: Tensor) -> Documents:
    """(B, T) numbers that change where a document begins -> the form that is faster on this device.

    Both give the same result. Attention one document at a time computes less, but needs the bounds on the CPU and has
    a cost per document; under torch.compile each set of bounds would be compiled anew.
    """
    rows, size = documents.shape
    is_new = documents[:, 1:] != documents[:, :-1]
    if documents.device.type == "cpu" and not torch.compiler.is_compiling():
        starts = [[0, *(row.nonzero().flatten() + 1).tolist(), size] for row in is_new]
        if rows * size >= SHORT_DOCUMENT * sum(len(each) - 1 for each in starts):
            return Documents([Span(row, *each) for row, at in enumerate(starts) for each in pairwise(at)], None)
    is_same = documents.unsqueeze(2) == documents.unsqueeze(1)
    causal = torch.ones(size, size, dtype=torch.bool, device=documents.device).tril()
    return Documents(None, (is_same & causal).unsqueeze(1))


class Rotation(NamedTuple):
    """Angles of rotary positions (Su et al. 2021, arXiv:2104.09864, equation 34): (..., T, 1, d) each.

    Dimensions i and i + d/2 are a pair, as in Llama; `sines` are negative for the first of them.
    """

    cosines: Tensor
    sines: Tensor

    def of(self, places: "slice | Tensor") -> "Rotation":
        """The rotation of some of the positions, which are (T), or (B, T) in a tensor."""
        return Rotation(self.cosines[places], self.sines[places])


def rotation(positions: Tensor, width: int, base: float, dtype: torch.dtype) -> Rotation:
    """(..., T) positions -> the rotation of heads of this width at these positions."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions.float().unsqueeze(-1) / base**exponents  # (..., T, d/2)
    cosines, sines = angles.cos(), angles.sin()
    whole = torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1)
    return Rotation(*(each.unsqueeze(-2).to(dtype) for each in whole))


def rotated(x: Tensor, by: Rotation) -> Tensor:
    """(B, T, H, d) -> (B, T, H, d)."""
    return torch.addcmul(x * by.cosines, x.roll(x.shape[-1] // 2, dims=-1), by.sines)


class Memory:
    """Keys and values of a layer while it generates: (B, K, room, d) each, written in place."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def extended(self, keys: Tensor, values: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Writes (B, K, T, d) from position `first` on; all keys and values so far, (B, K, S, d)."""
        last = first + keys.shape[2]
        assert last <= self.keys.shape[2]
        self.keys[:, :, first:last] = keys
        self.values[:, :, first:last] = values
        return self.keys[:, :, :last], self.values[:, :, :last]


class CausalAttention(nn.Module):
    """Multi-head attention to earlier positions, optionally with fewer key and value heads, and with QK-norm.

    Vaswani et al. 2017, section 3.2; grouped queries: Ainslie et al. 2023 (arXiv:2305.13245); QK-norm as in Qwen3:
    queries and keys of each head are normalized before they are rotated.
    """

    splits: ClassVar[Mapping[str, Split]] = {
        "query": "column",
        "key": "column",
        "value": "column",
        "output": "row",
        "query_norm": "heads",
        "key_norm": "heads",
    }

    def __init__(
        self,
        width: int,
        heads: int,
        key_value_heads: int,
        head_width: int,
        *,
        dropout: float,
        has_biases: bool = False,
        norm_epsilon: float | None = None,
    ) -> None:
        """`norm_epsilon`: that of QK-norm; None: no QK-norm."""
        super().__init__()
        self.heads, self.key_value_heads, self.head_width = heads, key_value_heads, head_width
        self.dropout = dropout
        # Separate, not fused: tensor parallelism splits each by columns, and Llama has separate names.
        self.query = nn.Linear(width, heads * head_width, bias=has_biases)
        self.key = nn.Linear(width, key_value_heads * head_width, bias=has_biases)
        self.value = nn.Linear(width, key_value_heads * head_width, bias=has_biases)
        self.output = nn.Linear(heads * head_width, width, bias=has_biases)
        self.fused: Fused | None = None
        self.query_norm = None if norm_epsilon is None else RMSNorm(head_width, norm_epsilon)
        self.key_norm = None if norm_epsilon is None else RMSNorm(head_width, norm_epsilon)

    def fuse(self) -> None:
        """Puts the three matrices in one piece, for inference."""
        self.fused = side_by_side(self._each())

    def _each(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value

    def dealt_out(self) -> dict[str, int]:
        """The numbers of heads."""
        return {count_of(number, "head"): number for number in (self.heads, self.key_value_heads)}

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        documents: Documents | None = None,
        memory: Memory | None = None,
        first: int = 0,
        mask: Tensor | None = None,
        portion: Portion | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). None of `documents`: each row is one.

        With a `memory`, positions count from `first`, and the (B, 1, T, S) `mask`, if any, says what is attended to; T
        is 1 unless `first` is 0. Of a `portion` of the residual stream, (p, D) -> (p, D).
        """
        queries, keys, values = self._projected(x, rotation, portion)
        size = queries.shape[2]
        if memory is not None:
            keys, values = memory.extended(keys, values, first)
        is_causal = mask is None and size > 1
        if documents is None or memory is not None:
            found = self._attend(queries, keys, values, mask, is_causal=is_causal)
        elif documents.spans is None:
            found = self._attend(queries, keys, values, documents.mask, is_causal=False)
        else:
            pieces = []
            for row, start, stop in documents.spans:
                query, key, value = (each[row : row + 1, :, start:stop] for each in (queries, keys, values))
                pieces.append(self._attend(query, key, value, None, is_causal=True).squeeze(0))
            whole = torch.cat(pieces, dim=1)  # (H, B * T, d) -> (B, H, T, d)
            found = whole.view(whole.shape[0], -1, size, self.head_width).transpose(0, 1)
        found = found.transpose(1, 2).flatten(2)  # (B, H, T, d) -> (B, T, D)
        return self.output(found) if portion is None else by_rows(found, self.output, portion)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """(B, H, T, d), (B, K, S, d), (B, K, S, d), (B, 1, T, S) -> (B, H, T, d)."""
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
            enable_gqa=self.key_value_heads != self.heads,
        )

    def _projected(
        self, x: Tensor, rotation: Rotation | None, portion: Portion | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> (B, H, T, d) queries, (B, K, T, d) keys and values; under tensor parallelism some of the heads.

        One product with the three matrices side by side is faster than three, and one rotation than two.
        """
        whole = at_once(x, self._each(), self.fused, portion)
        whole = whole.view(*whole.shape[:2], -1, self.head_width)  # (B, T, H + 2 K, d)
        group = self.heads // self.key_value_heads
        ours = whole.shape[2] // (group + 2)  # heads of keys
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys, values = torch.split(whole, [group * ours, ours, ours], dim=2)
            both = torch.cat([self.query_norm(queries), self.key_norm(keys)], dim=2)
        else:
            both, values = torch.split(whole, [group * ours + ours, ours], dim=2)
        if rotation is not None:
            both = rotated(both, rotation)
        queries, keys = torch.split(both, [group * ours, ours], dim=2)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
