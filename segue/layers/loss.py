"""What does a wrong token cost? Cross-entropy with smoothed labels, in little memory.

Shape letters: P targets, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

ROWS = 256
"""Targets that a CPU works on at once: with thousands of tokens, some megabytes."""
GPU_BYTES = 2**26
"""Of scores that a GPU works on at once: less, and it waits for operations to be started."""


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(P, V), (P) -> twice (P), float32: the smoothed loss, and the negative log-likelihood, which has no gradient.

    The target distribution is (1 - smoothing) on the target and smoothing / V on every token, the target included
    (Szegedy et al. 2016, arXiv:1512.00567, section 7), as torch's `F.cross_entropy` has it.
    Logits of float32 that need a gradient are overwritten with it.
    """
    loss, likelihood = _CrossEntropy.apply(logits, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss, likelihood


class _CrossEntropy(torch.autograd.Function):
    """The gradient, softmax minus target distribution, is made with the loss, a few rows at a time: in cache.

    On a CPU fresh memory of that size costs as much as the exponentials, so it takes the logits' place.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        num_targets, vocabulary = logits.shape
        gradient = logits.detach() if logits.dtype == torch.float32 else torch.empty_like(logits, dtype=torch.float32)
        loss, likelihood = (torch.empty(num_targets, device=logits.device) for _ in range(2))
        at_once = ROWS if logits.device.type == "cpu" else max(ROWS, GPU_BYTES // (4 * vocabulary))
        for start in range(0, num_targets, at_once):
            rows = slice(start, start + at_once)
            places = targets[rows].unsqueeze(1)
            log_probs = logits[rows].float().log_softmax(dim=1)
            likelihood[rows] = -log_probs.gather(1, places).squeeze(1)
            loss[rows] = torch.lerp(likelihood[rows], -log_probs.mean(dim=1), smoothing)
            if ctx.needs_input_grad[0]:
                part = torch.exp(log_probs, out=gradient[rows])
                part.sub_(smoothing / vocabulary)
                part.scatter_add_(1, places, torch.full_like(places, smoothing - 1, dtype=torch.float32))
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(likelihood)
        return loss, likelihood

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(gradients[0].unsqueeze(1)).to(ctx.dtype), None, None
