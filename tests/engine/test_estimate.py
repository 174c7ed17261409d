"""Estimates, against real steps and against what torch really sends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate, count
from pathlib import Path
from socket import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from segue import recipe, tasks
from segue.cli import main
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.parallel import Parallel, World
from segue.engine.planning import depth, estimate
from segue.engine.planning.estimate import USABLE_SHARE, Estimate, Memory, Row
from segue.engine.planning.simulation import Simulation, simulate
from segue.engine.settings import EngineSection
from segue.engine.task import LOSS, Batch, Task
from segue.models.transformer import DecoderLayer, EncoderLayer, Transformer

SMALL = (
    *("model.width=64", "model.feed_forward=256", "model.heads=4", "model.encoder_layers=2", "model.decoder_layers=1"),
    *("tokenizer.kind=bpe", "tokenizer.size=4000"),
)
"""Of the Transformer."""
ON_CPU = ("engine.device=cpu", "batch.micro_batches=1")

MEASURED = {
    "transformer": (
        *("multi30k_transformer", *ON_CPU, "batch.tokens=2048", "tokenizer.size=2000"),
        *("model.width=256", "model.encoder_layers=2", "model.decoder_layers=2"),
    ),
    "jasper": ("ljspeech_excerpt", *ON_CPU, "data.longest_seconds=10", "batch.seconds=60"),
}
"""Recipe, and overrides that make activations most of it."""
MEASURE = str(Path(__file__).with_name("memory_of_steps.py"))


_SIMULATED: dict[Any, Simulation] = {}
_OF_LAYOUTS = ("engine.data_parallel=", "engine.shard=", "engine.tensor_parallel=", "engine.offload=")


def _estimate(name: str, *overrides: str, devices: int = 1, memory_gb: float = 80.0, speed: float | None = None) -> Any:
    """Each recipe is simulated once: that depends on neither the devices nor what they share."""
    kept = tuple(each for each in overrides if not each.startswith(_OF_LAYOUTS))

    def once(task: Task, batch: Callable[[], Batch], engine: EngineSection, tensor_parallel: int) -> Simulation:
        key = (name, kept, tensor_parallel)
        if key not in _SIMULATED:
            _SIMULATED[key] = simulate(task, batch, engine, tensor_parallel)
        return _SIMULATED[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "simulate", once)
        return tasks.estimate(recipe.find(name), devices, memory_gb, speed, overrides)


@pytest.fixture
def anew() -> Iterator[None]:
    """Nothing was simulated before, and nothing of this test is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "_SIMULATED", {})
        yield


def _section(name: str, *overrides: str) -> Any:
    draft = recipe.read(recipe.find(name), overrides)
    return recipe.validate(draft, tasks.module_of(draft).Recipe)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_estimated_memory_is_what_a_real_step_takes() -> None:
    # A threshold keeps freed tensors from staying with the process: then its memory is that of its tensors.
    process = subprocess.run(
        [sys.executable, MEASURE, json.dumps(list(MEASURED.values()))],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    estimated = {name: [each.total for each in _estimate(*case).alone.memory] for name, case in MEASURED.items()}
    plain_and_recomputed = iter(json.loads(process.stdout))
    for name, sizes in estimated.items():
        for size in sizes:
            measured = next(plain_and_recomputed)
            print(f"{name}: {size / 1e6:.0f} MB estimated, {measured / 1e6:.0f} MB measured")
            assert size == pytest.approx(measured, rel=0.15), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["decoder_only", "gpt2"])
