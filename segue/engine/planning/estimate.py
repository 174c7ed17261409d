"""What will a recipe need on given devices? Memory, communication, FLOPs, estimated without a device or data.

One rank's micro-batch is simulated (`simulation.py`); the effect of several ranks is computed from their layout.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from segue.engine.distributed.layout import Layout, choose
from segue.engine.optimizer import MuonSection
from segue.engine.planning.simulation import Pass, Simulation, simulate
from segue.engine.settings import EngineSection
from segue.engine.task import Batch, Task
from segue.errors import UserError, count_of

GB = 1e9
USABLE_SHARE = 0.9
"""Fraction of a device's memory; the rest is for the CUDA context, buffers of cuDNN and NCCL, and fragmentation."""
MOST_TENSOR_PARALLEL = 8
"""Tensor-parallel ranks synchronize inside every layer, so they should be in one machine."""
FLOAT32 = 4


class Sketch(NamedTuple):
    """A recipe without its data: what a task provides for an estimate."""

    task: Task
    batch: Callable[[], Batch]
    """Makes the micro-batch that needs the most memory, with arbitrary values."""
    unit: str
    """Unit of its amount."""
    shape: str
    """Description of that micro-batch."""
    budget: str
    """The recipe key that makes it smaller."""
    notes: tuple[str, ...] = ()
    """Assumptions about what only the data determine."""


class Memory(NamedTuple):
    """Bytes on a device at the peak."""

    weights: float
    """float32."""
    gradients: float
    optimizer: float
    average: float
    """The moving average of the weights."""
    whole: float
    """The unsharded copy of the model for evaluation."""
    copies: float
    """Weights cast to the compute format; if they are sharded, also the gathered layers."""
    activations: float
    """What the forward pass saves for the backward pass, inputs and buffers."""
    passing: float
    """Temporary memory: scores, loss and gradients of activations, or temporaries of the optimizer step."""

    @property
    def total(self) -> float:
        """Sum of all kinds."""
        return sum(self)


class Row(NamedTuple):
    """What a layout needs: per device and step, unless stated otherwise. Pairs are without and with recomputation."""

    layout: Layout
    micro_batches: int
    """Over all devices: the recipe's number, rounded up to a multiple of the data ranks."""
    memory: tuple[Memory, Memory]
    """Without and with `engine.recompute`."""
    operations: tuple[float, float]
    """Floating-point operations, without and with `engine.recompute`."""
    sent: tuple[float, float]
    """Bytes sent to other devices, without and with `engine.recompute`."""


