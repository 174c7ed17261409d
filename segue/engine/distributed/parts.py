"""Which part of a sharded tensor does a rank hold? Local parts, and collectives over all parts.

A sharded ("spread") tensor is a DTensor of FSDP, of tensor parallelism, or of both, on a mesh with several axes.
Arithmetic on local parts avoids the overhead of torch's DTensor dispatch, and works across different meshes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor.placement_types import _StridedShard

LONG, BLOCK = 2**20, 2**12
"""Numbers from which a norm is computed in blocks, and of a block."""


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory with the tensor; the tensor itself, detached, if it is not sharded."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    with torch.no_grad():
        return tensor.to_local()


def spread_like(part: Tensor, tensor: Tensor) -> Tensor:
    """A DTensor made of the ranks' parts, sharded like `tensor`; the part itself if `tensor` is not sharded."""
    if not isinstance(tensor, DTensor):
        return part
    meta = TensorMeta(tensor.shape, tensor.stride(), part.dtype)
    return _spread(part, replace(tensor._spec, tensor_meta=meta))


def _spread(part: Tensor, spec: DTensorSpec) -> DTensor:
    # DTensor.from_local would copy an offloaded part back to the mesh's devices.
    return DTensor(part, spec, requires_grad=False)  # type: ignore[no-untyped-call]


@torch.no_grad()
def own_part(whole: Tensor, tensor: Tensor) -> Tensor:
    """This rank's part of `whole`, which every rank has, sharded like `tensor`: a view."""
    return whole[own_slices(tensor)]


def own_slices(tensor: Tensor) -> tuple[slice, ...]:
    """The position of this rank's part in the whole tensor: a slice per dimension."""
    bounds = [(0, size) for size in tensor.shape]
    if isinstance(tensor, DTensor):
        mesh, coordinate = tensor.device_mesh, tensor.device_mesh.get_coordinate()
        assert coordinate is not None
        axes = [(axis, place) for axis, place in enumerate(tensor.placements) if not place.is_replicate()]
        # FSDP shards what tensor parallelism has already split, although its mesh axis comes first.
        for axis, place in sorted(axes, key=lambda each: isinstance(each[1], _StridedShard)):
            assert isinstance(place, Shard | _StridedShard)
            first, end = bounds[place.dim]
            size = -(-(end - first) // mesh.size(axis))  # as torch.chunk: the last parts may be smaller or empty
            start = min(first + coordinate[axis] * size, end)
            bounds[place.dim] = start, min(start + size, end)
    return tuple(slice(*each) for each in bounds)


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank that holds a part. Collective: all of them must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


@torch.no_grad()
def whole_norms(parts: Sequence[Tensor], tensors: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """(number of tensors) norms over whole tensors, the same on every rank; order 2 or infinity. Collective.

    `parts` are local parts of tensors that are sharded like `tensors`: gradients and their parameters, for instance.
    """
    parts = [part if part.numel() else part.new_zeros(1) for part in parts]  # an empty part has no maximum
    norms = _local_norms(parts, order)
    groups: dict[tuple[dist.ProcessGroup, ...], list[int]] = {}
    for number, tensor in enumerate(tensors):
        if isinstance(tensor, DTensor):
            groups.setdefault(_groups(tensor), []).append(number)
    for process_groups, numbers in groups.items():
        found = torch.stack([norms[number] for number in numbers])
        found = found**2 if order == 2 else found
        for group in process_groups:
            dist.all_reduce(found, dist.ReduceOp.SUM if order == 2 else dist.ReduceOp.MAX, group=group)
        for number, norm in zip(numbers, (found.sqrt() if order == 2 else found).unbind(), strict=True):
            norms[number] = norm
    return torch.stack(norms)


def _local_norms(parts: list[Tensor], order: float) -> list[Tensor]:
    """The norm of each tensor. On a CPU torch adds up float32 squares one after the other: of 38 million numbers the
    norm is 0.25 % too small, so that it would depend on the number of ranks; sums of blocks do not lose that."""
    norms = list(torch._foreach_norm(parts, order))
    for number, part in enumerate(parts):
        if order == 2 and part.device.type == "cpu" and part.numel() > LONG:
            flat = part.reshape(-1)
            blocks, rest = flat[: len(flat) // BLOCK * BLOCK].view(-1, BLOCK), flat[len(flat) // BLOCK * BLOCK :]
            pieces = [torch.linalg.vector_norm(blocks, dim=1), torch.linalg.vector_norm(rest).unsqueeze(0)]
            norms[number] = torch.linalg.vector_norm(torch.cat(pieces))
    return norms


def _groups(tensor: DTensor) -> tuple[dist.ProcessGroup, ...]:
    """The process groups over which the tensor is sharded, one per mesh axis."""
    axes = enumerate(tensor.placements)
    return tuple(tensor.device_mesh.get_group(axis) for axis, place in axes if isinstance(place, Shard | _StridedShard))


def stacks(model: nn.Module) -> list[nn.ModuleList]:
    """The model's outermost ModuleLists."""
    found: list[nn.ModuleList] = []
    for child in model.children():
        found.extend([child] if isinstance(child, nn.ModuleList) else stacks(child))
    return found


def units(model: nn.Module) -> list[nn.Module]:
    """The model's layers: each item of its outermost ModuleLists."""
    return [unit for stack in stacks(model) for unit in stack]


def depths(model: nn.Module) -> dict[str, int]:
    """How far below the output each parameter lies: 0 outside of stacks, 1 for the last layer of a stack.

    Embeddings lie below the longest stack, also where they are the output layer as well.
    """
    layers = {id(unit): len(stack) - index for stack in stacks(model) for index, unit in enumerate(stack)}
    bottom = 1 + max(layers.values(), default=0)
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        depth = bottom if isinstance(module, nn.Embedding) else layers.get(id(module))
        if depth is not None:
            prefix = f"{name}." if name else ""
            found |= {prefix + each: depth for each, _ in module.named_parameters()}
    return {name: found.get(name, 0) for name, _ in model.named_parameters()}


def batch_norms(model: nn.Module) -> list[Any]:
    """The model's batch normalization layers."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def learning_batch_norms(model: nn.Module) -> list[Any]:
    """The batch normalization layers whose statistics are not frozen."""
    return [norm for norm in batch_norms(model) if "train" not in vars(norm)]


def freeze_statistics(norm: nn.Module) -> None:
    """Keeps a BatchNorm layer in evaluation mode, even if the model is put in training mode."""
    norm.eval()

    def stay(mode: bool = True) -> nn.Module:
        del mode
        return norm

    vars(norm)["train"] = stay
