"""One optimizer step: gradients that are not finite, when the loss is divided, what recomputing changes."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import sabotage
import torch
from ranks import RunRanks
from sabotage import call
from safetensors.torch import load_file
from torch import Tensor, nn

from segue import training
from segue.engine.distributed import parts
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.parallel import ALONE, Parallel
from segue.engine.distributed.watchdog import Watchdog
from segue.engine.optimizer import AdamWSection, LocalGroup
from segue.engine.precision import autocast
from segue.engine.schedule import ConstantSection
from segue.engine.settings import EngineSection
from segue.engine.step import Outcome, Steps
from segue.engine.task import LOSS, Batch, Phase, Term
from segue.engine.trainer import Trainer
from segue.errors import UserError

# A second residual block: the list of inputs that dense residuals add grows while the model runs.
DENSE = (
    "model.blocks=[{ channels = 8, kernel = 5, stride = 2, has_residual = false, dropout = 0.2 }, "
    "{ channels = 8, kernel = 5, repeats = 2, dropout = 0.2 }, { channels = 8, kernel = 3, dropout = 0.2 }]"
)
DROPOUT = ("model.dropout=0.2", "model.attention_dropout=0.1", "model.feed_forward_dropout=0.1")
BRIEF = ("search.longest_factor=0.1", "search.longest_extra=1", "batch.tokens=100")
"""Evaluations of models that have learned nothing."""


def built(recipe: Path, run: Path, *overrides: str) -> Trainer:
    section, module = training.read(recipe, overrides)
    run.mkdir(exist_ok=True)
    section, source = module.build_source(section, run, ALONE)
    trainer = training._trainer(section, source, module.build_task(section, source), run, ALONE)
    trainer._evaluate_and_keep = dict  # type: ignore[method-assign]
    return trainer


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def spoil(trainer: Trainer, micro_batch: int, factor: float) -> None:
    """The loss of one micro-batch of the run is so many times as large."""
    loss, calls = trainer.task.loss, iter(range(10**6))

    def spoiled(model: nn.Module, batch: Any, phase: str) -> dict[str, Term]:
        found = loss(model, batch, phase)[LOSS]
        return {LOSS: found._replace(total=found.total * (factor if next(calls) == micro_batch else 1.0))}

    trainer.task.loss = spoiled  # type: ignore[method-assign]


def after_each_step(trainer: Trainer, act: Callable[[], None]) -> None:
    take_step = trainer._take_step

    def watched(batches: list[Batch], is_asked_to_stop: bool) -> tuple[Outcome, dict[str, Any]]:
        taken = take_step(batches, is_asked_to_stop)
        act()
        return taken

    trainer._take_step = watched  # type: ignore[method-assign]


# --- Gradients that are not finite ---


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_float16_overflow_changes_only_the_scale(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], micro_batches: int
) -> None:
    plain = ("engine.precision=float16", "engine.steps=4", "engine.log_every=99", "engine.average_count=0")
    overrides = (*plain, f"batch.micro_batches={micro_batches}")
    trainer = built(tiny_recipe, tmp_path / "run", *overrides)
    states: list[dict[str, Tensor]] = []

    def note() -> None:
        state = {f"{of}.{name}": each for of, part in trainer._state().items() for name, each in part.items()}
        states.append({name: tensor.clone() for name, tensor in state.items()})

    note()
    after_each_step(trainer, note)
    spoil(trainer, micro_batch=2 * micro_batches - 1, factor=1e8)  # the last of step 2
    trainer.train()
    assert any("average." in name for name in states[0])
    assert any("optimizer." in name for name in states[0])
    assert any("running_mean" in name for name in states[0])
    changed = [
        {name for name in before if not torch.equal(before[name], after[name])} for before, after in pairwise(states)
    ]
    assert changed[1] == set()
    assert changed[0] == changed[2] == changed[3] == set(states[0])
    assert trainer.step == 4  # it counts
    skipped, last = records(tmp_path / "run")  # logged although it was not its turn
    assert {name: skipped[name] for name in ("step", "is_skipped", "loss_scale")} == {
        "step": 2,
        "is_skipped": True,
        "loss_scale": 2.0**14,
    }
    assert "loss" not in skipped
    assert "gradient_norm" not in skipped
    assert (last["step"], last["loss_scale"]) == (4, 2.0**13)
    assert "warning: steps skipped because their gradients were not finite in float16: 1" in capsys.readouterr().err
    resumed = built(tiny_recipe, tmp_path / "run", *overrides)
    (work,) = resumed.steps.works
    assert work.scale is not None
    assert (resumed.step, work.scale.value, resumed._num_overflows) == (4, 2.0**13, 1)


@pytest.mark.parametrize("number_format", ["float32", "bfloat16"])
def test_other_formats_stop_at_a_nonfinite_loss(tiny_recipe: Path, tmp_path: Path, number_format: str) -> None:
    trainer = built(tiny_recipe, tmp_path / "run", f"engine.precision={number_format}", "engine.log_every=1")
    spoil(trainer, micro_batch=3, factor=torch.inf)
    with pytest.raises(UserError, match=r"step 2: the loss is inf; .*replay_step_00000002.safetensors takes it again"):
        trainer.train()
    assert [record["step"] for record in records(tmp_path / "run")] == [1]


def test_endless_float16_overflow_stops_the_run(tiny_recipe: Path, tmp_path: Path) -> None:
    """The message gives the reason."""
    small = ('engine.loss_scaling.kind="backoff"', "engine.loss_scaling.maximum=4.0")
    trainer = built(tiny_recipe, tmp_path / "run", "engine.precision=float16", "engine.log_every=1", *small)
    trainer.task.loss = lambda model, *_: {LOSS: Term(sum(p.sum() for p in model.parameters()) * torch.inf)}  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"^engine\.loss_scaling: .* smallest loss scale \(1\)"):
        trainer.train()
    assert [(each["step"], each["loss_scale"]) for each in records(tmp_path / "run")] == [(1, 4.0), (2, 2.0)]


# --- When it divides ---


class Inputs(NamedTuple):
    inputs: Tensor
    ids: tuple[str, ...] = ("all",)
    num_skipped: int = 0
    amount: float = 1.0


def test_float16_loss_is_divided_before_backward(tmp_path: Path) -> None:
    """So 20,000 targets do not overflow."""
    model = nn.Linear(1, 1, bias=False)
    engine = EngineSection(steps=1, precision="float16")
    batch = Inputs(torch.ones(20_000, 1))

    def loss(model: nn.Module, batch: Any, phase: str = "") -> dict[str, Term]:
        return {LOSS: Term(model(batch.inputs).float().sum())}

    phase = Phase("", "", AdamWSection(kind="adamw", learning_rate=0.1), ConstantSection(kind="constant"))
    task: Any = SimpleNamespace(loss=loss, counts=lambda batch: {"targets": len(batch.inputs)}, phases=(phase,))
    cpu = torch.device("cpu")
    parallel = Parallel(ALONE, Layout(1, 1, 1), cpu)
    source: Any = None
    steps = Steps(task, source, model, model, parallel, engine, 1, 0, Watchdog(tmp_path, ALONE, 99.0))
    outcome = steps.take([batch], 0, 1.0)  # type: ignore[list-item]
    assert outcome.is_updated
    assert outcome.numbers["gradient_norm"] == pytest.approx(1.0, rel=1e-2)  # each target's gradient is 1
    with autocast("float16", cpu):
        total = loss(model, batch)[LOSS].total
    (total * 2.0**14).backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None
    assert not model.weight.grad.isfinite().all()


# --- Recomputation and compilation ---


def taken(trainer: Trainer, num_steps: int) -> tuple[list[float], list[Tensor], dict[str, Tensor]]:
    """Losses, gradients of every step, and the model in the end."""
    losses, gradients = list[float](), list[Tensor]()
    updater = trainer.steps.works[0].updater
    update = updater.step

    def note(rate: float, step: int = 0, groups: Sequence[LocalGroup] | None = None) -> None:
        gradients.extend(p.grad.clone() for p in updater.parameters if p.grad is not None)
        update(rate, step, groups)

    updater.step = note  # type: ignore[method-assign]
    size, plan = trainer.micro_batches, trainer.source.plan("train")
    for step in range(num_steps):
        batches = [trainer.source.load("train", plan.micro_batch(step * size + n)) for n in range(size)]
        losses.append(trainer.steps.take(batches, step, 0.5).loss)
    return losses, gradients, trainer.model.state_dict()


CASES = {
    "speech": (DENSE,),
    "speech, 1 micro-batch": (DENSE, "batch.micro_batches=1"),
    "speech, float16": (DENSE, "engine.precision=float16"),
    "translation": DROPOUT,
}


@pytest.mark.parametrize("name", CASES)
def test_recomputing_changes_no_number(tiny_recipe: Path, reversal_recipe: Path, tmp_path: Path, name: str) -> None:
    """No loss, gradient or statistic."""
    recipe = tiny_recipe if "speech" in name else reversal_recipe
    plain, recomputed = (
        taken(built(recipe, tmp_path / does, f"engine.recompute={does}", *CASES[name]), 2) for does in ("false", "true")
    )
    assert recomputed[0] == plain[0]
    assert len(plain[1]) == 2 * sum(1 for key in plain[2] if "weight" in key or "bias" in key)
    for ours, expected in zip(recomputed[1], plain[1], strict=True):
        assert torch.equal(ours, expected)
    assert recomputed[2].keys() == plain[2].keys()
    for key, expected in plain[2].items():
        assert torch.equal(recomputed[2][key], expected), key


# Without dropout: compiled code draws its own random numbers.
PLAIN = "model.blocks=[{ channels = 8, kernel = 3, stride = 2, has_residual = false }, { channels = 8, kernel = 3 }]"


@pytest.mark.slow  # torch.compile takes minutes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["speech", "translation", "language"])
def test_a_compiled_model_has_the_same_losses(
    tiny_recipe: Path, reversal_recipe: Path, language_recipe: Path, tmp_path: Path, name: str
) -> None:
    recipe, overrides = {
        "speech": (tiny_recipe, (PLAIN, "batch.micro_batches=1")),
        "translation": (reversal_recipe, ("model.encoder_layers=1", *BRIEF)),
        "language": (language_recipe, ("model.layers=1",)),
    }[name]
    plain, compiled = (
        taken(built(recipe, tmp_path / does, f"engine.compile={does}", *overrides), 2)[0] for does in ("false", "true")
    )
    assert compiled == pytest.approx(plain, rel=1e-4)


# --- On ranks ---

# The second micro-batch of step 3.
HUGE_LOSS = call(sabotage.overflow_on_last_rank, {"1": 5, "2": 2})
LAYOUTS = {"alone": (1, 1), "2 copies": (2, 1), "2 shards": (1, 2), "2 shards, recomputed": (1, 2)}


@pytest.fixture(scope="module")
def runs(
    tiny_recipe: Path, recipe: Path, run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A folder with runs, and what they said."""
    folder = tmp_path_factory.mktemp("steps")
    speech = ("engine.precision=float16", "engine.steps=4", "engine.average_count=0", DENSE)
    translation = ("engine.steps=2", "batch.micro_batches=2", *DROPOUT, *BRIEF)
    commands = []
    for name, (copies, shards) in LAYOUTS.items():
        layout = [f"engine.data_parallel={copies}", f"engine.shard={shards}", "engine.log_every=1"]
        layout += ["engine.recompute=true"] if "recomputed" in name else []
        commands.append(
            (copies * shards, ["train", tiny_recipe, "--out", folder / f"speech, {name}", *layout, *speech])
        )
        if shards > 1:
            run = folder / f"translation, {name}"
            commands.append((2, ["train", recipe, "--out", run, *layout, *translation]))
    statuses, said = run_ranks(commands, HUGE_LOSS)
    assert [set(each) for each in statuses] == [{0}] * len(commands), said
    return folder, said