class Estimate(NamedTuple):
    """The estimate for a recipe."""

    parameters: int
    precision: str
    optimizer: str
    sketch: Sketch
    amount: float
    """Amount of data in a micro-batch, in the task's unit."""
    memory_bytes: float
    """Memory of a device."""
    operations_per_second: float | None
    """FLOP/s of a device."""
    alone: Row
    """The whole recipe on one device."""
    rows: tuple[Row, ...]
    """Selected layouts, simplest first."""
    chosen: Row | None
    """The simplest layout that fits."""
    is_recomputed: bool
    """Whether the chosen layout needs `engine.recompute`, or the recipe has it."""
    settings: tuple[str, ...]
    """The settings of the recipe that give the chosen layout, key=value."""
    remarks: tuple[str, ...]
    """Why other layouts are not among the rows, and what to change."""

    def fits(self, memory: Memory) -> bool:
        """Whether a device has enough memory for it."""
        return _fits(self.memory_bytes, memory)

    def rate(self, row: Row, *, is_recomputed: bool) -> float:
        """Amount of data per second on all devices, an upper bound: only floating-point operations take time."""
        assert self.operations_per_second is not None
        seconds = row.operations[is_recomputed] / self.operations_per_second
        return row.micro_batches * self.amount / seconds

    def as_json(self) -> dict[str, Any]:
        """All numbers, in bytes, FLOPs and the task's unit."""

        def way(row: Row, *, is_recomputed: bool) -> dict[str, Any]:
            memory = row.memory[is_recomputed]
            found = {**memory._asdict(), "total": memory.total, "fits": self.fits(memory)}
            found |= {"operations": row.operations[is_recomputed], "sent": row.sent[is_recomputed]}
            if self.operations_per_second is not None:
                found["rate"] = self.rate(row, is_recomputed=is_recomputed)
            return found

        def line(row: Row) -> dict[str, Any]:
            ways = {"plain": way(row, is_recomputed=False), "recomputed": way(row, is_recomputed=True)}
            return {**row.layout._asdict(), "micro_batches": row.micro_batches, **ways}

        return {
            "parameters": self.parameters,
            "micro_batch": {"shape": self.sketch.shape, "amount": self.amount, "unit": self.sketch.unit},
            "assumed": self.sketch.notes,
            "usable_bytes": self.memory_bytes * USABLE_SHARE,
            "alone": line(self.alone),
            "layouts": [line(row) for row in self.rows],
            "chosen": self.chosen and {**self.chosen.layout._asdict(), "recompute": self.is_recomputed},
            "settings": self.settings,
            "remarks": self.remarks,
        }

    def __str__(self) -> str:
        return "\n".join([*self._facts(), "", *self._memory_table(), "", *self._layout_table(), "", *self._advice()])

    def _facts(self) -> list[str]:
        plain, recomputed = (each / self.alone.micro_batches / 1e12 for each in self.alone.operations)
        return [
            f"{self.parameters:,} parameters, {self.precision}, {self.optimizer}",
            f"micro-batch: {self.sketch.shape}; {self.amount:,.0f} {self.sketch.unit}",
            *(f"assumed: {note}" for note in self.sketch.notes),
            f"its forward and backward pass: {plain:,.4g} TFLOP, {recomputed:,.4g} with engine.recompute",
        ]

    def _memory_table(self) -> list[str]:
        columns = {"one device": self.alone.memory[0], "recomputed": self.alone.memory[1]}
        if self.chosen is not None and self.chosen.layout.size > 1:
            columns["chosen"] = self.chosen.memory[self.is_recomputed]
        names = {
            "weights": "weights, float32",
            "gradients": "gradients, float32",
            "optimizer": f"optimizer state, {self.optimizer}",
            "average": "moving average of the weights",
            "whole": "whole model, for evaluation",
            "copies": "weights, as computed with",
            "activations": "activations of a micro-batch",
            "passing": "scores, loss, temporary tensors",
            "total": "peak",
        }
        lines = [f"{'GB on a device':34}" + "".join(f"{name:>14}" for name in columns)]
        for key, name in names.items():
            sizes = [getattr(memory, key) / GB for memory in columns.values()]
            if any(sizes):
                lines.append(f"{name:34}" + "".join(f"{size:14,.3f}" for size in sizes))
        return lines

    def _layout_table(self) -> list[str]:
        rate = "TFLOP/step" if self.operations_per_second is None else f"{self.sketch.unit}/s"
        names = ["data", "shard", "tensor", "micro_batches", "sent GB/step", *["GB", rate] * 2]
        widths = [5, 7, 8, 15, 14, *[12, 14] * 2]

        def line(cells: Iterable[str]) -> str:
            return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

        lines = [f"{'with engine.recompute':>{sum(widths)}}", line(names)]
        for row in self.rows:
            cells = [*map(str, row.layout), f"{row.micro_batches:,}", _figures(row.sent[0] / GB)]
            for again in (False, True):
                misfit = "" if self.fits(row.memory[again]) else " !"
                is_timed = self.operations_per_second is not None
                work = self.rate(row, is_recomputed=again) if is_timed else row.operations[again] / 1e12
                cells += [f"{_figures(row.memory[again].total / GB)}{misfit}", _figures(work)]
            lines.append(line(cells) + "  chosen" * (row is self.chosen))
        if any("!" in line for line in lines):
            lines.append(
                f"! does not fit: a device has {self.memory_bytes / GB:,g} GB (10^9 bytes) with a tenth kept free"
            )
        return lines

    def _advice(self) -> list[str]:
        if self.chosen is None:
            return list(self.remarks)
        again = ", engine.recompute" * self.is_recomputed
        return [*self.remarks, f"chosen: {self.chosen.layout}{again}: {' '.join(self.settings) or 'as the recipe is'}"]


