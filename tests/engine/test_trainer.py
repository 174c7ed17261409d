"""The one loop, on a toy task: a small network fits numbers. Batches are tiny, so that every claim can be computed."""

import errno
import gc
import json
import os
import shutil
import signal
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

import segue
from segue.engine import memory
from segue.engine.distributed.parallel import choose_device
from segue.engine.optimizer import AdamWSection, LocalGroup
from segue.engine.schedule import ConstantSection
from segue.engine.settings import EngineSection
from segue.engine.step import Outcome
from segue.engine.task import LOSS, Batch, Phase, Split, Term
from segue.engine.trainer import Result, Trainer
from segue.errors import UserError

NUM_EXAMPLES = 12


class ToyMicroBatch(NamedTuple):
    epoch: int
    indices: NDArray[np.int64]


class ToyPlan:
    """Examples in order, `size` at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.num_micro_batches = NUM_EXAMPLES // size

    def micro_batch(self, number: int) -> ToyMicroBatch:
        epoch, position = divmod(number, self.num_micro_batches)
        return ToyMicroBatch(epoch, np.arange(position * self.size, (position + 1) * self.size))

    def heaviest(self) -> tuple[int, ...]:
        raise NotImplementedError


class ToyBatch(NamedTuple):
    ids: list[str]
    inputs: Tensor
    """(examples, 3)"""
    num_targets: Tensor
    """(examples) how often each example's error counts"""
    num_skipped: int = 0

    @property
    def amount(self) -> float:
        return float(len(self.ids))


class Guess(NamedTuple):
    id: str
    value: float


class ToyTask:
    """Numbers from numbers, and their source.

    `scores` are those of the evaluations to come, some with a loss, and `bad` the examples that are left out.
    """

    unit = "examples"
    phases = (Phase("", "", AdamWSection(kind="adamw", learning_rate=0.01), ConstantSection(kind="constant")),)

    def __init__(
        self,
        model: nn.Module,
        size: int,
        scores: Sequence[float | tuple[float, float]] = (),
        bad: Sequence[int] = (),
        direction: Literal["min", "max"] = "min",
    ) -> None:
        self.model, self.size, self.bad = model, size, bad
        self.scores = list(scores)
        self.best_metric: tuple[str, Literal["min", "max"]] = ("squared_error", direction)
        draw = np.random.default_rng(0)
        self.inputs = torch.from_numpy(draw.standard_normal((NUM_EXAMPLES, 3), dtype=np.float32))
        self.num_targets_of = torch.from_numpy(draw.integers(1, 9, NUM_EXAMPLES))

    def build_model(self) -> nn.Module:
        return self.model

    def plan(self, split: Split) -> ToyPlan:
        return ToyPlan(self.size)

    def budgets(self) -> tuple[float, float]:
        raise NotImplementedError

    def with_budget(self, budget: float) -> Self:
        raise NotImplementedError

    def load(self, split: Split, micro_batch: ToyMicroBatch) -> ToyBatch:
        good = [index for index in micro_batch.indices.tolist() if index not in self.bad]
        num_skipped = len(micro_batch.indices) - len(good)
        return ToyBatch([f"example_{n}" for n in good], self.inputs[good], self.num_targets_of[good], num_skipped)

    def counts(self, batch: ToyBatch) -> dict[str, float]:
        return {"targets": int(batch.num_targets.sum()), "examples": len(batch.ids)}

    def loss(self, model: nn.Module, batch: ToyBatch, phase: str) -> dict[str, Term]:
        errors = (model(batch.inputs).sum(dim=1) - batch.inputs.prod(dim=1)).square() * batch.num_targets
        largest = batch.inputs.abs().max(dim=1).values
        return {LOSS: Term(errors.sum()), "largest": Term(largest.sum(), "examples", weight=0.0)}

    def predict(self, model: nn.Module, batch: ToyBatch, any_rank: Callable[[bool], bool] | None = None) -> list[Guess]:
        assert not model.training
        return [Guess(*row) for row in zip(batch.ids, model(batch.inputs).sum(dim=1).tolist(), strict=True)]

    def score(self, predictions: Sequence[Guess]) -> dict[str, float]:
        assert [guess.id for guess in predictions] == [f"example_{n}" for n in range(NUM_EXAMPLES)]
        found = self.scores.pop(0) if self.scores else 0.0
        return {"squared_error": found[0], "loss": found[1]} if isinstance(found, tuple) else {"squared_error": found}

    def fingerprint(self) -> str:
        return "toy"

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        (folder / "scores.json").write_text(json.dumps(scores))


