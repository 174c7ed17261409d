"""How much memory does one rank use for a micro-batch? Simulated on fake tensors, which have shapes but no data.

torch runs its CPU rules: autograd, autocast, recomputation. Allocation and release of each storage are recorded. Where
GPU kernels save something else, this file corrects for it.
"""

import weakref
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from segue.engine import precision
from segue.engine.distributed import parts
from segue.engine.distributed.parallel import dealt_out
from segue.engine.memory import old_objects_aside
from segue.engine.optimizer import Updater
from segue.engine.planning import depth
from segue.engine.planning.depth import Kind
from segue.engine.settings import EngineSection
from segue.engine.task import Batch, Task
from segue.layers.attention import Attention
from segue.layers.causal_attention import CausalAttention
from segue.layers.residual import Portion, Ranks
from segue.layers.splits import splits_of

_OPS = torch.ops.aten
_ASKS_DEVICE = torch.ops.prim.device.default


class Pass(NamedTuple):
    """Forward and backward pass of a micro-batch."""

    events: list[tuple[Kind, int]]
    """Bytes allocated (positive) or released (negative), in order."""
    operations: float
    """Floating-point operations."""

    def fullest(self, *, has_copies: bool, gradient_share: float) -> dict[Kind, float]:
        """Live bytes by kind at the peak.

        Without copies, weights are already in the compute format. `gradient_share` is the fraction of a gradient that
        stays allocated: all, a shard, or 0 if it is added to an existing one.
        """
        live: dict[Kind, float] = {"activations": 0.0, "passing": 0.0, "copies": 0.0, "gradients": 0.0}
        fullest = dict(live)
        for kind, size in self.events:
            if kind == "copies" and not has_copies:
                continue
            live["passing" if kind == "gradients" else kind] += size
            if sum(live.values()) > sum(fullest.values()):
                fullest = dict(live)
            if kind == "gradients":
                live["passing"] -= size
                live["gradients"] += size * gradient_share
        return fullest


class Simulation(NamedTuple):
    """Memory and operations of a rank. Bytes, unless stated otherwise."""

    parameters: int
    """Number of parameters, in this rank's part under tensor parallelism."""
    largest_layer: int
    """Number of parameters of the largest layer."""
    outside_layers: int
    """Number of parameters outside of layers."""
    dealt_out: dict[str, int]
    """What tensor parallelism has to divide, with its count."""
    buffers: int
    has_batch_norm: bool
    inputs: int
    """Inputs of one micro-batch."""
    amount: float
    """Amount of data in a micro-batch, in the task's unit."""
    optimizer: int
    """Optimizer state."""
    optimizer_passing: int
    """Temporary memory of an optimizer step."""
    forward_sums: int
    """What tensor parallelism sums over ranks in a forward pass."""
    backward_sums: int
    """What tensor parallelism sums over ranks in a backward pass."""
    plain: Pass
    recomputed: Pass
    """With activation checkpointing."""


def simulate(
    task: Task,
    batch: Callable[[], Batch],
    engine: EngineSection,
    tensor_parallel: int = 1,
) -> Simulation:
    """Simulates a micro-batch on one of `tensor_parallel` ranks; sizes that they do not divide are rounded up."""
    with old_objects_aside():
        try:
            return _simulate(task, batch, engine, tensor_parallel, is_whole=False)
        except depth.UnequalError:
            return _simulate(task, batch, engine, tensor_parallel, is_whole=True)


