"""How is the loss of tokens computed? Label-smoothed cross-entropy with little memory.

Shape letters: P targets, D width, V vocabulary, R tokens of a rank.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from segue.layers.residual import Portion

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
        split, part = _split(logits, logits.shape[1]), logits.to_local()
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
        for rows in _chunks(targets, logits.shape[1]):
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


def total_cross_entropy(
    x: Tensor, table: Tensor, targets: Tensor, num_tokens: int, portion: Portion | None = None
) -> tuple[Tensor, Tensor]:
    """(P, D) vectors, (V, D) output layer, (P) -> the sum of the losses, scalar float32; (P) losses, no gradient.

    As `cross_entropy` of `x @ table.T`, but those logits never exist as a whole: a chunk of targets at a time, the loss
    and the gradients are computed together, so memory grows with the chunk and not with P times V. Only the first
    `num_tokens` rows of the table are tokens; others, which pad it, get no probability. A table that is split over
    ranks (DTensor) stays so, and the call is collective. With a `portion`, `x` are (p, D) vectors of this rank's
    positions; every rank gets the losses of all.
    """
    split = None
    if isinstance(table, DTensor):
        split = _split(table, table.shape[0])
        table = table.to_local()
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    total, each = _TotalCrossEntropy.apply(x.to(dtype), table.to(dtype), targets, num_tokens, split, portion)  # type: ignore[no-untyped-call]
    return total, each


class _TotalCrossEntropy(torch.autograd.Function):
    """Keeps (P, D) and (V, D) gradients from the forward pass; the upstream gradient is one number."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        targets: Tensor,
        num_tokens: int,
        split: "_Split | None",
        portion: Portion | None,
    ) -> tuple[Tensor, Tensor]:
        x = x if portion is None else portion.gathered(x)
        first = 0 if split is None else split.first
        num_own = min(max(num_tokens - first, 0), table.shape[0])
        wants_x, wants_table = ctx.needs_input_grad[:2]
        of_x = torch.empty_like(x) if wants_x else None
        of_table = torch.zeros_like(table, dtype=torch.float32) if wants_table else None
        losses = torch.empty(len(targets), device=x.device, dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            for rows in _chunks(targets, table.shape[0]):
                logits = x[rows] @ table.T
                scores = logits.float()
                scores[:, num_own:] = -torch.inf
                places = (targets[rows] - first).unsqueeze(1)
                is_own = (places >= 0) & (places < num_own)  # (rows, 1)
                places = places.clamp(0, max(num_own - 1, 0))
                largest = scores.amax(dim=1)
                if split is not None:
                    dist.all_reduce(largest, dist.ReduceOp.MAX, group=split.group)
                scores -= largest.unsqueeze(1)
                sums = torch.empty(2, len(scores), device=x.device)
                sums[1] = (scores.gather(1, places).masked_fill(~is_own, 0.0)).squeeze(1)
                sums[0] = scores.exp_().sum(dim=1)
                if split is not None:
                    dist.all_reduce(sums, group=split.group)
                losses[rows] = sums[0].log() - sums[1]
                if of_x is None and of_table is None:
                    continue
                part = scores.div_(sums[0].unsqueeze(1))  # softmax, then its difference from the target
                part.scatter_add_(1, places, -is_own.float())
                part = part.to(x.dtype)
                if of_x is not None:
                    of_x[rows] = part @ table
                if of_table is not None:
                    if x.dtype == torch.float32:
                        of_table.addmm_(part.T, x[rows])
                    else:
                        of_table += part.T @ x[rows]
            if of_x is not None and portion is not None:  # a table that is not split gives each rank the whole gradient
                of_x = portion.own(of_x).clone() if split is None else portion.summed(of_x)
            elif of_x is not None and split is not None:
                dist.all_reduce(of_x, group=split.group)
        ctx.save_for_backward(of_x, of_table)
        ctx.dtype = table.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        of_x, of_table = ctx.saved_tensors
        upstream = gradients[0]
        return (
            None if of_x is None else of_x * upstream.to(of_x.dtype),
            None if of_table is None else of_table.mul_(upstream).to(ctx.dtype),
            None,
            None,
            None,
            None,
        )


def _split(split: DTensor, vocabulary: int) -> "_Split":
    """How a table or logits are split."""
    mesh = split.device_mesh
    size = -(-vocabulary // mesh.size())  # as torch.chunk
    return _Split(mesh.get_group(), mesh.get_local_rank() * size, vocabulary)


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
        for rows in _chunks(targets, logits.shape[1]):
            largest[rows] = logits[rows].float().amax(dim=1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=split.group)
        places = (targets - split.first).unsqueeze(1)
        is_own = (places >= 0) & (places < num_own)  # (P, 1)
        places = places.clamp(0, num_own - 1)
        sums = torch.empty(3, num_targets, device=logits.device)  # exponentials, logits, the target's logit
        for rows in _chunks(targets, logits.shape[1]):
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
            for rows in _chunks(targets, logits.shape[1]):
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


def _chunks(targets: Tensor, vocabulary: int) -> list[slice]:
    """(P) -> slices of rows to process at once."""
    at_once = ROWS if targets.device.type == "cpu" else max(ROWS, GPU_BYTES // (4 * vocabulary))
    return [slice(start, start + at_once) for start in range(0, len(targets), at_once)]