def around_update(training: Trainer, before: Callable[[], Any] = int, after: Callable[[], Any] = int) -> None:
    """Acts before and after each update of the weights."""
    updater = training.steps.works[0].updater
    take = updater.step

    def watched(rate: float, step: int = 0, groups: Sequence[LocalGroup] | None = None) -> None:
        before()
        take(rate, step, groups)
        after()

    updater.step = watched  # type: ignore[method-assign]


def network(*, has_batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(1)
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if has_batch_norm else []
    return nn.Sequential(nn.Linear(3, 8), *middle, nn.Tanh(), nn.Linear(8, 1))


def trainer(task: ToyTask, run: Path, micro_batches: int = 1, **engine: Any) -> Trainer:
    given = {"log_every": 1, "evaluate_every": 100, "save_every": 100, "device": "cpu", "threads": 1, "workers": 0}
    return Trainer(task, task, run, EngineSection(**{"steps": 4, **given, **engine}), micro_batches, seed=0)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_micro_batches_equal_one_big_batch(tmp_path: Path) -> None:
    trained = []
    for size, micro_batches in ((6, 1), (2, 3)):
        task = ToyTask(network(), size)
        trainer(task, tmp_path / f"{micro_batches}", micro_batches, clip_norm=0.5).train()
        trained.append(dict(task.model.state_dict()))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-5, atol=1e-6)
    for key in ("loss", "largest", "gradient_norm", "epoch"):
        of_one, of_many = ([record[key] for record in records(tmp_path / name)] for name in ("1", "3"))
        assert of_one == pytest.approx(of_many, rel=1e-5), key