@pytest.mark.parametrize("name", LAYOUTS)
def test_where_one_rank_overflows_all_skip_the_step(runs: tuple[Path, list[str]], name: str) -> None:
    alone, found = (records(runs[0] / f"speech, {each}") for each in ("alone", name))
    assert [each["step"] for each in found] == [1, 2, 3, 4]
    assert [each.get("is_skipped", False) for each in found] == [False, False, True, False]
    assert [each["loss_scale"] for each in found] == [2.0**14] * 3 + [2.0**13]
    assert "loss" not in found[2]
    for step in (0, 1, 3):
        assert found[step]["loss"] == pytest.approx(alone[step]["loss"], rel=1e-3)  # of float16: 2^-11 is 5e-4


def test_skipped_steps_are_counted_in_one_warning(runs: tuple[Path, list[str]]) -> None:
    warning = "warning: steps skipped because their gradients were not finite in float16: 1"
    assert runs[1].count(warning) == len(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_batch_norm_counts_batches_of_all_ranks(runs: tuple[Path, list[str]], name: str) -> None:
    model = load_file(runs[0] / f"speech, {name}" / "model" / "model.safetensors")
    counters = {tensor.item() for key, tensor in model.items() if key.endswith("num_batches_tracked")}
    assert counters == {2 * 3}  # 2 in each step that was not skipped


@pytest.mark.parametrize("task", ["speech", "translation"])
def test_recomputing_changes_no_sharded_step(runs: tuple[Path, list[str]], task: str) -> None:
    plain, recomputed = (runs[0] / f"{task}, {name}" for name in ("2 shards", "2 shards, recomputed"))
    for ours, expected in zip(records(recomputed), records(plain), strict=True):
        for key in ("loss", "gradient_norm", "is_skipped"):
            assert ours.get(key) == expected.get(key)
    ours, expected = (load_file(run / "model" / "model.safetensors") for run in (recomputed, plain))
    assert ours.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(ours[key], tensor), key


def test_norms_of_large_tensors_are_exact() -> None:
    """In float32 the squares of so many numbers, added one after the other, would lose a quarter of a percent."""
    numbers = torch.randn(5000, 8001, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.vector_norm(numbers, dtype=torch.float64).item()
    assert parts.whole_norms([numbers], [numbers]).item() == pytest.approx(exact, rel=1e-6)
