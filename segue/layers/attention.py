"""What is attention? Averages of values, weighted by the match of queries and keys (Vaswani et al. 2017, section 3.2).

Shape letters: B batch, T queries, S keys, D width, H heads, d width of a head.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.errors import count_of
from segue.layers.positions import rotate
from segue.layers.splits import Split


class Attention(nn.Module):
    """Multi-head attention, optionally with fewer key and value heads (Ainslie et al. 2023, arXiv:2305.13245)."""

    splits: ClassVar[Mapping[str, Split]] = {"query": "column", "key": "column", "value": "column", "output": "row"}

    def __init__(
        self,
        width: int,
        heads: int,
        key_value_heads: int,
        *,
        dropout: float,
        is_rotary: bool,
        has_biases: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.key_value_heads = heads, key_value_heads
        self.head_width = width // heads
        self.dropout, self.is_rotary = dropout, is_rotary
        # Separate, not fused: tensor parallelism splits each by columns, and Llama and Marian have separate names.
        self.query = nn.Linear(width, width, bias=has_biases)
        self.key = nn.Linear(width, key_value_heads * self.head_width, bias=has_biases)
        self.value = nn.Linear(width, key_value_heads * self.head_width, bias=has_biases)
        self.output = nn.Linear(width, width, bias=has_biases)

    def dealt_out(self) -> dict[str, int]:
        """The numbers of heads."""
        return {count_of(number, "head"): number for number in (self.heads, self.key_value_heads)}

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
        """(B, T, D) queries, (B, S, D) keys and values, (B, 1, 1, S) mask -> (B, T, D). Positions count from 0."""
        keys, values = self.keys_and_values(memory)
        return self.attend(x, keys, values, mask, is_causal=is_causal)

    def keys_and_values(self, memory: Tensor, first_position: int = 0) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> (B, H', S, d) keys, (B, H', S, d) values, which a cache can store."""
        keys = self._by_head(self.key(memory))
        values = self._by_head(self.value(memory))
        if self.is_rotary:
            keys = rotate(keys, _positions(keys, first_position))
        return keys, values

    def attend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        *,
        is_causal: bool = False,
        first_position: int = 0,
    ) -> Tensor:
        """(B, T, D) queries, (B, H', S, d) keys and values -> (B, T, D)."""
        queries = self._by_head(self.query(x))
        if self.is_rotary:
            queries = rotate(queries, _positions(queries, first_position))
        found = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
            enable_gqa=self.key_value_heads != self.heads,
        )
        return self.output(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # (B, H, T, d) -> (B, T, D)

    def weights(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), (B, S, D) -> (B, H, T, S) attention weights, for inspection."""
        queries, (keys, _) = self._by_head(self.query(x)), self.keys_and_values(memory)
        if self.is_rotary:
            queries = rotate(queries, _positions(queries, 0))
        keys = keys.repeat_interleave(self.heads // self.key_value_heads, dim=1)
        scores = queries @ keys.transpose(2, 3) / self.head_width**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights: Tensor = scores.softmax(dim=-1)
        return weights

    def _by_head(self, x: Tensor) -> Tensor:
        # (B, T, D) -> (B, H, T, d); under tensor parallelism a rank has some of the heads.
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


def _positions(x: Tensor, first: int) -> Tensor:
    return torch.arange(first, first + x.shape[-2], device=x.device)