def test_garbage_collection_skips_imported_objects(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage is collected once before; what importing left is frozen while the run lasts."""
    monkeypatch.setattr(memory, "_is_aside", False)  # that of the whole session
    request.addfinalizer(gc.freeze)
    training = trainer(ToyTask(network(), 2), tmp_path)
    garbage = network()
    vars(garbage)["itself"] = [garbage]
    its_weight = weakref.ref(garbage.get_parameter("0.weight"))
    del garbage
    found: list[tuple[int, object]] = []
    around_update(training, before=lambda: found.append((gc.get_freeze_count(), its_weight())))
    request.addfinalizer(gc.enable)
    gc.disable()
    training.train()
    assert min(count for count, _ in found) > 10_000
    assert {weight for _, weight in found} == {None}  # it would have stayed
    assert gc.get_freeze_count() == 0


def test_a_training_leaves_frozen_what_others_froze(tmp_path: Path) -> None:
    with memory.old_objects_aside():
        before = gc.get_freeze_count()
        trainer(ToyTask(network(), 2), tmp_path).train()
        assert gc.get_freeze_count() > before / 2 > 5_000  # some have been deleted


def test_loss_is_divided_by_targets_of_the_step(tmp_path: Path) -> None:
    task = ToyTask(network(), 2)
    with torch.no_grad():
        errors = (task.model(task.inputs[:6]).sum(dim=1) - task.inputs[:6].prod(dim=1)).square()
    repeats = task.num_targets_of[:6]
    trainer(task, tmp_path, micro_batches=3, steps=1).train()
    assert records(tmp_path)[0]["loss"] == pytest.approx(((errors * repeats).sum() / repeats.sum()).item(), rel=1e-5)


def test_batch_norm_averages_over_micro_batches(tmp_path: Path) -> None:
    # Micro-batches of 4; the second is all bad and counts for nothing.
    model = nn.BatchNorm1d(3, affine=False)
    model.register_parameter("unused", nn.Parameter(torch.ones(1)))
    task = ToyTask(nn.Sequential(nn.Identity(), model, nn.Linear(3, 1)), 4, bad=[4, 5, 6, 7])
    first, last = task.inputs[:4], task.inputs[8:]
    training = trainer(task, tmp_path, micro_batches=3, steps=1)
    training._evaluate_and_keep = dict  # type: ignore[method-assign]
    training.train()
    mean, variance = (first.mean(dim=0) + last.mean(dim=0)) / 2, (first.var(dim=0) + last.var(dim=0)) / 2
    torch.testing.assert_close(model.running_mean, 0.1 * mean)
    torch.testing.assert_close(model.running_var, 0.9 + 0.1 * variance)


def test_the_whole_gradient_is_clipped(tmp_path: Path) -> None:
    task = ToyTask(network(), 6)
    training = trainer(task, tmp_path, clip_norm=0.01)
    seen = []
    around_update(
        training,
        before=lambda: seen.append(
            torch.nn.utils.get_total_norm(p.grad for p in task.model.parameters() if p.grad is not None).item()
        ),
    )
    training.train()
    assert seen == pytest.approx([0.01] * 4, rel=1e-4)
    assert all(record["gradient_norm"] > 0.01 for record in records(tmp_path))  # logged as it was


def test_a_gradient_below_the_bound_stays_as_it_is(tmp_path: Path) -> None:
    seen: dict[float, list[list[float]]] = {}
    for bound in (0.0, 1e6):
        task, gradients = ToyTask(network(), 6), list[list[float]]()
        options: dict[str, Any] = {"clip_norm": bound} if bound else {}
        training = trainer(task, tmp_path / str(bound), **options)

        def note(task: ToyTask = task, gradients: list[list[float]] = gradients) -> None:
            gradients.append([p.grad.norm().item() for p in task.model.parameters() if p.grad is not None])

        around_update(training, before=note)
        training.train()
        seen[bound] = gradients
    assert len(seen[0.0]) == 4
    assert seen[0.0] == seen[1e6]


class Broken(nn.Module):
    """(examples, 3) -> (examples, 1); a micro-batch with the bad example has no finite loss, or gradient."""

    def __init__(self, bad: Tensor, *, has_finite_loss: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.bad, self.has_finite_loss = bad, has_finite_loss

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.linear(inputs)
        if not (inputs == self.bad).all(dim=1).any():
            return found
        return found + (0 * found).sqrt() if self.has_finite_loss else found * torch.inf  # a root is steep at 0


@pytest.mark.parametrize("has_finite_loss", [False, True], ids=["loss", "gradient"])
def test_nonfinite_loss_or_gradient_stops_the_run(tmp_path: Path, has_finite_loss: bool) -> None:
    """The message names the examples."""
    task = ToyTask(network(), 2)
    task.model = Broken(task.inputs[9], has_finite_loss=has_finite_loss)
    training = trainer(task, tmp_path, micro_batches=3, save_every=1)
    with pytest.raises(
        UserError, match=r"step 2: the .* is (inf|nan); .* example_6, .* example_11 .segue train --replay"
    ):
        training.train()
    assert all(value.isfinite().all() for value in task.model.state_dict().values())
    assert [record["step"] for record in records(tmp_path)] == [1]
    assert trainer(task, tmp_path).step == 1


@pytest.mark.parametrize(
    ("direction", "scores", "best"),
    [
        ("min", [5.0, 3.0, 4.0, 3.5], 2),
        ("max", [5.0, 6.0, 4.0, 3.5], 2),
        ("min", [5.0, 3.0, 3.0, 3.5], 3),  # of equals, the one that has learned for longer
        ("min", [float("nan"), 3.0, float("nan"), 4.0], 2),
    ],
)
def test_the_best_evaluation_is_what_is_kept(
    tmp_path: Path, direction: Literal["min", "max"], scores: list[float], best: int
) -> None:
    task = ToyTask(network(), 4, scores, direction=direction)
    training = trainer(task, tmp_path, evaluate_every=1)
    weights = []
    around_update(
        training, after=lambda: weights.append({name: value.clone() for name, value in task.model.state_dict().items()})
    )
    result = training.train()
    assert result.best == (best, scores[best - 1])
    torch.testing.assert_close(load_file(tmp_path / "model" / "model.safetensors"), weights[best - 1], rtol=0, atol=0)
    assert json.loads((tmp_path / "model" / "scores.json").read_text()) == {"squared_error": scores[best - 1]}
    assert [record["dev"]["squared_error"] for record in records(tmp_path)] == pytest.approx(scores, nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(1.0, 3.0), (1.0, 2.0), (1.0, 4.0)], 2),
        ([(1.0, 3.0), (1.0, 3.0)], 2),  # equal in all: the later weights have learned for longer
        ([(1.0, 1.0), (0.5, 9.0), (0.7, 0.0)], 2),
        ([(1.0, float("nan")), (1.0, 2.0), (1.0, 3.0)], 2),
    ],
)
def test_equal_scores_are_decided_by_the_loss(tmp_path: Path, scores: list[tuple[float, float]], best: int) -> None:
    for steps in (len(scores) - 1, len(scores)):  # also where the last comes after a resume
        result = trainer(ToyTask(network(), 4, scores), tmp_path, steps=steps, evaluate_every=1).train()
        scores = scores[steps:]
    assert result.best is not None
    assert result.best.step == best


def patient(run: Path, scores: Sequence[float], **engine: Any) -> Result:
    return trainer(
        ToyTask(network(), 4, scores), run, **{"steps": 20, "evaluate_every": 2, "patience": 2, **engine}
    ).train()


def test_patience_ends_a_run_that_stalls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = patient(tmp_path, [3.0, 2.0, 2.5, 1.0, 4.0, 3.0, 0.5])
    assert (result.step, result.best) == (12, (8, 1.0))
    assert records(tmp_path)[-1]["is_last"]
    assert "step 12: the last 2 evaluations were not better than the best" in capsys.readouterr().err
    assert patient(tmp_path, []) == result  # finished: nothing is evaluated again
    assert f"{tmp_path}: finished at step 12 of 20; nothing is left to train" in capsys.readouterr().err
    assert len(records(tmp_path)) == 12


def terminate(is_time: bool) -> None:
    """Signals this process."""
    if is_time:
        os.kill(os.getpid(), signal.SIGTERM)


def signaled(training: Trainer, at: int) -> Result:
    """Stopped by a signal in step `at`."""
    around_update(training, after=lambda: terminate(training.step == at - 1))
    return training.train()


def test_patience_survives_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.engine.trainer._SAME_SIGNAL_SECONDS", 0)
    scores, step = [3.0, 2.0, 2.5, 1.0, 4.0, 3.0, 0.5], 0
    for stop in (5, 7, 11, 20):
        training = trainer(ToyTask(network(), 4, scores[step // 2 :]), tmp_path, steps=20, evaluate_every=2, patience=2)
        result = signaled(training, stop)
        step = result.step
        assert (result.signal is None) == (stop == 20)
    assert (result.step, result.best) == (12, (8, 1.0))


def test_equal_scores_are_kept_and_cost_patience(tmp_path: Path) -> None:
    assert patient(tmp_path, [1.0] * 9)[:2] == (6, (6, 1.0))


def test_early_stopping_still_ships_the_average(tmp_path: Path) -> None:
    result = patient(tmp_path, [1.0, 2.0, 3.0, 1.5], average_count=2)
    assert (result.step, result.best) == (6, (6, 1.5))
    assert records(tmp_path)[-1]["averaged"] == {"squared_error": 1.5}


def test_a_finished_run_says_so_and_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = trainer(ToyTask(network(), 4), tmp_path).train()
    assert "finished" not in capsys.readouterr().err
    kept = {path: path.read_bytes() for name in ("*.json*", "model/*") for path in tmp_path.glob(name)}
    (tmp_path / "environment.json").write_text("of the training")
    assert trainer(ToyTask(network(), 4), tmp_path).train() == result
    assert f"{tmp_path}: finished at step 4; nothing is left to train\n" in capsys.readouterr().err
    assert (tmp_path / "environment.json").read_text() == "of the training"
    assert {path: path.read_bytes() for path in kept if path.name != "environment.json"} == {
        path: content for path, content in kept.items() if path.name != "environment.json"
    }
    trainer(ToyTask(network(), 4), tmp_path, steps=5).train()
    assert (tmp_path / "environment.json").read_bytes() != b"of the training"


class Told:
    """What a user writes who has an own way to watch trainings."""

    def __init__(self, run: Path, step: int, num_steps: int) -> None:
        self.calls: list[Any] = [(run, step, num_steps)]

    def __enter__(self) -> None:
        self.calls.append("begins")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: Any) -> None:
        self.calls.append(kind)

    def advance(self, step: int) -> None:
        self.calls.append(step)

    def write(self, record: dict[str, Any]) -> None:
        self.calls.append(record)

    def say(self, text: str) -> None:
        if "parameters" not in text:
            self.calls.append(text)


def told(run: Path, *, steps: int = 4) -> Told:
    """After a training with it."""
    made: list[Told] = []

    def make(*arguments: Any) -> Told:
        made.append(Told(*arguments))
        return made[0]

    training = trainer(ToyTask(network(), 4), run, steps=steps, log_every=2)
    training._loggers = [make]
    training.train()
    return made[0]


def test_a_users_logger_gets_what_the_log_gets(tmp_path: Path) -> None:
    calls = told(tmp_path).calls
    assert calls == [(tmp_path, 0, 4), "begins", 1, 2, records(tmp_path)[0], 3, 4, records(tmp_path)[1], None]
    assert told(tmp_path, steps=6).calls[0] == (tmp_path, 4, 6)


def test_a_logger_that_fails_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Told, "write", fails)
    assert told(tmp_path).calls == [(tmp_path, 0, 4), "begins", 1, 2]
    assert len(records(tmp_path)) == 2
    assert capsys.readouterr().err.count("warning: Told: ZeroDivisionError: ; this logger is dropped\n") == 1


def test_a_resumed_run_keeps_its_best_model(tmp_path: Path) -> None:
    trainer(ToyTask(network(), 4, [1.0]), tmp_path, steps=4).train()
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert trainer(ToyTask(network(), 4, [5.0]), tmp_path, steps=8).train().best == (4, 1.0)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_the_moving_average_is_evaluated_and_kept(tmp_path: Path) -> None:
    task = ToyTask(network(has_batch_norm=True), 4)
    training = trainer(task, tmp_path, moving_average_decay=0.9)
    training.train()
    assert training.average is not None
    kept = load_file(tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(kept, training.average.tensors, rtol=0, atol=0)
    assert not torch.equal(kept["0.weight"], task.model.state_dict()["0.weight"])


@pytest.mark.parametrize("score_of_average", [1.0, 3.0])
def test_a_requested_average_is_always_kept(tmp_path: Path, score_of_average: float) -> None:
    """Whatever single evaluations scored."""
    task = ToyTask(network(), 4, [4.0, 3.0, 2.0, 2.5, score_of_average])
    training = trainer(task, tmp_path, evaluate_every=1, average_count=3)
    weights = []
    around_update(training, after=lambda: weights.append(task.model.get_parameter("0.weight").detach().clone()))
    result = training.train()
    expected = torch.stack(weights[1:]).mean(dim=0)
    torch.testing.assert_close(load_file(tmp_path / "model" / "model.safetensors")["0.weight"], expected)
    assert records(tmp_path)[-1]["averaged"] == {"squared_error": score_of_average}
    assert result.best is not None
    assert result.best.score == score_of_average


def test_each_logged_step_is_one_line(tmp_path: Path) -> None:
    trainer(ToyTask(network(), 4), tmp_path, steps=11, log_every=3, evaluate_every=5).train()
    found = records(tmp_path)
    assert [record["step"] for record in found] == [3, 5, 6, 9, 10, 11]
    assert [record["step"] for record in found if "dev" in record] == [5, 10, 11]
    assert all({"loss", "epoch", "learning_rate", "gradient_norm", "rate", "time"} <= record.keys() for record in found)


def test_resuming_truncates_the_log(tmp_path: Path) -> None:
    """What was logged after the checkpoint is cut off."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = ToyTask(network(), 4)
    training = trainer(task, tmp_path, steps=9, save_every=4)
    training._evaluate_and_keep = lambda: 1 / 0  # type: ignore[method-assign,return-value,assignment]
    with pytest.raises(ZeroDivisionError):
        training.train()  # logged up to step 8, and saved
    (tmp_path / "checkpoints" / "step_00000008").rename(tmp_path / "lost")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # killed while writing
    trainer(task, tmp_path, steps=9).train()
    assert [record["step"] for record in records(tmp_path)] == list(range(1, 10))
    drawn = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in drawn.Scalars("loss")] == list(range(1, 10))


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_lost_model_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    for steps, scores in ((4, [1.0]), (4, [2.0]), (8, [5.0])):  # begun, finished already, gone on with
        result = trainer(ToyTask(network(), 4, scores), tmp_path, steps=steps).train()
        said = capsys.readouterr().err
        assert (f"warning: {weights}: missing or damaged; the next evaluation writes it again\n" in said) == (
            scores != [1.0]
        )
        assert result.best == (steps, scores[0])
        assert load_file(weights)
        if damage == "missing":
            shutil.rmtree(tmp_path / "model")
        else:
            weights.write_bytes(weights.read_bytes()[:-1])
    assert [record["step"] for record in records(tmp_path)] == list(range(1, 9))