def _simulate(
    task: Task,
    batch: Callable[[], Batch],
    engine: EngineSection,
    tensor_parallel: int,
    *,
    is_whole: bool,
) -> Simulation:
    watch = _Watch()
    with watch:
        model = task.build_model()
        counts = dealt_out(model)
        if tensor_parallel > 1:
            _split(model, tensor_parallel)
        is_whole |= not all(parameter.requires_grad for parameter in model.parameters())
        if engine.device != "cpu":
            _like_gpu(model)
        units = [_count(unit) for unit in parts.units(model)]
        runs = [] if is_whole else depth.runs(model)
        sums = {"forward": 0, "backward": 0}
        handles = _counted_sums(model, sums, runs, tensor_parallel)
        first = watch.begin()
        inputs = batch()
        amount, input_bytes = inputs.amount, watch.live(first)
        plain = _pass(watch, task, model, inputs, engine, runs)
        for handle in handles:
            handle.remove()
        state, passing = 0, 0
        for phase in task.phases:
            updater = Updater(phase.optimizer, model.get_submodule(phase.module))
            state += sum(tensor.nbytes for tensor in updater.tensors().values())
            for parameter in updater.parameters:
                parameter.grad = torch.empty_like(parameter)
            first = watch.begin()
            watch.cache_enabled = False  # useless here: operations do not repeat, and keys contain all parameters
            updater.step(1.0)
            watch.cache_enabled = True
            passing = max(passing, *watch.course(first))
            updater.clear()
        precision.recompute(model)
        recomputed = _pass(watch, task, model, inputs, engine, runs)
    return Simulation(
        parameters=_count(model),
        largest_layer=max(units, default=0),
        outside_layers=_count(model) - sum(units),
        dealt_out=counts,
        buffers=sum(buffer.nbytes for buffer in model.buffers()),
        has_batch_norm=bool(parts.batch_norms(model)),
        inputs=input_bytes,
        amount=amount,
        optimizer=state,
        optimizer_passing=passing,
        forward_sums=sums["forward"],
        backward_sums=sums["backward"],
        plain=plain,
        recomputed=recomputed,
    )


def _pass(
    watch: "_Watch", task: Task, model: nn.Module, batch: Batch, engine: EngineSection, runs: list[depth.Run]
) -> Pass:
    ends: list[int] = []
    scores: set[int] = set()

    def note(module: nn.Module, inputs: Any, outputs: Any) -> None:
        del module, inputs
        ends.append(len(watch.events))
        scores.update(watch.number(tensor) for tensor in tree_leaves(outputs) if isinstance(tensor, Tensor))

    weights = {watch.number(parameter) for parameter in model.parameters()}
    first, operations = watch.begin(weights), watch.operations

    def now() -> depth.Mark:
        return depth.Mark(len(watch.events) - first, watch.operations - operations)

    handles = [model.register_forward_hook(note), *(handle for run in runs for handle in run.note(now))]
    with precision.autocast(engine.precision, torch.device("cpu")):
        terms = [each for phase in task.phases for each in task.loss(model, batch, phase.name).values() if each.weight]
        total = sum([each.total for each in terms[1:]], start=terms[0].total)
    total.backward()  # type: ignore[no-untyped-call]
    del total, terms
    for handle in handles:
        handle.remove()
    gradients = {watch.number(p.grad) for p in model.parameters() if p.grad is not None}
    kept = {number for number, size in watch.events[first : ends[0]] if size > 0} - scores

    def kind(number: int) -> Kind:
        if number in gradients:
            return "gradients"
        if number in watch.copies:
            return "copies"
        return "activations" if number in kept else "passing"

    for parameter in model.parameters():
        parameter.grad = None
    events = [depth.Event(number, kind(number), size) for number, size in watch.events[first:]]
    events, counted = depth.repeat(events, watch.operations - operations, runs)
    return Pass([event[1:] for event in events], counted)


