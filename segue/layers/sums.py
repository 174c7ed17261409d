"""How do ranks that share a layer add up what each has? Sums in the forward or in the backward pass.

Shoeybi et al. 2019 (arXiv:1909.08053), section 3: g and f.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def summed(x: Tensor, group: Any) -> Tensor:
    """(...) -> (...): the sum over a group of ranks, whose gradient all of them have."""
    found: Tensor = _Sum.apply(x, group)  # type: ignore[no-untyped-call]
    return found


def with_summed_gradient(x: Tensor, group: Any) -> Tensor:
    """(...) -> (...): the tensor itself, which all ranks of a group have; each has a part of its gradient."""
    found: Tensor = _SumOfGradient.apply(x, group)  # type: ignore[no-untyped-call]
    return found


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        del ctx
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


class _SumOfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None