def fails(*_: object, **__: object) -> dict[str, float]:
    raise ZeroDivisionError


def test_a_lost_average_is_made_after_a_crash_too(tmp_path: Path) -> None:
    """A run that dies while it makes its average again is not finished."""
    weights, options = tmp_path / "model" / "model.safetensors", {"steps": 4, "evaluate_every": 2, "average_count": 2}
    assert trainer(ToyTask(network(), 4, [3.0, 2.0, 1.0]), tmp_path, **options).train().best == (4, 1.0)
    average = weights.read_bytes()
    weights.unlink()
    dying = trainer(ToyTask(network(), 4, [2.0]), tmp_path, **options)
    dying._average_and_keep = fails  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        dying.train()
    assert weights.read_bytes() != average
    assert trainer(ToyTask(network(), 4, [2.0, 1.0]), tmp_path, **options).train().best == (4, 1.0)
    assert weights.read_bytes() == average


def test_a_best_score_without_model_is_forgotten(tmp_path: Path) -> None:
    trainer(ToyTask(network(), 4, [1.0, 5.0]), tmp_path, steps=4, evaluate_every=2).train()
    shutil.rmtree(tmp_path / "model")
    dying = trainer(ToyTask(network(), 4, [7.0]), tmp_path, steps=8, evaluate_every=2)
    around_update(dying, after=lambda: fails() if dying.step == 6 else None)
    with pytest.raises(ZeroDivisionError):
        dying.train()  # at step 7; the model of step 6 is written, and nothing saved since step 4
    result = trainer(ToyTask(network(), 4, [7.0, 8.0]), tmp_path, steps=8, evaluate_every=2).train()
    assert result.best == (6, 7.0)