def test_estimated_memory_is_that_of_each_of_two_ranks(kind: str) -> None:
    """They compute the layers of a language model together; activations are most of it."""
    case = (
        *("wikitext_small", *ON_CPU, "engine.tensor_parallel=2", "engine.evaluate_sharded=true"),
        *("batch.tokens=2048", "model.context=1024", "model.width=256", "model.layers=6", "model.heads=8"),
        *(f"model.kind={kind}", "model.dropout=0.1"),
        *(("model.feed_forward=768",) if kind == "decoder_only" else ()),
    )
    [row] = _estimate(*case, devices=2).rows
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, MEASURE, json.dumps([case])],
            env={
                **os.environ,
                "MALLOC_MMAP_THRESHOLD_": "65536",
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for said in [process.communicate()[0] for process in ranks]:
        for memory, measured in zip(row.memory, json.loads(said), strict=True):
            print(f"{kind}: {memory.total / 1e6:.0f} MB estimated, {measured / 1e6:.0f} MB measured; {memory}")
            assert memory.total == pytest.approx(measured, rel=0.15)


def test_estimates_allocate_no_model() -> None:
    """Not even of a model that would not fit in this machine."""
    resident = _resident_bytes()
    sizes = ("model.width=16384", "model.feed_forward=65536", "model.encoder_layers=1", "model.decoder_layers=1")
    found = _estimate("wmt14_transformer_big", *sizes, devices=64)
    assert found.parameters * 4 > 20e9
    assert _resident_bytes() - resident < 500e6


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize(
    ("overrides", "vocabularies"),
    [
        (("tokenizer.size=3000",), (3000, 3000)),
        (("source_tokenizer.kind=bytes", "model.tied=target"), (260, 4000)),
        (("tokenizer.kind=words",), (10_004, 10_004)),
    ],
)
def test_parameters_are_counted_without_data(overrides: tuple[str, ...], vocabularies: tuple[int, int]) -> None:
    found = _estimate("multi30k_transformer", *SMALL, "data.root=nowhere", *overrides)
    section: Any = _section("multi30k_transformer", *SMALL, *overrides)
    assert found.parameters == sum(p.numel() for p in Transformer(section.model, *vocabularies).parameters())
    assert any("10,000 words" in note for note in found.sketch.notes) == ("tokenizer.kind=words" in overrides)


def test_vocabulary_is_counted_from_the_texts(pairs: Path) -> None:
    tokenizers = ("tokenizer.kind=words", f"data.root={pairs}")
    found = _estimate("multi30k_transformer", *SMALL, *tokenizers)
    section: Any = _section("multi30k_transformer", *SMALL, *tokenizers)
    assert found.parameters == sum(p.numel() for p in Transformer(section.model, 16, 16).parameters())
    assert not found.sketch.notes


DEEP = ("multi30k_transformer", *SMALL, "batch.tokens=100", "model.encoder_layers=6", "model.decoder_layers=5")


@pytest.fixture
def num_forwards(anew: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often layers of the Transformer compute, by their names."""
    counts: dict[str, int] = {}
    for kind in (EncoderLayer, DecoderLayer):

        def counted(layer: Any, *inputs: Any, kind: Any = kind, forward: Any = kind.forward) -> Any:
            counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
            return forward(layer, *inputs)

        monkeypatch.setattr(kind, "forward", counted)
    return counts


def test_four_of_equal_layers_are_simulated(num_forwards: dict[str, int]) -> None:
    _estimate(*DEEP)
    assert num_forwards == dict.fromkeys(("EncoderLayer", "DecoderLayer"), 3 * depth.SIMULATED)  # 2 to recompute


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    "overrides",
    [
        (),  # bfloat16, whose copies of weights go all at once
        pytest.param(
            ("engine.precision=float32", "engine.device=cpu", "model.norm=post", "model.dropout=0.3"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("engine.tensor_parallel=2", "optimizer.kind=adamw", "model.positions=rotary", "model.activation=swiglu"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_skipping_equal_layers_changes_no_number(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    few = _numbers(*DEEP, *overrides)
    monkeypatch.setattr(depth, "SIMULATED", 100)  # no run is as long
    assert few == _numbers(*DEEP, *overrides)


def _numbers(*case: str) -> tuple[Any, list[list[int]]]:
    """The estimate, and bytes alive whenever nothing more is about to go, without and with recomputation."""
    _SIMULATED.clear()
    found = _estimate(*case, devices=2).as_json()
    courses = []
    for simulation in _SIMULATED.values():
        for each in (simulation.plain, simulation.recomputed):
            sizes = [size for _, size in each.events]
            live = accumulate(sizes)
            courses.append([now for now, size in zip(live, [*sizes[1:], 0], strict=True) if size >= 0])
    assert courses
    return found, courses


def test_unequal_layers_are_all_simulated(num_forwards: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of one class and size may compute different things."""
    begin, forward, numbers = EncoderLayer.__init__, EncoderLayer.forward, count()

    def numbered(layer: Any, *sizes: Any) -> None:
        begin(layer, *sizes)
        layer._number = next(numbers)

    def uneven(layer: Any, *inputs: Any) -> torch.Tensor:
        x = forward(layer, *inputs)
        return x.sin() if layer._number % 2 else x

    monkeypatch.setattr(EncoderLayer, "__init__", numbered)
    monkeypatch.setattr(EncoderLayer, "forward", uneven)
    _estimate(*DEEP)
    assert num_forwards["EncoderLayer"] >= 3 * 6


_C10D: Any = torch.ops.c10d


class _Sent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what one rank sends."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layout, self.bytes = layout, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ranks = self.layout.tensor_parallel
        for known, place in ((_C10D.allreduce_, 1), (_C10D._allgather_base_, 2), (_C10D._reduce_scatter_base_, 2)):
            if func is known.default:
                ranks = dist.ProcessGroup.unbox(args[place]).size()
        share = (ranks - 1) / ranks
        share *= {
            "c10d._allgather_base_.default": 1,
            "c10d._reduce_scatter_base_.default": ranks,  # the tensor is what is left
            "c10d.allreduce_.default": 2,
            "_c10d_functional.all_reduce.default": 2,
        }.get(str(func), 0)
        if share:
            first = args[0][0] if isinstance(args[0], list) else args[0]
            self.bytes += share * first.nbytes
        return func(*args, **(kwargs or {}))


@pytest.fixture
def many_ranks() -> Iterator[None]:
    """Eight ranks, of which only this one exists."""
    dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield
    dist.destroy_process_group()


SENT = {
    "transformer": ("multi30k_transformer", *SMALL, "model.heads=8", "batch.tokens=64", *ON_CPU),
    "language model": (
        *("wikitext_small", *ON_CPU, "batch.tokens=512", "model.heads=8", "model.head_width=8", "model.width=64"),
        *("model.layers=6", "model.dropout=0.1"),
    ),
}
CASES = [
    ("transformer", Layout(2, 2, 2)),
    ("language model", Layout(2, 2, 2)),
    *(pytest.param("transformer", Layout(*each), marks=pytest.mark.slow) for each in ((1, 8, 1), (2, 4, 1), (1, 1, 8))),
    pytest.param("language model", Layout(1, 1, 8), marks=pytest.mark.slow),
]


@pytest.mark.usefixtures("many_ranks")
@pytest.mark.parametrize(("name", "layout"), CASES, ids=str)
def test_what_is_sent_is_what_torch_sends(name: str, layout: Layout) -> None:
    wished = [f"engine.{key}={ranks}" for key, ranks in layout._asdict().items()]
    found = _estimate(*SENT[name], *wished, devices=8)
    assert isinstance(found, Estimate)
    [row] = found.rows
    model = found.sketch.task.build_model()
    parallel = Parallel(World(0, 8), layout, torch.device("cpu"))
    spread = parallel.spread(model, torch.float32, is_offloaded=False)
    with _Sent(layout) as sent, parallel.accumulating(spread, is_last=True):
        found.sketch.task.loss(spread, found.sketch.batch(), "")[LOSS].total.backward()  # type: ignore[no-untyped-call]
    assert row.sent[0] == pytest.approx(sent.bytes, rel=0.01)


def test_operations_are_those_that_torch_counts() -> None:
    found = _estimate("digits_jasper", *ON_CPU, "batch.seconds=2")
    model = found.sketch.task.build_model()
    with FlopCounterMode(display=False) as counter:
        found.sketch.task.loss(model, found.sketch.batch(), "")[LOSS].total.backward()
    assert found.alone.operations[0] == counter.get_total_flops()


def test_separable_convolutions_count_three_passes() -> None:
    """A step takes three times the operations of their forward pass."""
    found = _estimate("ljspeech_excerpt", *ON_CPU, "batch.seconds=2")
    model = found.sketch.task.build_model()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found.sketch.task.loss(model, found.sketch.batch())
    of_parts = counter.get_flop_counts()
    learned = sum(sum(of_parts[f"AcousticModel.{part}"].values()) for part in ("encoder", "head"))
    # Nearly: features need no gradient.
    assert found.alone.operations[0] == pytest.approx(counter.get_total_flops() + 2 * learned, rel=0.1)


FEW = ("multi30k_transformer", *SMALL, "batch.tokens=100", "batch.micro_batches=4")
"""Weights, gradients and optimizer are most of it."""
MANY = ("multi30k_transformer", *SMALL, "batch.tokens=5000", "batch.micro_batches=4", "tokenizer.size=100")
"""Activations are."""


@cache
def _too_small(case: tuple[str, ...]) -> Estimate:
    """On four devices, where nothing fits."""
    found: Estimate = _estimate(*case, devices=4, memory_gb=1e-3)
    return found


def _rows(case: tuple[str, ...]) -> dict[Layout, Row]:
    return {row.layout: row for row in _too_small(case).rows}


def _just(memory: Memory) -> float:
    """The GB of a device that can just hold that."""
    return memory.total / USABLE_SHARE / 1e9 * 1.0001


def test_the_simplest_layout_that_fits_is_chosen() -> None:
    rows = _rows(FEW)
    assert list(rows) == [Layout(4, 1, 1), Layout(1, 4, 1), Layout(2, 1, 2), Layout(1, 2, 2), Layout(1, 1, 4)]
    plain, sharded = rows[Layout(4, 1, 1)].memory[0], rows[Layout(1, 4, 1)].memory[0]
    assert sharded.total < plain.total
    found = _estimate(*FEW, devices=4, memory_gb=_just(plain))
    assert found.chosen.layout == Layout(4, 1, 1)
    assert found.settings == ("engine.data_parallel=4", "engine.shard=1")  # more careful: half a device for the state
    found = _estimate(*FEW, devices=4, memory_gb=_just(sharded))
    assert (found.chosen.layout, found.is_recomputed) == (Layout(1, 4, 1), False)
    assert any(remark.startswith("fewer than 4 shards do not fit") for remark in found.remarks)


@pytest.mark.slow
def test_recomputing_precedes_tensor_parallelism() -> None:
    rows = _rows(MANY)
    smallest = min(rows[Layout(4, 1, 1)].memory[1], rows[Layout(1, 4, 1)].memory[1], key=lambda each: each.total)
    found = _estimate(*MANY, devices=4, memory_gb=_just(smallest))
    assert found.is_recomputed
    assert found.chosen.layout.tensor_parallel == 1
    assert "engine.recompute=true" in found.settings
    split = rows[Layout(1, 1, 4)].memory[1]
    assert split.total < smallest.total
    found = _estimate(*MANY, devices=4, memory_gb=_just(split))
    assert found.chosen.layout.tensor_parallel > 1
    assert any(setting.startswith("engine.tensor_parallel=") for setting in found.settings)


def test_where_nothing_fits_it_says_what_would() -> None:
    found = _estimate(*MANY, devices=2, memory_gb=1e-3)
    assert found.chosen is None
    assert "nothing fits" in str(found)
    assert len(found.rows) == 3
    best = min(each.memory[1].total for each in found.rows)
    found = _estimate(*MANY, devices=2, memory_gb=best / 1e9)
    assert "lower batch.tokens" in str(found)


def test_layouts_set_in_the_recipe_are_kept() -> None:
    found = _estimate(*FEW, "engine.shard=2", devices=4)
    assert [row.layout for row in found.rows] == [Layout(2, 2, 1)]
    assert found.settings == ()
    found = _estimate(*FEW, "engine.tensor_parallel=2", devices=4)
    assert {row.layout.tensor_parallel for row in found.rows} == {2}


def test_offloaded_state_takes_no_device_memory() -> None:
    found = _estimate(*FEW, "engine.offload=true", devices=4)
    assert [row.layout for row in found.rows] == [Layout(2, 2, 1), Layout(1, 4, 1)]
    assert found.rows[0].memory[0].optimizer == 0.0


def test_suggested_micro_batches_divide_over_ranks() -> None:
    found = _estimate(*FEW, devices=3)
    assert found.chosen.micro_batches == 6
    assert found.settings == ("batch.micro_batches=6",)


def test_throughput_follows_from_the_operations() -> None:
    found = _estimate(*FEW, devices=2, speed=1e12)
    [row] = [each for each in found.rows if each.layout == Layout(2, 1, 1)]
    seconds = row.operations[0] / 1e12
    assert found.rate(row, is_recomputed=False) == pytest.approx(4 * found.amount / seconds)


WIDE = ("multi30k_transformer", *SMALL, "model.feed_forward=254")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nosuch", "--memory", "80"), "nosuch: no such file"),
        (("digits_jasper", "--memory", "80", "batch.seconds=auto"), "batch.seconds: auto"),
        (("digits_jasper", "--memory", "80", "engine.offload=true"), "engine.offload: only a sharded model"),
        (("digits_jasper", "--memory", "80", "engine.tensor_parallel=2"), "engine.tensor_parallel: this model has no"),
        (
            ("multi30k_transformer", *SMALL, "--memory", "80", "engine.shard=3"),
            "engine.shard 3 x engine.tensor_parallel 1 is",
        ),
        (
            ("multi30k_transformer", *SMALL, "--memory", "80", "--devices", "3", "engine.tensor_parallel=3"),
            "engine.tensor_parallel: 3 does not divide the model's 4 heads",
        ),
        (
            (*WIDE, "--memory", "80", "--devices", "4", "engine.tensor_parallel=4"),
            "engine.tensor_parallel: 4 does not divide the model's feed_forward of 254",
        ),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("words", [("--devices", "0"), ("--flops", "fast"), ("--memory", "much")])
def test_invalid_numbers_are_refused(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "digits_jasper", "--memory", "80", *words]) == 2
    assert f"segue: {words[0]}: should be a " in capsys.readouterr().err


def test_estimates_can_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *FEW, "--devices", "2", "--memory", "80", "--flops", "1e12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == {"data_parallel": 2, "shard": 1, "tensor_parallel": 1, "recompute": False}
    assert found["layouts"][0]["plain"]["fits"] is True
    assert found["micro_batch"]["unit"] == "tokens"
