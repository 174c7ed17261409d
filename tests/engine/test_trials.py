"""What is tried out before a training: the largest batch that fits, and the learning rate."""

import gc
import json
import math
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import segue
from segue import training
from segue.cli import main
from segue.engine import environment
from segue.engine.distributed.parallel import ALONE
from segue.engine.planning import trials
from segue.engine.step import NotFiniteError
from segue.engine.trainer import Trainer
from segue.errors import UserError

CPU = torch.device("cpu")
BRIEF = ("search.longest_factor=0.1", "search.longest_extra=1")


# --- The largest batch ---


class Memory:
    """Of a device: a step needs so many bytes for each unit of its budget; more than `size` raises."""

    def __init__(self, patch: pytest.MonkeyPatch, size: float, for_each: float, used: float = 0.0) -> None:
        self.size, self.for_each, self.peak = size, for_each, used
        self.tried: list[float] = []
        patch.setattr(trials, "_peak_bytes", lambda device: self.peak)
        patch.setattr(trials, "free_bytes", lambda device: size - used)

    def take(self, budget: float) -> None:
        self.tried.append(budget)
        self.peak = max(self.peak, budget * self.for_each)
        if self.peak > self.size:
            raise torch.OutOfMemoryError


@pytest.mark.parametrize("for_each", [1.0, 3.7, 70.0])
def test_the_largest_budget_is_found_by_growing(monkeypatch: pytest.MonkeyPatch, for_each: float) -> None:
    memory = Memory(monkeypatch, 10_000.0, for_each)
    found = trials.largest_budget(10.0, 1e9, memory.take, CPU)
    assert memory.tried == [10.0 * trials.GROWTH**n for n in range(len(memory.tried))]
    assert found == memory.tried[-1]
    assert found * for_each <= 10_000.0 * trials.MEMORY_SHARE < found * for_each * trials.GROWTH  # never above


def test_a_budget_grows_no_further_than_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 1e12, 1.0)
    assert trials.largest_budget(10.0, 40.0, memory.take, CPU) == 40.0
    assert memory.tried == [10.0, 15.0, 22.5, 33.75, 40.0]


@pytest.mark.parametrize("limit", [40.0, 10.0])
def test_out_of_memory_takes_the_budget_before(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    # Memory that jumps: a kernel that needs a workspace from some size on.
    memory = Memory(monkeypatch, 1e6, 1.0)

    def take(budget: float) -> None:
        memory.take(1e9 if budget > limit else budget)

    assert trials.largest_budget(10.0, 1e9, take, CPU) == {40.0: 33.75, 10.0: 10.0}[limit]


def test_the_memory_reserve_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 1000.0, 1.0)

    def take(budget: float) -> None:
        memory.take(budget if budget < 100 else 900.0)

    found = trials.largest_budget(50.0, 1e9, take, CPU)
    assert found == 75.0
    assert memory.peak == 900.0


def test_memory_used_before_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 10_000.0, 1.0, used=5000.0)

    def take(budget: float) -> None:
        memory.take(5000.0 + budget)

    assert 4000.0 / trials.GROWTH < trials.largest_budget(10.0, 1e9, take, CPU) <= 4000.0


@pytest.mark.parametrize("for_each", [90.0, 200.0], ids=["above the limit", "out of memory"])
def test_a_smallest_budget_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch, for_each: float) -> None:
    memory = Memory(monkeypatch, 1000.0, for_each)
    with pytest.raises(
        UserError, match=r"^not even a micro-batch of 10 fits in memory; shorten the examples or the mo"
    ):
        trials.largest_budget(10.0, 1e9, memory.take, CPU)
    assert memory.tried == [10.0]


def test_limits_of_all_parent_cgroups_count(tmp_path: Path) -> None:
    memberships, job = tmp_path / "memberships", tmp_path / "root" / "slurm" / "job_1"
    memberships.write_text("4:memory:/another/version\n0::/slurm/job_1/step_0\n")
    (job / "step_0").mkdir(parents=True)
    for folder, most, used in ((job / "step_0", "max", 30), (job, 1000, 400), (tmp_path / "root", 5000, 700)):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.max").write_text("1\n")  # outside
    (tmp_path / "memory.current").write_text("0\n")
    assert list(trials._allowances(tmp_path / "root", memberships)) == [(1000, 400), (5000, 700)]
    assert list(trials._allowances(tmp_path / "no cgroups", memberships)) == []
    memberships.write_text("0::/\n")  # a container sees itself as the root
    assert list(trials._allowances(tmp_path / "root", memberships)) == [(5000, 700)]


def test_ranks_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_allowances", lambda: [(1e6, 2e5)])  # what is free changes while others run
    assert trials.free_bytes(CPU) == 8e5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert trials.free_bytes(CPU) == 2e5


