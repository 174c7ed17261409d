"""What does a rank hold of a tensor that is spread over many? Its part, and what takes all parts to know.

A spread tensor is a DTensor: of FSDP, of tensor parallelism, or of both, then on a mesh of more axes. Arithmetic on
local parts needs neither torch's dispatch of DTensors nor tensors of one mesh.
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


def local(tensor: Tensor) -> Tensor:
    """This rank's part, which shares the tensor's memory; the tensor itself where it is not spread."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    with torch.no_grad():
        return tensor.to_local()


def spread_like(part: Tensor, tensor: Tensor) -> Tensor:
    """The tensor that this rank's part belongs to, spread as `tensor` is; the part itself where that is not."""
    if not isinstance(tensor, DTensor):
        return part
    meta = TensorMeta(tensor.shape, tensor.stride(), part.dtype)
    return _spread(part, replace(tensor._spec, tensor_meta=meta))


def _spread(part: Tensor, spec: DTensorSpec) -> DTensor:
    # DTensor.from_local would copy a part that is offloaded back to the mesh's devices.
    return DTensor(part, spec, requires_grad=False)  # type: ignore[no-untyped-call]


@torch.no_grad()
def own_part(whole: Tensor, tensor: Tensor) -> Tensor:
    """This rank's part of what every rank has the whole of, cut as `tensor` is: a view."""
    return whole[own_slices(tensor)]


def own_slices(tensor: Tensor) -> tuple[slice, ...]:
    """Where this rank's part lies in the whole tensor: a slice for each dimension."""
    bounds = [(0, size) for size in tensor.shape]
    if isinstance(tensor, DTensor):
        mesh, coordinate = tensor.device_mesh, tensor.device_mesh.get_coordinate()
        assert coordinate is not None
        axes = [(axis, place) for axis, place in enumerate(tensor.placements) if not place.is_replicate()]
        # FSDP cuts what tensor parallelism has cut already, though its axis of the mesh comes first.
        for axis, place in sorted(axes, key=lambda each: isinstance(each[1], _StridedShard)):
            assert isinstance(place, Shard | _StridedShard)
            first, end = bounds[place.dim]
            size = -(-(end - first) // mesh.size(axis))  # as torch.chunk: the last ones may have less, or nothing
            start = min(first + coordinate[axis] * size, end)
            bounds[place.dim] = start, min(start + size, end)
    return tuple(slice(*each) for each in bounds)


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank that holds a part: they must all call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


@torch.no_grad()
def whole_norms(parts: Sequence[Tensor], tensors: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """(number of tensors) norms of whole tensors, the same on every rank; order 2, or infinity.

    `parts` are local parts of something that is spread as `tensors` are: gradients as their parameters, for instance.
    """
    parts = [part if part.numel() else part.new_zeros(1) for part in parts]  # an empty one has no largest element
    norms = list(torch._foreach_norm(parts, order))
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


def _groups(tensor: DTensor) -> tuple[dist.ProcessGroup, ...]:
    """The groups of ranks between which the tensor is cut, an axis each."""
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


def batch_norms(model: nn.Module) -> list[Any]:
    """The model's batch normalization layers."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def learning_batch_norms(model: nn.Module) -> list[Any]:
    """Those whose statistics are not frozen."""
    return [norm for norm in batch_norms(model) if "train" not in vars(norm)]


def freeze_statistics(norm: nn.Module) -> None:
    """A BatchNorm layer stays in evaluation mode, whatever the model's is."""
    norm.eval()

    def stay(mode: bool = True) -> nn.Module:
        del mode
        return norm

    vars(norm)["train"] = stay
