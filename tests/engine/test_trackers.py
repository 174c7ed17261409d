"""Weights & Biases and MLflow beside the log: what they are given, with the packages where they are installed."""

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import segue
from segue.engine import trackers
from segue.engine.state.checkpoint import saved
from segue.errors import UserError

SMALL = (
    "engine.steps=4",
    "engine.log_every=2",
    "engine.evaluate_every=4",
    "engine.save_every=2",
    "engine.average_count=0",
)


def forget_last_steps(run: Path) -> None:
    """As after a kill: the newest checkpoint is older than what was told."""
    shutil.rmtree(saved(run / "checkpoints")[0][1])


class Metric(NamedTuple):
    """MLflow's."""

    key: str
    value: float
    timestamp: int
    step: int


class FakeMLflow:
    """As much of the package and of its server as a training needs; the batch of step `fails_at` is cut off once."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.told: list[Metric] = []
        self.fails_at = fails_at
        self.entities = SimpleNamespace(Metric=Metric)
        self.exceptions = SimpleNamespace(MlflowException=ConnectionError)

    def MlflowClient(self) -> "FakeMLflow":  # noqa: N802
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name)

    def create_run(self, experiment: str, run_name: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment}/{run_name}"))

    def log_param(self, *_: Any) -> None: ...

    def update_run(self, *_: Any, **__: Any) -> None: ...

    def set_terminated(self, *_: Any) -> None: ...

    def get_run(self, _: str) -> Any:
        return SimpleNamespace(data=SimpleNamespace(metrics={each.key: each.value for each in self.told}))

    def log_batch(self, _: str, metrics: list[Metric]) -> None:
        if metrics[0].step == self.fails_at:
            self.fails_at = None
            self.told += metrics[:-1]
            raise ConnectionError("cut off")
        self.told += metrics


class FakeWandb:
    """The same for Weights & Biases; `is_offline`, a run knows nothing of what it was told before."""

    Error = ConnectionError

    def __init__(self, is_offline: bool) -> None:
        self.told: list[dict[str, float]] = []
        self.is_offline = is_offline
        self.summary: dict[str, float] = {}

    def init(self, **_: Any) -> "FakeWandb":
        self.summary = {} if self.is_offline or not self.told else dict(self.told[-1])
        return self

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def finish(self, **_: Any) -> None: ...

    def log(self, numbers: dict[str, float]) -> None:
        self.told.append(numbers)


@pytest.mark.parametrize("is_offline", [False, True])
def test_repeated_steps_are_not_logged_twice(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    mlflow, wandb, run = FakeMLflow(), FakeWandb(is_offline), tmp_path / "run"
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    words = (*SMALL, 'engine.loggers=["mlflow", "wandb"]')
    segue.train(tiny_recipe, run, *words)
    forget_last_steps(run)
    assert segue.train(tiny_recipe, run, *words).step == 4
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4]
    assert [each.value for each in mlflow.told if each.key == "step"] == steps
    assert [each.step for each in mlflow.told if each.key == "loss"] == steps
    assert [numbers["step"] for numbers in wandb.told] == [*steps, 4][: 3 if is_offline else 2]


def test_partly_logged_steps_are_logged_again(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow, run = FakeMLflow(fails_at=4), tmp_path / "run"
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    words = (*SMALL, 'engine.loggers=["mlflow"]')
    for _ in range(2):
        segue.train(tiny_recipe, run, *words)
        forget_last_steps(run)
    told = defaultdict(set)
    for each in mlflow.told:
        told[each.step].add(each.key)
    assert {"step", "loss", "dev/word_error_rate"} <= told[4]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named(
    name: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"this needs the package {name}: pip install 'segue\[{name}\]'"):
        segue.train(tiny_recipe, tmp_path / "run", *SMALL, f'engine.loggers=["{name}"]')


def test_mlflow_gets_the_recipe_and_all_numbers(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    run = tmp_path / "run"
    for _ in range(2):  # the second time it goes on in the same run, from step 2
        segue.train(tiny_recipe, run, *SMALL, 'engine.loggers=["mlflow"]')
        forget_last_steps(run)
    client = mlflow.MlflowClient()
    found = client.get_run((run / "mlflow_id").read_text())
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer.learning_rate"] == "0.03"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(each["step"], each["loss"]) for each in records]
    assert found.data.metrics["dev/word_error_rate"] == records[-1]["dev"]["word_error_rate"]
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_weights_and_biases_keeps_a_run(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    segue.train(tiny_recipe, run, *SMALL, 'engine.loggers=["wandb"]')
    identity = (run / "wandb_id").read_text()
    [kept] = (run / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb")
    assert b"word_error_rate" in kept.read_bytes()


def test_every_tracker_name_is_known() -> None:
    assert [trackers.find(name) for name in ("wandb", "mlflow")] == [trackers.WeightsAndBiases, trackers.MLflow]
