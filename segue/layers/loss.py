"""How is the loss of tokens computed? Label-smoothed cross-entropy with little memory.

Shape letters: P targets, V vocabulary, R tokens of a rank.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

ROWS = 256
"""Number of targets processed at once on a CPU: some megabytes for thousands of tokens."""
GPU_BYTES = 2**26
"""Size of the scores processed at once on a GPU: with less, launch overhead dominates."""


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(P, V), (P) -> (P), (P), float32: smoothed loss, and negative log-likelihood, which has no gradient.

    The target distribution is (1 - smoothing) on the target plus smoothing / V on every token, as in `F.cross_entropy`
    (Szegedy et al. 2016, arXiv:1512.00567, section 7). Float32 logits that need a gradient are overwritten with it.
    Logits that are split over ranks by tokens are not gathered: the call is collective, and every rank gets the losses
    of all targets and the gradient of its own logits.
    """
    if isinstance(logits, DTensor):
        assert logits.placements == (Shard(1),)
        mesh, part = logits.device_mesh, logits.to_local()
        size = -(-logits.shape[1] // mesh.size())  # as torch.chunk
        split = _Split(mesh.get_group(), mesh.get_local_rank() * size, logits.shape[1])
        loss, likelihood = _SplitCrossEntropy.apply(part, targets, smoothing, split)  # type: ignore[no-untyped-call]
        return loss, likelihood
    loss, likelihood = _CrossEntropy.apply(logits, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss, likelihood


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradient (softmax minus target distribution) together with the loss, in blocks that fit in cache.

    The gradient overwrites the logits: on a CPU, allocating memory of that size costs as much as the exponentials.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        num_targets, vocabulary = logits.shape
        gradient = logits.detach() if logits.dtype == torch.float32 else torch.empty_like(logits, dtype=torch.float32)
        loss, likelihood = (torch.empty(num_targets, device=logits.device) for _ in range(2))
        for rows in _chunks(logits):
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


class _Split(NamedTuple):
    """How a vocabulary is split over ranks."""

    group: Any
    """Process group of the ranks."""
    first: int
    """This rank's first token."""
    vocabulary: int
    """Number of tokens of all ranks."""


class _SplitCrossEntropy(torch.autograd.Function):
    """As `_CrossEntropy`, for a rank's part of the logits, (P, R). Per target, ranks exchange a maximum and 3 sums."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float, split: _Split) -> tuple[Tensor, Tensor]:
        num_targets, num_own = logits.shape
        gradient = logits.detach() if logits.dtype == torch.float32 else torch.empty_like(logits, dtype=torch.float32)
        largest = torch.empty(num_targets, device=logits.device)
        for rows in _chunks(logits):
            largest[rows] = logits[rows].float().amax(dim=1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=split.group)
        places = (targets - split.first).unsqueeze(1)
        is_own = (places >= 0) & (places < num_own)  # (P, 1)
        places = places.clamp(0, num_own - 1)
        sums = torch.empty(3, num_targets, device=logits.device)  # exponentials, logits, the target's logit
        for rows in _chunks(logits):
            scores = logits[rows].float() - largest[rows].unsqueeze(1)
            sums[0, rows] = scores.exp().sum(dim=1)
            sums[1, rows] = scores.sum(dim=1)
            sums[2, rows] = (scores.gather(1, places[rows]) * is_own[rows]).squeeze(1)
        dist.all_reduce(sums, group=split.group)
        normalizer = sums[0].log()
        likelihood = normalizer - sums[2]
        loss = torch.lerp(likelihood, normalizer - sums[1] / split.vocabulary, smoothing)
        if ctx.needs_input_grad[0]:
            shift = (largest + normalizer).unsqueeze(1)
            for rows in _chunks(logits):
                part = torch.exp(logits[rows].float() - shift[rows], out=gradient[rows])
                part.sub_(smoothing / split.vocabulary)
                part.scatter_add_(1, places[rows], (smoothing - 1) * is_own[rows].float())
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(likelihood)
        return loss, likelihood

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(gradients[0].unsqueeze(1)).to(ctx.dtype), None, None, None


def _chunks(logits: Tensor) -> list[slice]:
    """(P, V) -> slices of rows to process at once."""
    num_targets, vocabulary = logits.shape
    at_once = ROWS if logits.device.type == "cpu" else max(ROWS, GPU_BYTES // (4 * vocabulary))
    return [slice(start, start + at_once) for start in range(0, num_targets, at_once)]