class _Watch(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Makes all tensors fake, and records when their storages are allocated and released."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)  # for tables computed with numpy
        self.events: list[tuple[int, int]] = []
        """Number of a storage, and its bytes: negative for a release."""
        self.copies: set[int] = set()
        """Storages of weights cast to another format."""
        self.operations = 0.0
        self._weights: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._references: dict[int, Any] = {}
        self._depth = 0

    def begin(self, weights: set[int] = frozenset()) -> int:  # type: ignore[assignment]
        """The position of the next event. From here on, casts of the storages in `weights` count as `copies`."""
        self._weights = set(weights)
        return len(self.events)

    def course(self, first: int) -> list[int]:
        """Live bytes after each event from `first` on, counting only what was allocated since."""
        return list(accumulate((size for _, size in self.events[first:]), initial=0))

    def live(self, first: int) -> int:
        """Bytes allocated since `first` that are still live."""
        return self.course(first)[-1]

    def number(self, tensor: Tensor) -> int:
        """The number of the tensor's storage."""
        storage = tensor.untyped_storage()
        key = id(storage)  # torch keeps the object as long as the storage
        if key not in self._numbers:
            number, size = len(self.events), storage.nbytes()

            def gone(_: object) -> None:
                del self._numbers[key], self._references[key]
                self.events.append((number, -size))

            self._numbers[key], self._references[key] = number, weakref.ref(storage, gone)
            self.events.append((number, size))
        return self._numbers[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As FakeTensorMode, plus operations whose result shapes it cannot derive without data."""
        if func is _ASKS_DEVICE:  # by far the most frequent call
            return args[0].fake_device
        if func in _ANSWERS:
            return _ANSWERS[func](*args)
        self._depth += 1
        try:
            found = super().__torch_dispatch__(func, types, args, kwargs or {})
        finally:
            self._depth -= 1
        if self._depth:  # a call from inside torch's own rules: no kernel would allocate these tensors
            return found
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor):
                number = self.number(tensor)
                if func is _OPS._to_copy.default and self._numbers.get(id(args[0].untyped_storage())) in self._weights:
                    self.copies.add(number)
        count = _OPERATIONS.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=found)
        return found


# --- Operations whose result shapes depend on data ---


def _ctc_loss(log_probs: Tensor, targets: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """(T, B, V), (sum of U) -> (B) losses, (B, T, 2 U + 1) forward variables, assuming targets of equal length."""
    frames, batch, _vocabulary = log_probs.shape
    return log_probs.new_empty(batch), log_probs.new_empty(batch, frames, 2 * (targets.numel() // batch) + 1)


def _ctc_loss_backward(gradient: Tensor, log_probs: Tensor, *others: Any) -> Tensor:
    """The gradient; temporarily allocates backward variables, as many as forward ones."""
    del gradient
    backward = torch.empty_like(others[4])  # the remaining arguments: targets, lengths, loss, forward variables
    found = torch.empty_like(log_probs)
    del backward
    return found


_ANSWERS: dict[Any, Callable[..., Any]] = {
    _OPS._ctc_loss.Tensor: _ctc_loss,
    _OPS._ctc_loss_backward.Tensor: _ctc_loss_backward,
}


def _attention_operations(query: Tensor, key: Tensor, *_: object, **__: object) -> int:
    """Two matrix products of (B, H, T, d) and (B, H, S, d): scores, and the weighted sum of values."""
    return 4 * query.numel() * key.shape[-2]


def _attention_backward_operations(gradient: Tensor, query: Tensor, key: Tensor, *_: object, **__: object) -> int:
    """Five products: scores again, and two for the backward pass of each forward product."""
    del gradient
    return 10 * query.numel() * key.shape[-2]


def _convolution_backward_operations(gradient: Tensor, x: Tensor, weight: Tensor, *others: Any, **__: object) -> int:
    """Two operations per output and weight that it uses, for each of the gradients of input and weights."""
    del x
    return 2 * gradient.numel() * weight[0].numel() * int(sum(others[-1][:2]))  # last argument: which are requested


_OPERATIONS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _OPS.convolution_backward: _convolution_backward_operations,  # torch's ignores groups
    # Missing in torch's table.
    _OPS._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
    _OPS._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_operations,
}


# --- Differences of several ranks and GPUs ---


def _like_gpu(model: nn.Module) -> None:
    """On a GPU dropout saves one byte per element; attention drops inside its kernel and saves nothing for it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p:
            module.forward = partial(_fused_dropout, module.p)  # type: ignore[method-assign]
        elif isinstance(module, Attention | CausalAttention):
            module.dropout = 0.0


def _fused_dropout(probability: float, x: Tensor, portion: Portion | None = None) -> Tensor:
    del portion  # what is drawn for all positions is gone at once
    return torch.native_dropout(x, probability, True)[0]


def _split(model: nn.Module, ranks: int) -> None:
    """Reduces the layers that tensor parallelism splits to the first rank's part."""
    for module in model.modules():
        for name, split in splits_of(module, ranks).items():
            if split == "heads":
                continue
            if split == "positions":
                getattr(module, name).ranks = Ranks(None, ranks, 0)
                continue
            matrix = getattr(module, name)
            outputs, inputs = matrix.weight.shape
            if split != "row":
                outputs = -(-outputs // ranks)
                if getattr(matrix, "bias", None) is not None:
                    matrix.bias = nn.Parameter(matrix.bias.new_empty(outputs))
            else:
                inputs = -(-inputs // ranks)
            matrix.weight = nn.Parameter(matrix.weight.new_empty(outputs, inputs))


def _counted_sums(model: nn.Module, sums: dict[str, int], runs: list[depth.Run], ranks: int) -> list[Any]:
    """Adds to `sums` the bytes of outputs and inputs' gradients that are summed over ranks; returns hook handles.

    DTensor sums the gradient of each matrix's input separately, also for query, key and value. Where ranks share a
    residual stream, gathering its positions and scattering a sum are half of such a sum each; what ranks add up for
    norms and biases is not counted.
    """
    times = {part: 1 + len(run.skipped) for run in runs for part in run.repeated.modules()}
    is_shared = any("positions" in splits_of(module).values() for module in model.modules())

    def add_exchanges(forward: float, backward: float, module: nn.Module, inputs: Any, output: Tensor) -> None:
        del inputs
        each = output.nbytes * times.get(module, 1) * (1 if output.dim() == 3 else ranks)  # (B, T, D), or (p, D)
        sums["forward"] += int(forward * each)
        sums["backward"] += int(backward * each)

    def add_output(module: nn.Module, inputs: Any, output: Tensor) -> None:
        del inputs
        sums["forward"] += output.nbytes * times.get(module, 1)

    def add_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums["backward"] += inputs[0].nbytes * times.get(module, 1)

    def add_scores(width: int, module: nn.Module, inputs: Any, outputs: Any) -> None:
        del module, inputs
        # Scores (P, V) of P targets, or losses of a model that never has the scores of all of them at once.
        # With a shared residual stream, positions are gathered for them, and a sum of gradients is scattered.
        targets = outputs.shape[0] if isinstance(outputs, Tensor) else outputs[1].numel()
        is_cast = torch.is_autocast_enabled("cpu")
        sums["backward"] += targets * width * (torch.get_autocast_dtype("cpu") if is_cast else torch.float32).itemsize

    handles: list[Any] = []
    for module in model.modules():
        splits = splits_of(module, ranks)
        tables = [getattr(module, name) for name, split in splits.items() if split == "vocabulary"]
        if tables:
            handles.append(module.register_forward_hook(partial(add_scores, tables[0].weight.shape[1])))
        if is_shared:
            if "row" in splits.values():  # gathered and scattered; backwards, gathered a second time for the weights
                handles.append(module.register_forward_hook(partial(add_exchanges, 1.0, 1.5)))
            tables = [table for table in tables if isinstance(table, nn.Embedding)]
            handles += [table.register_forward_hook(partial(add_exchanges, 0.5, 0.5)) for table in tables]
            continue
        for name, split in splits.items():
            matrix = getattr(module, name)
            if split == "column":
                handles.append(matrix.register_forward_pre_hook(add_input))
            elif split == "row" or isinstance(matrix, nn.Embedding):
                handles.append(matrix.register_forward_hook(add_output))
    return handles


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