def test_without_snapshots_the_best_model_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = trainer(ToyTask(network(), 4, [1.0, 2.0]), tmp_path, steps=4, evaluate_every=2, average_count=2)
    training.snapshots.average = lambda model: None  # type: ignore[method-assign]
    assert training.train().best == (2, 1.0)
    assert "averaged" not in records(tmp_path)[-1]
    assert "warning: nothing is left to average; the model stays that of the best evaluation" in capsys.readouterr().err


def test_damaged_log_lines_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(ToyTask(network(), 4), tmp_path, steps=6).train()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1:4] = [b"\xff", b"[2]", b"{}"]
    path.write_bytes(b"\n".join(lines))
    trainer(ToyTask(network(), 4), tmp_path, steps=8).train()
    assert [record["step"] for record in records(tmp_path)] == [1, 5, 6, 7, 8]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert said == [f"warning: {path}:{number}: damaged: not the numbers of a step; dropped" for number in (2, 3, 4)]


def test_a_full_disk_only_ends_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "flush", full)
    assert trainer(ToyTask(network(), 4), tmp_path, steps=4).train().step == 4
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    folder = tmp_path / "tensorboard"
    assert said == [f"warning: {folder}: No space left on device; nothing more is written there"]


def test_bad_examples_are_counted_over_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ToyTask(network(), 4, bad=[5])
    task.score = lambda predictions: {"squared_error": 0.0}  # type: ignore[method-assign]
    trainer(task, tmp_path, steps=4).train()
    trainer(task, tmp_path, steps=9).train()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    # Micro-batches 1, 4 and 7 hold the bad example.
    assert said == [
        "warning: 1 bad example was left out of the evaluation at step 4",
        "warning: 1 bad example was left out while training",
        "warning: 1 bad example was left out of the evaluation at step 9",
        "warning: 3 bad examples were left out while training",
    ]