def test_trials_free_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer:
        def __init__(self) -> None:
            self.forward = self.do  # as one that is recomputed

        def do(self) -> None: ...

    seen: list[weakref.ref[Layer]] = []

    def take(budget: float) -> None:
        assert all(each() is None for each in seen)
        seen.append(weakref.ref(Layer()))

    Memory(monkeypatch, 1000.0, 1.0)
    gc.disable()
    try:
        trials.largest_budget(1.0, 9.0, take, CPU)
    finally:
        gc.enable()
    assert len(seen) > 3


@pytest.fixture
def few_pairs(pairs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for split, count in (("train", 120), ("dev", 4)):
        lines = (pairs / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]))
    return folder


@pytest.mark.parametrize("task", ["speech", pytest.param("translation", marks=pytest.mark.slow)])
def test_auto_batches_stay_the_same_on_resume(
    tiny_recipe: Path,
    reversal_recipe: Path,
    few_pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
) -> None:
    """The number is tried out once."""
    run, words = tmp_path / "run", ["engine.steps=4", "engine.save_every=2", "engine.log_every=1", "batch.buckets=1"]
    if task == "speech":
        path, key = tiny_recipe, "seconds"
        words += ["batch.seconds=auto", "engine.average_count=0"]
    else:
        path, key = reversal_recipe, "tokens"
        words += ["batch.tokens=auto", f"data.root={few_pairs}", *BRIEF]

    def learned() -> tuple[list[list[float]], dict[str, torch.Tensor]]:
        segue.train(path, run, *words)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        numbers = [[record[name] for name in ("step", "epoch", "loss", "gradient_norm")] for record in records]
        return numbers, load_file(run / "model" / "model.safetensors")

    memory = environment.peak_memory_gb(CPU)
    numbers, model = learned()
    peak = environment.peak_memory_gb(CPU)
    assert memory is not None
    assert peak is not None
    assert peak < memory + 0.5
    assert capsys.readouterr().err.count(" fits in memory; an epoch has ") == 1
    section, module = training.read(run / "recipe.toml", ())
    budget = getattr(section.batch, key)
    most = module.build_source(section, run, ALONE)[1].budgets()[1]
    assert most <= budget < most + 0.01  # all of this corpus in one micro-batch
    assert [epoch for _, epoch, *_ in numbers] == [section.batch.micro_batches * step for step in range(4)]

    for lost in (run / "model", run / "checkpoints" / "step_00000004"):
        shutil.rmtree(lost)
    assert learned()[0] == numbers
    assert " fits in memory" not in capsys.readouterr().err  # it is not tried again
    resumed = load_file(run / "model" / "model.safetensors")
    assert resumed.keys() == model.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in model.items())
    assert getattr(training.read(run / "recipe.toml", ())[0].batch, key) == budget


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "not even a micro-batch of "),
        (
            ["engine.shard=2"],
            'batch.seconds: "auto" tries one device; a model that is sharded needs a number (segue es',
        ),
        (["engine.tensor_parallel=2"], 'batch.seconds: "auto" tries one device; a model that is sharded needs a num'),
    ],
)
def test_auto_that_cannot_work_is_one_clear_line(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(trials, "free_bytes", lambda device: -1.0)
    assert main(["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "batch.seconds=auto", *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *tries, mistake = err.splitlines()
    assert all(line.startswith("batch.seconds: tries ") for line in tries)
    assert mistake.startswith(f"segue: {message}")
    # Nothing was learned: the next try may say a number.
    assert main(["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "batch.seconds=3.0", "engine.steps=1"]) == 0


# --- The learning rate ---


class Point(NamedTuple):
    """A batch without data."""

    ids: list[str]


class Quadratic:
    """Loss a w^2 / 2 under gradient descent with noise, as of batches: it falls up to a learning rate of 2 / a."""

    micro_batches = 1
    engine = SimpleNamespace(workers=0)
    device = CPU
    phases = (SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.5)),)

    def __init__(self, curvature: float, bad: tuple[int, ...] = (), error: bool = True) -> None:
        self.curvature, self.weight, self.bad, self.error = curvature, 1.0, bad, error
        self.task = self.source = self.steps = self
        self.noise = np.random.default_rng(0).normal(0, 0.1, 100).tolist()

    def plan(self, split: str) -> Any:
        return SimpleNamespace(micro_batch=lambda number: SimpleNamespace(epoch=0, indices=np.array([number])))

    def load(self, split: str, micro_batch: Any) -> Point:
        return Point([str(micro_batch.indices[0])])

    def take(self, batches: list[Point], step: int, rate: float) -> Any:
        assert [batch.ids for batch in batches] == [[str(step)]]
        if step in self.bad:
            return SimpleNamespace(loss=0.0, is_empty=True)
        loss = self.curvature * self.weight**2 / 2
        if not math.isfinite(loss):
            if self.error:
                raise NotFiniteError("loss", loss)
            return SimpleNamespace(loss=loss, is_empty=False)
        self.weight -= rate * 0.5 * self.curvature * (self.weight + self.noise[step])
        return SimpleNamespace(loss=loss, is_empty=False)


def tried(toy: Quadratic, largest: float = 1.0) -> list[trials.Rate]:
    return list(trials.learning_rates(toy, 1e-6, largest, 100))  # type: ignore[arg-type]


@pytest.mark.parametrize("curvature", [10.0, 300.0, 1e4])
def test_suggested_rates_are_large_but_stable(curvature: float) -> None:
    rates = tried(Quadratic(curvature))
    assert rates[0].learning_rate == pytest.approx(1e-6)
    assert len(rates) < 100  # it broke, and stopped there
    assert rates[-1].smoothed > 4 * min(rate.smoothed for rate in rates)
    assert rates[-1].learning_rate > 2 / curvature
    suggested = trials.suggested(rates)
    assert 0.02 < suggested * curvature < 1  # 1 is at the minimum after one step, above 2 the weight grows


def test_a_slowly_falling_loss_does_not_mislead() -> None:
    """As of CTC under clipping, towards silence: it falls steeply once, at about 1e-3, and slowly for ever after."""
    losses = {10 ** (n / 10): 10 / (1 + 1000 * 10 ** (n / 10)) - 0.3 * n / 10 for n in range(-60, 1)}
    rates = [trials.Rate(rate, loss, loss) for rate, loss in losses.items()]
    assert min(rates, key=lambda each: each.loss).learning_rate == 1.0
    assert 0.5e-3 < trials.suggested(rates) < 2e-3


def test_where_no_loss_falls_no_rate_is_suggested() -> None:
    with pytest.raises(UserError, match=r"^the loss does not fall at any learning rate from 1 on$"):
        trials.suggested([trials.Rate(rate, rate, rate) for rate in (1.0, 2.0, 3.0)])


def test_losses_are_smoothed_without_a_bias_to_0() -> None:
    rates = tried(Quadratic(1e-9))  # it hardly moves
    assert len(rates) == 100
    assert [rate.smoothed for rate in rates] == pytest.approx([0.5e-9] * 100)
    assert rates[-1].learning_rate == pytest.approx(1.0)


def test_steps_without_good_examples_are_ignored() -> None:
    rates = tried(Quadratic(1e-9, bad=(0, 1, 7)))
    assert len(rates) == 97
    assert [rate.smoothed for rate in rates] == pytest.approx([0.5e-9] * 97)


@pytest.mark.parametrize("error", [True, False], ids=["float32", "float16"])
def test_a_loss_that_is_not_finite_ends_the_search(error: bool) -> None:
    toy = Quadratic(10.0, error=error)
    toy.weight = math.inf
    assert tried(toy) == []


@pytest.mark.slow
def test_suggested_rates_train_and_repeat(reversal_recipe: Path, tmp_path: Path) -> None:
    overrides = ("batch.tokens=256", *BRIEF)
    found = [
        training.learning_rates(reversal_recipe, overrides, smallest=1e-4, largest=10.0, num_steps=50) for _ in range(2)
    ]
    assert found[0] == found[1]
    rates, suggested = found[0]
    assert 1e-3 < suggested < 0.1
    words = (f"optimizer.learning_rate={suggested}", "engine.steps=60", "engine.log_every=60")
    segue.train(reversal_recipe, tmp_path / "run", *overrides, *words)
    (last,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert last["loss"] < 0.7 * rates[0].loss


def test_learning_rates_are_found_for_auto_batches(reversal_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one device, whatever layout was asked for."""
    monkeypatch.setattr(training, "_largest_budget", lambda *arguments: 256)
    layout = ("engine.data_parallel=4", "engine.tensor_parallel=2", "engine.offload=true")
    expected = training.learning_rates(reversal_recipe, ("batch.tokens=256",), smallest=1e-4, num_steps=12)
    found = training.learning_rates(reversal_recipe, ("batch.tokens=auto", *layout), smallest=1e-4, num_steps=12)
    assert found == expected


def test_a_never_finite_loss_is_an_error(reversal_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(trainer: Trainer, smallest: float, largest: float, num_steps: int) -> list[trials.Rate]:
        return []

    monkeypatch.setattr(trials, "learning_rates", broken)
    with pytest.raises(UserError, match=r"reversal.toml: the loss is not finite even at a learning rate of 1e-06"):
        training.learning_rates(reversal_recipe)
