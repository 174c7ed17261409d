"""How are vectors normalized by their root mean square? As torch does, with fewer passes over memory on a CPU.

Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4. torch 2.13 composes it of eight operations on a CPU, and its
gradient of more.

Shape letters: D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.layers.residual import Portion
from segue.layers.sums import with_summed_gradient


class RMSNorm(nn.Module):
    """Vectors divided by their root mean square, times a weight for each dimension."""

    group: Any = None
    """Under tensor parallelism, ranks that apply the same weights to different heads; else None."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def reset_parameters(self) -> None:
        """Ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, portion: Portion | None = None) -> Tensor:
        """(..., D) -> (..., D); of a `portion`, (p, D) -> (p, D)."""
        weight = self.weight if self.group is None else with_summed_gradient(self.weight, self.group)
        weight = weight if portion is None else portion.shared(weight)
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return F.rms_norm(x, weight.shape, weight, self.epsilon)
        if not torch.is_grad_enabled():
            return x * _inverse(x, self.epsilon) * weight
        found: Tensor = _RMSNorm.apply(x, weight, self.epsilon)  # type: ignore[no-untyped-call]
        return found


def _inverse(x: Tensor, epsilon: float) -> Tensor:
    """(..., D) -> (..., 1): one over the root of mean square and epsilon."""
    return x.square().mean(dim=-1, keepdim=True).add_(epsilon).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = _inverse(x, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        x, weight, inverse = ctx.saved_tensors
        normalized = x * inverse
        product = gradient * normalized
        of_weight = product.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        # (g w - n mean(g w n)) / rms, with n the normalized vector; product is g n
        mean = (product.flatten(0, -2) @ weight).view_as(inverse) / x.shape[-1]
        of_x = torch.addcmul(gradient * weight, normalized, mean, value=-1).mul_(inverse)
        return of_x, of_weight, None
