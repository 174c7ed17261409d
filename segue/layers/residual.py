"""How do ranks share a residual stream? Each has some of its positions: sequence parallelism.

Korthikanti et al. 2022 (arXiv:2205.05198), section 4.2.2. Between the layers that tensor parallelism splits, every rank
would hold the whole residual stream, with the same norms and dropout. Here each holds its positions only: the others
are gathered before a split by columns, and the sum after a split by rows is scattered. What the backward pass needs of
gathered positions is gathered again, so that nothing whole is kept.

The paper cuts each sequence; here the positions of all sequences are numbered row after row and cut once. So any number
of positions can be shared, and what is gathered is in order.

Shape letters: B rows, T tokens, P positions (B * T), p positions of a rank, I inputs, O outputs, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from segue.layers.lora import LowRankLinear
from segue.layers.sums import with_summed_gradient

# Both have other names from torch 2.13 on.
_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_sum_scattered: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Ranks(NamedTuple):
    """Ranks that compute each layer together."""

    group: Any
    """Their process group. None: this is an estimate; shapes are those of `number` ranks, and nothing is exchanged."""
    number: int
    rank: int
    """This rank's place among them."""


class Portion(NamedTuple):
    """A rank's part of the positions of B rows of T tokens. All ranks have equally many: the last ones may be padding,
    of which nothing is ever used."""

    ranks: Ranks
    rows: int
    tokens: int

    @property
    def num_positions(self) -> int:
        """P, of all ranks."""
        return self.rows * self.tokens

    @property
    def size(self) -> int:
        """p."""
        return -(-self.num_positions // self.ranks.number)

    def own(self, x: Tensor) -> Tensor:
        """(P, ...) that every rank has -> (p, ...)."""
        first = min(self.ranks.rank * self.size, self.num_positions)
        found = x[first : first + self.size]
        missing = self.size - len(found)
        return torch.cat([found, found.new_zeros(missing, *found.shape[1:])]) if missing else found

    def gathered(self, x: Tensor) -> Tensor:
        """(p, D) -> (P, D), without gradient. Collective."""
        found = x.new_empty(self.size * self.ranks.number, x.shape[1])
        if self.ranks.group is not None:
            _gather(found, x.contiguous(), group=self.ranks.group)
        return found[: self.num_positions]

    def summed(self, x: Tensor) -> Tensor:
        """(P, D), of which each rank has a summand -> (p, D), without gradient. Collective."""
        missing = self.size * self.ranks.number - self.num_positions
        x = torch.cat([x, x.new_zeros(missing, x.shape[1])]) if missing else x
        found = x.new_empty(self.size, x.shape[1])
        if self.ranks.group is not None:
            _sum_scattered(found, x.contiguous(), group=self.ranks.group)
        return found

    def shared(self, weight: Tensor) -> Tensor:
        """(...) -> (...): a parameter that every rank has, for a computation with its own positions or inputs only."""
        weight = own_part(weight)
        return weight if self.ranks.group is None else with_summed_gradient(weight, self.ranks.group)


class Residual(nn.Module):
    """Says which positions of the residual stream this rank has; models with one declare it as split."""

    ranks: Ranks | None = None
    """Set by tensor parallelism."""

    def portion(self, tokens: Tensor) -> Portion | None:
        """(B, T) -> this rank's part; None: all of it."""
        return None if self.ranks is None else Portion(self.ranks, *tokens.shape)


def own_part(parameter: Tensor) -> Tensor:
    """This rank's part of a parameter, with its gradient."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def all_positions(x: Tensor, portion: Portion) -> Tensor:
    """(p, D) -> (B, T, D), whose gradient every rank has. Collective."""
    found: Tensor = _All.apply(x, portion)  # type: ignore[no-untyped-call]
    return found.view(portion.rows, portion.tokens, -1)


def own_sum(x: Tensor, portion: Portion) -> Tensor:
    """(B, T, D), of which each rank has a summand -> (p, D). Collective."""
    found: Tensor = _OwnSum.apply(x.flatten(0, 1), portion)  # type: ignore[no-untyped-call]
    return found


def by_columns(x: Tensor, layers: Sequence[nn.Linear], portion: Portion) -> Tensor:
    """(p, I) -> (B, T, sum of O): this rank's outputs of layers that are split by columns, concatenated. Collective."""
    adapted = [layer for layer in layers if isinstance(layer, LowRankLinear)]
    if adapted:  # products with the layers, then with the adapters' first matrices
        weights = [own_part(layer.weight) for layer in layers] + [portion.shared(layer.lora_a) for layer in adapted]
        biases = [None if layer.bias is None else own_part(layer.bias) for layer in layers] + [None] * len(adapted)
    else:
        weights = [_side_by_side([own_part(layer.weight) for layer in layers])]
        biases = [None if layers[0].bias is None else _side_by_side([own_part(layer.bias) for layer in layers])]
    tensors = (None if each is None else _as_computed(each) for each in (*weights, *biases))
    products: Any = _Products.apply(_as_computed(x), portion, *tensors)  # type: ignore[no-untyped-call]
    found: list[Tensor] = list(products)
    if adapted:
        found, low = found[: len(layers)], iter(found[len(layers) :])
        for place, layer in enumerate(layers):
            if isinstance(layer, LowRankLinear):
                found[place] = found[place] + F.linear(next(low), own_part(layer.lora_b)) * layer.scale
        found = [torch.cat(found, dim=-1)]
    return found[0].view(portion.rows, portion.tokens, -1)


def by_rows(x: Tensor, layer: nn.Linear, portion: Portion) -> Tensor:
    """(B, T, I), this rank's inputs of a layer that is split by rows -> (p, O). Collective."""
    found = F.linear(x, own_part(layer.weight))
    if isinstance(layer, LowRankLinear):
        low = F.linear(x, own_part(layer.lora_a))
        found = found + F.linear(low, portion.shared(layer.lora_b)) * layer.scale
    found = own_sum(found, portion)
    return found if layer.bias is None else found + portion.shared(layer.bias).to(found.dtype)


def _side_by_side(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _as_computed(x: Tensor) -> Tensor:
    """In the format of the products, so that no more is sent or kept."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _All(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, portion: Portion) -> Tensor:
        ctx.portion = portion
        return portion.gathered(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.portion.own(gradients[0]), None


class _OwnSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, portion: Portion) -> Tensor:
        ctx.portion = portion
        return portion.summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.portion.gathered(gradients[0]), None


class _Products(torch.autograd.Function):
    """Products of all positions with matrices, of which this rank has parts: (p, I), (O, I)... -> (P, O)..."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, portion: Portion, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.save_for_backward(x, *weights)
        ctx.portion = portion
        whole = portion.gathered(x)
        return tuple(F.linear(whole, *each) for each in zip(weights, biases, strict=True))  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs_x, _, *needs = ctx.needs_input_grad
        needs_weights, needs_biases = needs[: len(weights)], needs[len(weights) :]
        of_x = None
        if needs_x:
            of_all = gradients[0] @ weights[0]
            for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
                of_all = torch.addmm(of_all, gradient, weight)
            of_x = ctx.portion.summed(of_all)
            del of_all
        whole: Any = ctx.portion.gathered(x) if any(needs_weights) else None
        of_weights = [g.T @ whole if is_needed else None for g, is_needed in zip(gradients, needs_weights, strict=True)]
        of_biases = [g.sum(dim=0) if is_needed else None for g, is_needed in zip(gradients, needs_biases, strict=True)]
        return of_x, None, *of_weights, *of_biases