def test_steps_without_good_examples_are_skipped(tmp_path: Path) -> None:
    """They update nothing, and the run goes on."""
    task = ToyTask(network(), 4, bad=[4, 5, 6, 7])
    task.score = lambda predictions: {"squared_error": 0.0}  # type: ignore[method-assign]
    training = trainer(task, tmp_path, steps=3, log_every=1)
    weights = []
    take_step = training._take_step

    def noted(batches: list[Batch], is_asked_to_stop: bool) -> tuple[Outcome, dict[str, Any]]:
        taken = take_step(batches, is_asked_to_stop)
        weights.append(task.model.get_parameter("0.weight").detach().clone())
        return taken

    training._take_step = noted  # type: ignore[method-assign]
    training.train()
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert ["loss" in record for record in records(tmp_path)] == [True, False, True]


def test_an_epoch_without_good_examples_stops(tmp_path: Path) -> None:
    task = ToyTask(network(), 4, bad=range(NUM_EXAMPLES))
    with pytest.raises(UserError, match="step 3: every example of the last epoch is bad"):
        trainer(task, tmp_path).train()


def test_kept_checkpoints_keep_their_snapshots(tmp_path: Path) -> None:
    """Averages need them after a resume from any checkpoint."""

    def train(scores: list[float]) -> Result:
        rhythm = {"steps": 8, "evaluate_every": 2, "save_every": 2, "keep_checkpoints": 3}
        task = ToyTask(network(), 4, scores)
        return trainer(task, tmp_path, **rhythm, average_count=2, average_by="best").train()

    train([2.0, 3.0, 0.1, 0.2, 1.0])
    for step in (6, 8):
        (tmp_path / "checkpoints" / f"step_0000000{step}" / "state.json").write_text("{}")
    # Resumed from step 4; this time, as on devices that are not exact, the later evaluations are worse.
    assert train([9.0, 9.0, 0.5]).best == (8, 0.5)
    snapshots = [load_file(tmp_path / "snapshots" / f"step_0000000{step}.safetensors")["0.weight"] for step in (2, 4)]
    kept = load_file(tmp_path / "model" / "model.safetensors")["0.weight"]
    torch.testing.assert_close(kept, (snapshots[0] + snapshots[1]) / 2)


