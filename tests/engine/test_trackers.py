"""Weights & Biases and MLflow beside the log: what they are given, with the packages where they are installed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import segue
from segue.engine import trackers
from segue.errors import UserError

SMALL = ("engine.steps=4", "engine.log_every=2", "engine.evaluate_every=4", "engine.average_count=0")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named(
    name: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"this needs the package {name}: pip install 'segue\[{name}\]'"):
        segue.train(tiny_recipe, tmp_path / "run", *SMALL, f'engine.loggers=["{name}"]')


def test_mlflow_is_told_the_recipe_and_all_numbers(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    run = tmp_path / "run"
    for steps in (4, 4):  # the second time it goes on in the same run
        segue.train(tiny_recipe, run, *SMALL, f"engine.steps={steps}", 'engine.loggers=["mlflow"]')
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


def test_every_name_of_the_recipe_is_known() -> None:
    assert [trackers.find(name).__name__ for name in ("wandb", "mlflow")] == ["WeightsAndBiases", "MLflow"]  # type: ignore[attr-defined]
