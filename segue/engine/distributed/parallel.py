"""How do several ranks train one model? Process groups, collectives, and the distribution of the model over ranks.

A rank is a process started by torchrun, with its own device. Models are written for one device; their layers declare
how tensor parallelism splits them (`layers/splits.py`).
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from segue.engine.distributed.layout import Layout
from segue.engine.distributed.materialize import materialize
from segue.engine.distributed.parts import batch_norms, units
from segue.errors import UserError, count_of
from segue.layers import lora
from segue.layers.residual import Ranks, Residual
from segue.layers.rms_norm import RMSNorm
from segue.layers.splits import Split, Splittable, splits_of

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Timeout of collectives; long, because ranks wait while one evaluates. The watchdog reports hangs much earlier."""

TRY_AGAIN = 75
"""Exit status of a rank that failed because of another one: EX_TEMPFAIL of sysexits.h, since a restart can resume."""


class _Column(ColwiseParallel):
    """A linear layer whose outputs are sharded; of an adapter's matrices, the second one."""

    def _partition_linear_fn(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        del name
        for own, parameter in list(module.named_parameters(recurse=False)):
            _distribute(module, own, parameter, device_mesh, Replicate() if own == lora.A else Shard(0))


class _Row(RowwiseParallel):
    """A linear layer whose inputs are sharded; of an adapter's matrices, the first one."""

    def _partition_linear_fn(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        del name
        for own, parameter in list(module.named_parameters(recurse=False)):
            is_sharded = own in ("weight", lora.A)
            _distribute(module, own, parameter, device_mesh, Shard(1) if is_sharded else Replicate())


def _distribute(module: nn.Module, name: str, parameter: nn.Parameter, mesh: DeviceMesh, placement: Placement) -> None:
    spread = distribute_tensor(parameter, mesh, [placement])
    module.register_parameter(name, nn.Parameter(spread, requires_grad=parameter.requires_grad))


class _Rows(ParallelStyle):
    """A matrix whose rows are sharded, not necessarily evenly; its layer computes with the local part itself."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _distribute(module, "weight", module.get_parameter("weight"), device_mesh, Shard(0))
        return module


class _Heads(ParallelStyle):
    """A layer that every rank has, and applies to its own heads."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, RMSNorm)
        module.group = device_mesh.get_group()
        return module


class _Positions(ParallelStyle):
    """A residual stream, of which every rank has some positions."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, Residual)
        module.ranks = Ranks(device_mesh.get_group(), device_mesh.size(), device_mesh.get_local_rank())
        return module


_STYLES: dict[Split, type[ParallelStyle]] = {
    "column": _Column,
    "row": _Row,
    "vocabulary": _Rows,
    "heads": _Heads,
    "positions": _Positions,
}


class World(NamedTuple):
    """The processes of a training."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints and writes files for all."""
        return self.rank == 0

    def first(self, act: Callable[[], T]) -> T:
        """Calls `act` on rank 0 and returns its result on all ranks. Collective.

        A UserError or OSError is raised on rank 0; the others exit, so that it is reported once.
        """
        if self.size == 1:
            return act()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box = [act(), None]
            except (UserError, OSError) as error:
                dist.broadcast_object_list([None, str(error)])
                raise
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise SystemExit(2)
        result: T = box[0]
        return result

    def told_once(self, problem: UserError) -> UserError | SystemExit:
        """The exception each rank should raise for a problem that all ranks have: only rank 0 reports it."""
        return problem if self.is_first else SystemExit(2)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order, on every rank. Collective."""
        values: list[Any] = [None] * self.size
        if self.size == 1:
            return [value]
        dist.all_gather_object(values, value)
        return values


ALONE = World()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Joins the process group of the ranks that torchrun started, for the length of the block; ALONE without torchrun.

    Exits with TRY_AGAIN if another rank is lost.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    chosen = choose_device(device)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    store, rank, _ = next(rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun's store keeps addresses of ranks from before a restart (pytorch issue 135712). Machines may count
        # restarts differently; several need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield World(rank, size)
        dist.barrier()  # no rank leaves while another may still communicate with it
    except RuntimeError as error:
        if not is_lost(error):
            raise
        print("segue: another rank has exited; its output may say why", file=sys.stderr, flush=True)
        raise SystemExit(TRY_AGAIN) from None
    finally:
        dist.destroy_process_group()


def is_lost(error: RuntimeError) -> bool:
    """Whether this is the error that torch raises when another rank has exited."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def choose_device(name: str) -> torch.device:
    """This rank's device, by its name in recipes. Raises a UserError if this machine does not have it."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if has["cuda"] else "cpu"
    if not has[name]:
        raise UserError(f"device: this machine has no {name}; it has {', '.join(k for k, v in has.items() if v)}")
    if name != "cuda":
        return torch.device(name)
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"{number + 1} ranks or more on a machine with {count_of(count, 'GPU')}; start at most {count} on it"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


class Parallel:
    """A layout of ranks in use: this rank's place in it, the distribution of the model, and sums over ranks."""

    def __init__(self, world: World, layout: Layout, device: torch.device) -> None:
        """Collective: all ranks must call it."""
        assert layout.size == world.size
        self.world, self.layout, self.device = world, layout, device
        self._mesh: DeviceMesh | None = None
        self.data_rank, self.is_first_of_tensor = 0, True
        if world.size > 1:
            self._mesh = init_device_mesh(device.type, tuple(layout), mesh_dim_names=Layout._fields)
            self._data = self._mesh["data_parallel", "shard"]._flatten("data")
            self.data_rank = self._data.get_local_rank()
            self.is_first_of_tensor = self._mesh.get_local_rank("tensor_parallel") == 0

    @property
    def is_sharded(self) -> bool:
        """Whether parameters are DTensors."""
        return self.layout.shard > 1 or self.layout.tensor_parallel > 1

    def spread(self, model: nn.Module, dtype: torch.dtype, *, is_offloaded: bool, num_phases: int = 1) -> nn.Module:
        """Distributes `model` in place and initializes it if it has no values; returns the module to call for a loss.

        `dtype` is that of the forward pass. Initial values are drawn from torch's generator (`materialize.py`). A model
        with several phases is not wrapped in DDP: `sum_gradients` sums its gradients over copies. Raises a UserError if
        this layout does not suit the model.
        """
        self.world.first(lambda: self._refuse(is_offloaded, num_phases))
        if self.layout.tensor_parallel > 1:
            self.world.first(lambda: _check_split(model, self.layout.tensor_parallel))
            _split_layers(model, self._axis("tensor_parallel"))
        is_fully_sharded = self.is_sharded and self.layout.data_ranks > 1
        if is_fully_sharded:
            self._shard(model, dtype, is_offloaded)
        materialize(model, self.device, is_offloaded=is_offloaded)
        if is_fully_sharded:
            return model
        if self.layout.data_parallel == 1 or num_phases > 1:
            return model
        group = self._axis("data_parallel").get_group()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name from torch 2.13 on
            # Buffers are not broadcast: the engine averages those of BatchNorm over a step's micro-batches.
            spread = DistributedDataParallel(
                model, process_group=group, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        spread.register_comm_hook(group, _sum)
        return spread

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks with different data (`data_ranks`), in place. Collective."""
        if self._mesh is not None and self.layout.data_ranks > 1:
            dist.all_reduce(values, group=self._data.get_group())
        return values

    def sum_of_all(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place. Collective."""
        if self._mesh is not None:
            dist.all_reduce(values)
        return values

    def any_rank(self, is_so: bool) -> bool:
        """Whether `is_so` is true on any rank. Collective."""
        return bool(self.sum_of_all(torch.tensor(float(is_so))) > 0)

    def reshard(self, model: nn.Module) -> None:
        """Frees parameters that FSDP gathered for forward-only passes, so that changes of the parts take effect."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sums gradients over copies of the model, for parameters that DDP does not handle."""
        if self._mesh is not None:
            for parameter in parameters:
                if parameter.grad is None:  # not used by this rank's examples; maybe by those of other ranks
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            whole = torch.cat([gradient.flatten() for gradient in gradients])
            pieces = torch.split(self.sum(whole), [gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])

    @contextmanager
    def accumulating(self, spread: nn.Module, *, is_last: bool) -> Iterator[None]:
        """For a backward pass inside: gradients are summed over copies of the model only in the last one of a step."""
        if isinstance(spread, DistributedDataParallel) and not is_last:
            with spread.no_sync():
                yield
            return
        if isinstance(spread, FSDPModule):
            spread.set_requires_all_reduce(is_last)
            spread.set_is_last_backward(is_last)
        yield

    def _refuse(self, is_offloaded: bool, num_phases: int) -> None:
        """Raises a UserError for combinations that no model supports."""
        if num_phases > 1 and self.is_sharded:
            raise UserError(
                "engine.shard, engine.tensor_parallel: a model that learns in several phases is not sharded"
            )
        if is_offloaded and not (self.is_sharded and self.layout.data_ranks > 1):
            raise UserError("engine.offload: only a sharded model can be offloaded; set engine.shard above 1")

    def _shard(self, model: nn.Module, dtype: torch.dtype, is_offloaded: bool) -> None:
        mesh = self._mesh
        assert mesh is not None
        offload = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if is_offloaded else OffloadPolicy()
        for module in [*units(model), model]:
            # Gathering in 16 bits halves communication. Done only where it changes no more than the rounding of
            # weights: on CUDA, where autocast computes norms in float32; not outside of layers, where embeddings start
            # a float32 residual stream; not with BatchNorm, which rejects it.
            is_half = self.device.type == "cuda" and module is not model and not batch_norms(module)
            gathered = dtype if is_half else torch.float32
            policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
            fully_shard(module, mesh=mesh["data_parallel", "shard"], mp_policy=policy, offload_policy=offload)
            assert isinstance(module, FSDPModule)
            # Sum, not mean: the engine has already divided by the counts of the whole step.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            for name in getattr(module, "forwards", ()):
                register_fsdp_forward_method(module, name)

    def _axis(self, name: str) -> DeviceMesh:
        assert self._mesh is not None
        return self._mesh[name]


def _sum(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Communication hook that sums; by default DistributedDataParallel averages."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])  # type: ignore[no-any-return]


def _split_layers(model: nn.Module, mesh: DeviceMesh) -> None:
    """Applies tensor parallelism as each layer declares it."""
    for module in model.modules():
        plan = {name: _STYLES[split]() for name, split in splits_of(module, mesh.size()).items()}
        if plan:
            parallelize_module(module, mesh, plan)


def _check_split(model: nn.Module, parts: int) -> None:
    """Raises a UserError if tensor parallelism has nothing to split, or cannot split it evenly."""
    if not any(splits_of(module) for module in model.modules()):
        raise UserError("engine.tensor_parallel: this model has no attention or feed-forward layers to split")
    for what, count in dealt_out(model).items():
        if count % parts:
            raise UserError(f"engine.tensor_parallel: {parts} does not divide the model's {what}")


def dealt_out(model: nn.Module) -> dict[str, int]:
    """What tensor parallelism has to divide evenly, and its count, as in {"heads": 8}; smallest count first."""
    found: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, Splittable):
            found |= module.dealt_out()
    return dict(sorted(found.items(), key=lambda each: each[1]))