def test_changed_training_data_are_refused(tmp_path: Path) -> None:
    task = ToyTask(network(), 4)
    trainer(task, tmp_path).train()
    task.fingerprint = lambda: "others"  # type: ignore[method-assign]
    with pytest.raises(UserError, match=f"{tmp_path}: the data changed since step 4"):
        trainer(task, tmp_path, steps=8)


def test_another_number_of_threads_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(ToyTask(network(), 4), tmp_path, threads=1).train()
    trainer(ToyTask(network(), 4), tmp_path, threads=2)
    assert "warning: 2 threads instead of 1: results may differ in the last bits" in capsys.readouterr().err


def test_a_signal_saves_and_ends_the_run(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    training = trainer(ToyTask(network(), 4), tmp_path, steps=9)
    around_update(training, after=lambda: terminate(training.step == 4))
    result = training.train()
    assert (result.step, result.signal, result.best) == (5, signal.SIGTERM, None)
    resumed = trainer(ToyTask(network(), 4), tmp_path, steps=9)
    assert resumed.step == 5
    assert resumed.train().signal is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_bfloat16_losses_are_near_float32(tiny_recipe: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        overrides = ("engine.steps=6", "engine.log_every=1", f"engine.precision={precision}")
        segue.train(tiny_recipe, tmp_path / precision, *overrides)
    exact, rounded = ([record["loss"] for record in records(tmp_path / name)] for name in ("float32", "bfloat16"))
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


def test_a_device_that_is_not_there_is_refused() -> None:
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(UserError, match=f"this machine has no {missing}; it has .*cpu"):
        choose_device(missing)