def _figures(value: float) -> str:
    """The value with three significant digits, or as an integer from 100 on."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value))) if 0 < value < 100 else 0}f}"


def _fits(memory_bytes: float, memory: Memory) -> bool:
    return memory.total <= memory_bytes * USABLE_SHARE


def estimate(
    sketch: Sketch,
    engine: EngineSection,
    micro_batches: int,
    *,
    devices: int,
    memory_gb: float,
    operations_per_second: float | None = None,
) -> Estimate:
    """What a recipe needs on `devices` devices with `memory_gb` (10^9 bytes) each.

    Raises a UserError if the numbers are not positive, or the recipe's settings do not give a layout of these devices.
    """
    for name, value in (("--devices", devices), ("--memory", memory_gb), ("--flops", operations_per_second)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name}: should be a number above 0, not {value:g}")
    taking = _Taking(sketch, engine, micro_batches)
    whole = taking.simulation(1)
    memory_bytes = memory_gb * GB
    fits = partial(_fits, memory_bytes)
    possible = _tensor_parallel(engine, whole, devices)
    rows: list[Row] = []
    fitting: list[tuple[Row, bool]] = []
    for ranks in possible:
        tried = [taking.row(layout) for layout in _layouts(engine, devices, ranks)]
        rows += _worth_a_look(tried, fits)
        fitting = [(row, again) for again in (False, True) for row in tried if fits(row.memory[again])]
        fitting = [(row, again) for row, again in fitting if again or not engine.recompute]
        if fitting:
            break  # more tensor parallelism is tried only if less does not fit
    chosen, is_recomputed = fitting[0] if fitting else (None, engine.recompute)
    settings: list[str] = []
    if chosen is not None:
        own = None if engine.device == "cpu" else memory_bytes
        wished = (engine.data_parallel, engine.shard, engine.tensor_parallel)
        if chosen.layout != choose(
            devices, *wished, micro_batches=devices, num_parameters=whole.parameters, memory_bytes=own
        ):
            names = zip(("data_parallel", "shard", "tensor_parallel"), chosen.layout, wished, strict=True)
            settings += [f"engine.{name}={number}" for name, number, wish in names if number != wish]
        if is_recomputed and not engine.recompute:
            settings.append("engine.recompute=true")
        if chosen.micro_batches != micro_batches:
            settings.append(f"batch.micro_batches={chosen.micro_batches}")
    result = Estimate(
        parameters=whole.parameters,
        precision=engine.precision,
        optimizer=" and ".join(dict.fromkeys(phase.optimizer.kind for phase in sketch.task.phases)),
        sketch=sketch,
        amount=whole.amount,
        memory_bytes=memory_bytes,
        operations_per_second=operations_per_second,
        alone=taking.row(Layout(1, 1, 1)),
        rows=tuple(rows),
        chosen=chosen,
        is_recomputed=is_recomputed,
        settings=tuple(settings),
        remarks=(),
    )
    return result._replace(remarks=tuple(_remarks(result, taking, devices, possible)))


def _tensor_parallel(engine: EngineSection, whole: Simulation, devices: int) -> list[int]:
    """Numbers of tensor-parallel ranks that the model, the devices and the recipe allow, in ascending order."""
    wished = engine.tensor_parallel
    if wished > 1 and not whole.forward_sums:
        raise UserError("engine.tensor_parallel: this model has no attention or feed-forward layers to split")
    counts = {count_of(devices, "device"): devices}
    counts |= {f"the model's {what}": count for what, count in whole.dealt_out.items()}
    for what, count in counts.items():
        if count % wished:
            raise UserError(f"engine.tensor_parallel: {wished} does not divide {what}")
    if wished > 1 or not whole.forward_sums:
        return [wished]
    numbers = range(1, MOST_TENSOR_PARALLEL + 1)
    return [number for number in numbers if not any(count % number for count in counts.values())]


def _layouts(engine: EngineSection, devices: int, tensor_parallel: int) -> list[Layout]:
    """The layouts that the recipe's settings allow, fewest shards first."""
    rest = devices // tensor_parallel
    all_of_them = [Layout(rest // shard, shard, tensor_parallel) for shard in range(1, rest + 1) if rest % shard == 0]
    wished = {"data_parallel": engine.data_parallel, "shard": engine.shard}
    found = [each for each in all_of_them if all(n in (None, getattr(each, name)) for name, n in wished.items())]
    if not found:
        given = " x ".join(f"engine.{name} {number}" for name, number in wished.items() if number is not None)
        raise UserError(f"{given} x engine.tensor_parallel {tensor_parallel} is not {count_of(devices, 'device')}")
    if engine.offload:
        found = [each for each in found if _is_gathered(each)]
        if not found:
            raise UserError("engine.offload: only a sharded model can be offloaded; that takes more devices")
    return found


def _worth_a_look(rows: list[Row], fits: Callable[[Memory], bool]) -> list[Row]:
    """The first and last rows, the first that fit without and with recomputation, and the one after each of these."""
    places = {0, len(rows) - 1}
    for again in (False, True):
        first = next((place for place, row in enumerate(rows) if fits(row.memory[again])), len(rows))
        places |= {first, first + 1}
    return [row for place, row in enumerate(rows) if place in places]


def _remarks(result: Estimate, taking: "_Taking", devices: int, possible: list[int]) -> Iterator[str]:
    chosen, whole, key = result.chosen, taking.simulation(1), result.sketch.budget
    if chosen is None:
        least = min((row.memory[again] for row in result.rows for again in (False, True)), key=lambda each: each.total)
        batch = least.activations + least.passing
        over = least.total - result.memory_bytes * USABLE_SHARE
        advice = f"lower {key} to {1 - over / batch:.0%} of what it is" if over < 0.9 * batch else "take more devices"
        if least.whole > over:
            advice = (
                "set engine.evaluate_sharded=true, so that no device evaluates the whole model; or take more devices"
            )
        yield (
            f"nothing fits: at least {least.total / GB:,.1f} GB are needed, {batch / GB:,.1f} of them for a "
            f"micro-batch; {advice}, or larger ones"
        )
        return
    layout = chosen.layout
    if layout.shard > 1 and taking.engine.shard is None:
        yield f"fewer than {layout.shard} shards do not fit" + " even with engine.recompute" * result.is_recomputed
    if layout.tensor_parallel == 1 and devices > 1:
        more = [str(number) for number in possible if number > 1]
        if more:
            layouts = f"tensor_parallel {more[0]}" if len(more) == 1 else f"tensor_parallel {', '.join(more)}"
            own = chosen.micro_batches / layout.data_ranks
            sums = 2 * own * (whole.forward_sums + whole.backward_sums) * _ring(2)
            yield f"{layouts}: not needed; with 2, each device would send {sums / GB:,.1f} GB a step for that alone"
        elif whole.dealt_out:
            divided = ", ".join([count_of(devices, "device"), *whole.dealt_out])
            yield f"tensor_parallel: nothing up to {MOST_TENSOR_PARALLEL} divides all of {divided}"
        else:
            yield "tensor_parallel: this model has no layers that it can split"
    if chosen.micro_batches != taking.micro_batches:
        yield (
            f"batch.micro_batches: {layout.data_ranks} data ranks need a multiple of {layout.data_ranks}, not "
            f"{taking.micro_batches}; a step then holds {chosen.micro_batches / taking.micro_batches:g} times the data "
            f"unless {key} is lowered"
        )


class _Taking:
    """What a recipe needs in any layout. Runs one simulation for each number of tensor-parallel ranks."""

    def __init__(self, sketch: Sketch, engine: EngineSection, micro_batches: int) -> None:
        self.sketch, self.engine, self.micro_batches = sketch, engine, micro_batches
        self._is_gathered = any(isinstance(phase.optimizer, MuonSection) for phase in sketch.task.phases)
        self._simulations: dict[int, Simulation] = {}

    def simulation(self, tensor_parallel: int) -> Simulation:
        """The simulation of one of this many ranks, cached."""
        if tensor_parallel not in self._simulations:
            task, batch = self.sketch.task, self.sketch.batch
            self._simulations[tensor_parallel] = simulate(task, batch, self.engine, tensor_parallel)
        return self._simulations[tensor_parallel]

    def row(self, layout: Layout) -> Row:
        """What a layout needs."""
        own = -(-self.micro_batches // layout.data_ranks)  # micro-batches per rank and step
        simulation = self.simulation(layout.tensor_parallel)
        passes = (simulation.plain, simulation.recomputed)
        return Row(
            layout,
            own * layout.data_ranks,
            memory=(self._memory(layout, own, passes[0]), self._memory(layout, own, passes[1])),
            operations=(own * passes[0].operations, own * passes[1].operations),
            sent=(self._sent(layout, own, 1), self._sent(layout, own, 2)),
        )

    def _memory(self, layout: Layout, own: int, single: Pass) -> Memory:
        simulation, shard = self.simulation(layout.tensor_parallel), layout.shard
        is_gathered, size = _is_gathered(layout), self._gathered_size(simulation)
        # Gradients are allocated while activations are freed, unless they exist from the start: from the previous
        # micro-batch, or as DistributedDataParallel's buckets.
        is_growing = own == 1 and (is_gathered or layout.data_ranks == 1)
        # Gathered weights are already in the compute format, except for layers with BatchNorm, where autocast copies.
        has_copies = not is_gathered or size == FLOAT32
        peak = single.fullest(has_copies=has_copies, gradient_share=is_growing / shard)
        weights = simulation.parameters * FLOAT32 / shard
        is_spread = (layout.shard > 1 or layout.tensor_parallel > 1) and not self.engine.evaluate_sharded
        whole = self.simulation(1).parameters * FLOAT32 * is_spread
        on_device = 0.0 if is_gathered and self.engine.offload else 1.0
        fullest = Memory(
            weights=weights * on_device,
            gradients=(peak["gradients"] if is_growing else weights) * on_device,
            optimizer=simulation.optimizer / shard * on_device,
            average=weights * (self.engine.moving_average_decay is not None),
            whole=whole * (self.engine.device == "cpu"),  # on a GPU it is moved to the CPU between evaluations
            copies=peak["copies"],
            activations=peak["activations"] + simulation.buffers + own * simulation.inputs,
            passing=peak["passing"],
        )
        if is_gathered:
            # FSDP2 gathers a layer, prefetches the next one, and keeps what is outside of layers; in the backward pass
            # it has a layer's gradients in this format, and twice in float32: being summed, and of the layer before.
            layer = simulation.largest_layer
            fullest = fullest._replace(
                copies=fullest.copies + 2 * layer * size + simulation.outside_layers * FLOAT32,
                passing=fullest.passing + layer * (size + 2 * FLOAT32),
            )
        # Muon gathers one matrix at a time; the other optimizers work on shards.
        step = simulation.optimizer_passing / (1 if self._is_gathered else shard)
        batches = simulation.buffers + own * simulation.inputs
        updating = fullest._replace(
            gradients=weights * on_device, copies=0.0, activations=batches, passing=step * on_device
        )
        # Without the memory of the search, which is small compared to that of a training batch.
        evaluating = updating._replace(gradients=0.0, whole=whole, passing=0.0)
        return max(fullest, updating, evaluating, key=lambda memory: memory.total)

    def _sent(self, layout: Layout, own: int, forwards: int) -> float:
        """Bytes sent per rank and step with ring algorithms: (n - 1) / n of what n ranks gather, twice for a sum."""
        simulation = self.simulation(layout.tensor_parallel)
        size, parameters = self._gathered_size(simulation), simulation.parameters
        # FSDP2 gathers layers for the forward and the backward pass, the rest once, and reduce-scatters gradients.
        outside = simulation.outside_layers
        gathered = 2 * (parameters - outside) * size + outside * FLOAT32 + parameters * FLOAT32
        sent = own * gathered * _ring(layout.shard)
        sent += 2 * parameters * FLOAT32 / layout.shard * _ring(layout.data_parallel)
        sums = forwards * simulation.forward_sums + simulation.backward_sums
        return sent + own * 2 * sums * _ring(layout.tensor_parallel)

    def _gathered_size(self, simulation: Simulation) -> int:
        """Bytes of a weight as FSDP gathers it (`parallel.py`)."""
        is_whole = self.engine.precision == "float32" or self.engine.device == "cpu" or simulation.has_batch_norm
        return FLOAT32 if is_whole else FLOAT32 // 2


def _is_gathered(layout: Layout) -> bool:
    """Whether the model is sharded by FSDP (`parallel.py`)."""
    return (layout.shard > 1 or layout.tensor_parallel > 1) and layout.data_ranks > 1


def _ring(ranks: int) -> float:
    return (ranks - 1) / ranks
