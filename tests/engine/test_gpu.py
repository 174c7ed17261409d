"""Proofs that need a GPU: it takes the same steps as a processor, in every format, layout and mode.

With fewer GPUs than ranks, ranks share one and talk through the processor: NCCL wants a GPU for each.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import sabotage
import torch
from ranks import Ended, Job, Start, tensors
from sabotage import call

from segue.data.features import LogMel, LogMelSection
from segue.engine.environment import peak_operations
from segue.engine.precision import set_matmul

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

STEPS = 6
# No dropout: it draws other numbers on a GPU.
JASPER = (
    "model.blocks=[{channels = 16, kernel = 7, stride = 2, has_residual = false}, {channels = 16, kernel = 7}, "
    "{channels = 24, kernel = 1, has_residual = false}]"
)
TASKS = {"translation": ["batch.tokens=100", "model.positions=sinusoidal"], "speech": [JASPER]}
# Relative, for losses: sums in another order; the rounding of activations to 10, 8 and 11 bits.
TOLERANCE = {"float32": 2e-5, "tf32": 2e-3, "bfloat16": 1e-2, "float16": 2e-3}
MODES = {
    "float32": [],
    "float32, read ahead": ["engine.workers=2"],
    "tf32": ["engine.matmul=tf32"],
    "bfloat16": ["engine.precision=bfloat16"],
    "float16": ["engine.precision=float16"],
    "float32, recomputed": ["engine.recompute=true"],
    "float32, compiled": ["engine.compile=true"],
    "float16, compiled, recomputed": ["engine.precision=float16", "engine.compile=true", "engine.recompute=true"],
}
LAYOUTS = {
    "2 copies": (2, 1, 1),
    "2 shards": (1, 2, 1),
    "2 shards, offloaded": (1, 2, 1),
    "2 x 2 shards": (2, 2, 1),
    "2 tensor-parallel": (1, 1, 2),
    "2 shards x 2 tensor-parallel": (1, 2, 2),
}
PRECISIONS = ("float32", "bfloat16", "float16")
SPREAD = [
    (task, layout, precision)
    for task in TASKS
    for layout, (_, _, tensor_parallel) in LAYOUTS.items()
    for precision in PRECISIONS
    if task == "translation" or tensor_parallel == 1  # Jasper has none
]
AT_ONCE = min(8, os.cpu_count() or 1)
"""Runs at the same time: they are small."""
SAVING = ["engine.save_every=3", "engine.evaluate_every=6"]
RESUMED: dict[str, tuple[int, list[str]]] = {
    "alone": (1, SAVING),
    "2 shards": (2, [*SAVING, "engine.shard=2"]),
    "2 shards, offloaded": (2, [*SAVING, "engine.shard=2", "engine.offload=true"]),
}
LEARNT = ["engine.steps=120", "engine.log_every=20", "engine.evaluate_every=60"]


class Order(NamedTuple):
    """What to train."""

    task: str
    ranks: int
    overrides: Sequence[str]
    """Of the recipe."""
    resumes: str = ""
    """The run of this name, from its checkpoint before the last."""


class Runs:
    """Runs of `segue train`, each in a folder of its name. The first that is asked for of a group starts all of it."""

    def __init__(self, folder: Path, recipes: dict[str, Path], start: Start, groups: Sequence[dict[str, Order]]):
        self._folder, self._recipes, self._start, self._groups = folder, recipes, start, groups
        self._ended: dict[str, Ended] = {}

    def __getitem__(self, name: str) -> Path:
        """A run that went well."""
        if name not in self._ended:
            waiting = iter(next(group for group in self._groups if name in group).items())
            while jobs := {each: self._job(each, order) for each, order in islice(waiting, AT_ONCE)}:
                self._ended |= {each: job.end() for each, job in jobs.items()}
        ended = self._ended[name]
        assert set(ended.statuses) == {0}, "\n".join(ended.lines)
        return self._folder / name

    def _job(self, name: str, order: Order) -> Job:
        if order.resumes:
            shutil.copytree(self[order.resumes], self._folder / name)
            shutil.rmtree(self._folder / name / "checkpoints" / f"step_{STEPS:08d}")
            shutil.rmtree(self._folder / name / "model")
        words = ["train", self._recipes[order.task], "--out", self._folder / name, "batch.micro_batches=4"]
        words += [f"engine.steps={STEPS}", "engine.log_every=1", "engine.device=cuda"]
        words += [*TASKS[order.task], *order.overrides]
        return self._start(order.ranks, words, call(sabotage.share_a_gpu))


@pytest.fixture(scope="module")
def runs(tiny_recipe: Path, reversal_recipe: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    alone: dict[str, Order] = {}
    compiled: dict[str, Order] = {}
    whole: dict[str, Order] = {}
    resumed: dict[str, Order] = {}
    for task in TASKS:
        for mode, overrides in MODES.items():
            (compiled if "compiled" in mode else alone)[f"{task}, {mode}"] = Order(task, 1, overrides)
        alone |= {f"{task}, cpu": Order(task, 1, ["engine.device=cpu"]), f"{task}, learned": Order(task, 1, LEARNT)}
        for layout, (ranks, overrides) in RESUMED.items():
            whole[f"{task}, {layout}, whole"] = Order(task, ranks, overrides)
            resumed[f"{task}, {layout}, resumed"] = Order(task, ranks, overrides, f"{task}, {layout}, whole")
    groups = [alone, compiled, whole, resumed]
    for layout, sizes in LAYOUTS.items():
        keys = zip(("data_parallel", "shard", "tensor_parallel"), sizes, strict=True)
        overrides = [f"engine.{key}={size}" for key, size in keys] + ["engine.offload=true"] * ("offloaded" in layout)
        precisions = {
            f"{task}, {layout}, {precision}": Order(
                task, math.prod(sizes), [*overrides, f"engine.precision={precision}"]
            )
            for task, its_layout, precision in SPREAD
            if its_layout == layout
        }
        groups.append(precisions)
    recipes = {"translation": reversal_recipe, "speech": tiny_recipe}
    return Runs(tmp_path_factory.mktemp("runs"), recipes, start, groups)


def assert_follows(run: Path, other: Path, tolerance: float) -> None:
    found, expected = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (run, other)
    )
    for name, bound in (("loss", tolerance), ("gradient_norm", 10 * tolerance)):
        ours, theirs = ([each[name] for each in records] for records in (found, expected))
        print(name, f"{max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)):.1e}", run.name)
        assert ours == pytest.approx(theirs, rel=bound)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", TASKS)
def test_a_gpu_takes_the_same_steps_as_a_cpu(runs: Runs, task: str, mode: str) -> None:
    run = runs[f"{task}, {mode}"]
    assert_follows(run, runs[f"{task}, cpu"], TOLERANCE[mode.partition(",")[0]])
    assert json.loads((run / "environment.json").read_text())["device"] == torch.cuda.get_device_name()
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["memory_gb"] < 10
    assert ("utilization" in last) == (peak_operations(torch.device("cuda", 0), "float32", "ieee") is not None)


@pytest.mark.parametrize(("task", "layout", "precision"), SPREAD)
def test_any_layout_takes_the_same_steps(runs: Runs, task: str, layout: str, precision: str) -> None:
    assert_follows(runs[f"{task}, {layout}, {precision}"], runs[f"{task}, {precision}"], TOLERANCE[precision])


@pytest.mark.parametrize("layout", ["alone", "2 shards, offloaded", "2 shards"])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_goes_on_where_it_was(runs: Runs, task: str, layout: str) -> None:
    resumed, whole = runs[f"{task}, {layout}, resumed"], runs[f"{task}, {layout}, whole"]
    # Kernels that add in any order, as that of CTC's gradient does, differ in the last bits from run to run.
    assert_follows(resumed, whole, 1e-5)
    if task == "translation":
        assert tensors(resumed / "model" / "model.safetensors") == tensors(whole / "model" / "model.safetensors")


@pytest.mark.parametrize("task", TASKS)
def test_gpu_models_score_the_same_on_a_cpu(runs: Runs, task: str, corpus: Path, pairs: Path) -> None:
    import segue

    data = (corpus if task == "speech" else pairs) / "test.jsonl"
    scores = [segue.load(runs[f"{task}, learned"], device=device).evaluate(data) for device in ("cpu", "cuda")]
    assert scores[0] == scores[1]


def test_tf32_does_not_change_quiet_feature_bins() -> None:
    front_end = LogMel(LogMelSection(sample_rate_hz=16000))
    time = torch.arange(16000) / 16000
    waveforms = (0.5 * torch.sin(2 * torch.pi * 440 * time) + 1e-4 * torch.randn(16000)).unsqueeze(0)
    wanted, _ = front_end(waveforms, torch.tensor([16000]))
    try:
        set_matmul("tf32")
        found, _ = front_end.cuda()(waveforms.cuda(), torch.tensor([16000]).cuda())
    finally:
        set_matmul("ieee")
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-2)  # the filters' sums are rounded, to 1e-3


def test_auto_batches_fit_in_gpu_memory(reversal_recipe: Path, start: Start, tmp_path: Path) -> None:
    def search(megabytes: int) -> Job:
        words: Sequence[object] = [
            *("train", reversal_recipe, "--out", tmp_path / str(megabytes), "batch.tokens=auto", "engine.device=cuda"),
            *("engine.steps=3", "model.width=256", "model.feed_forward=1024"),
        ]
        return start(1, words, call(sabotage.limit_gpu_memory, megabytes))

    budgets = []
    for job in [search(150), search(1500)]:
        ended = job.end()
        assert ended.statuses == [0], ended.lines
        budgets.append(int(ended.said[0].partition("batch.tokens: ")[2].split()[0]))
    small, large = budgets
    assert 0 < 2 * small < large
