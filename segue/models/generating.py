"""What does a decoder keep while it generates? Keys and values of all layers, and where prompts begin.

Shape letters: B rows, T newest positions, S positions so far, K heads of keys and values, d width of a head.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.layers.causal_attention import Memory, Rotation

ROOM = 16
"""Positions, or an eighth of those so far, by which the room of a cache grows."""


class Prompts(NamedTuple):
    """Prompts of several lengths in one batch, padded on the left."""

    size: int
    """Positions of the longest one."""
    lengths: Tensor
    """(B)"""


class Cache:
    """Keys and values, with room for a few more positions, which grows up to a capacity.

    Between heads lies what is not filled yet; a processor that reads ahead loses more there than reading it takes, so
    the room is small, and `models/decoding.py` reads all of it. What is not filled is 0.
    """

    def __init__(
        self, prompts: Prompts, capacity: int, layers: int, key_value_heads: int, head_width: int, like: Tensor
    ) -> None:
        """`like` has the type and device of the keys and values."""
        rows = len(prompts.lengths)
        shape = (rows, key_value_heads, min(capacity, prompts.size + ROOM), head_width)
        self.memories = [Memory(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(layers)]
        self.num_positions = 0
        padding = prompts.size - prompts.lengths  # (B)
        self._padding = padding if bool(padding.any()) else None
        self.capacity = capacity
        self.rotation: Rotation | None = None
        """Of all positions, for models that rotate."""

    def make_room(self) -> None:
        """For one more position."""
        room = self.memories[0].keys.shape[2]
        if self.num_positions == room:
            more = (0, 0, 0, min(self.capacity - room, max(ROOM, room // 8)))
            for memory in self.memories:
                memory.keys, memory.values = F.pad(memory.keys, more), F.pad(memory.values, more)

    def newest(self, num_new: int) -> slice | Tensor:
        """The positions of the newest tokens: all rows the same, or (B, T) if prompts have several lengths."""
        last = self.num_positions + num_new
        return slice(self.num_positions, last) if self._padding is None else self.positions(num_new)

    def positions(self, num_new: int) -> Tensor:
        """(T), or (B, T) if prompts have several lengths: the positions of the newest tokens in their rows."""
        device = self.memories[0].keys.device
        places = torch.arange(self.num_positions, self.num_positions + num_new, device=device)
        return places if self._padding is None else (places - self._padding.unsqueeze(1)).clamp(min=0)

    def mask(self, num_new: int) -> Tensor | None:
        """(B, 1, T, S): what the newest tokens attend to; None if to all earlier positions."""
        if self._padding is None:
            return None
        places = torch.arange(self.num_positions + num_new, device=self._padding.device)
        is_real = (places >= self._padding.unsqueeze(1))[:, None, None]  # (B, 1, 1, S)
        if num_new == 1:
            return is_real
        causal = places[-num_new:].unsqueeze(1) >= places  # (T, S)
        # A padded position attends to itself, so that no row of attention is empty.
        return (is_real & causal) | torch.eye(num_new, len(places), dtype=torch.bool, device=places.device)

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order; a row may be repeated."""
        for memory in self.memories:
            memory.keys, memory.values = memory.keys.index_select(0, rows), memory.values.index_select(0, rows)
        if self._padding is not None:
            self._padding = self._padding.index_select(0, rows)
