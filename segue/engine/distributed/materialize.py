"""How is a model initialized? Built on torch's meta device, sharded, and only then allocated and filled, part by part.

A model on the meta device has shapes and no memory. Once it is sharded, each rank allocates its own parts, draws every
tensor whole, one after the other, from the CPU generator, and keeps its part. So a seed gives the same weights on any
layout and device, and no rank ever holds more than its parts and one whole tensor.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from segue.engine.distributed import parts

M = TypeVar("M", bound=nn.Module)


def blueprint(build: Callable[[], M]) -> M:
    """Calls `build` on the meta device; tensors not created by torch functions (from numpy, say) are real as usual."""
    with torch.device("meta"):
        return build()


def materialize(model: nn.Module, device: torch.device, *, is_offloaded: bool = False) -> None:
    """Allocates a blueprint, sharded or not, on `device` and initializes it, from torch's CPU generator.

    The values are those of a model built directly on the CPU: first each module's `reset_parameters` is called, in the
    order of `modules()`, then the model's own `initialize`, if it has one. Both are written for whole tensors. Tensors
    that have values already keep them. With `is_offloaded` sharded tensors stay in CPU memory.
    """
    blank = _give_memory(model, device, is_offloaded=is_offloaded)
    if not blank:
        return
    with torch.no_grad(), _WholeDraws() as draws:
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None and any(id(tensor) in blank for tensor in _own_tensors(module)):
                reset()
        initialize = getattr(model, "initialize", None)
        if initialize is not None:
            initialize()
    without = sorted(name for number, name in blank.items() if number not in draws.written)
    assert not without, f"neither reset_parameters nor initialize gives a value to {', '.join(without)}"


def make_room(model: nn.Module, device: torch.device) -> None:
    """Allocates a blueprint without initializing it, for loading a state dict into it."""
    blank = _give_memory(model, device, is_offloaded=False)
    filled = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    without = sorted(name for number, name in blank.items() if number not in filled)
    assert not without, f"not in the state dict, and made by torch's functions: {', '.join(without)}"


def _give_memory(model: nn.Module, device: torch.device, *, is_offloaded: bool) -> dict[int, str]:
    """Allocates all meta tensors; returns their names, by identity of the new tensors."""
    names = [name for name, tensor in _named_tensors(model) if tensor.is_meta]

    def place(tensor: Tensor) -> Tensor:
        to = torch.device("cpu") if is_offloaded and isinstance(tensor, DTensor) else device
        return torch.empty_like(tensor, device=to) if tensor.is_meta else tensor.to(to)

    model._apply(place)  # type: ignore[no-untyped-call]
    tensors = dict(_named_tensors(model))
    return {id(tensors[name]): name for name in names}


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


class _WholeDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draws random numbers for a tensor that is sharded or on another device as a whole tensor on the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: set[int] = set()
        """Identities of the tensors that were written."""
        self._room = torch.empty(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Passes everything through except random in-place operations."""
        kwargs = kwargs or {}
        if not func._schema.is_mutable:
            return func(*args, **kwargs)
        tensor = args[0]
        self.written.add(id(tensor))
        is_drawn = torch.Tag.nondeterministic_seeded in func.tags
        if not is_drawn or (tensor.device.type == "cpu" and not isinstance(tensor, DTensor)):
            return func(*args, **kwargs)
        whole = self._room_for(tensor)
        func(whole, *args[1:], **kwargs)
        parts.local(tensor).copy_(parts.own_part(whole, tensor))
        return tensor

    def _room_for(self, tensor: Tensor) -> Tensor:
        """A buffer reused for all whole tensors: with an allocation for each, the C library would keep some memory."""
        if self._room.numel() < tensor.numel() or self._room.dtype != tensor.dtype:
            self._room = torch.empty(0)  # free it before allocating the next one
            self._room = torch.empty(tensor.numel(), dtype=tensor.dtype)
        return self._room[: tensor.numel()].view(tensor.shape)
