"""How is a training logged to Weights & Biases and MLflow? As their own environment variables configure them.

The tracker's run id is kept in the run directory, so that a resumed run continues the same tracker run. Steps that are
repeated after a kill are not logged again: the tracker reports the last step it has. W&B in offline mode cannot, and
gets them twice.
"""

import os
import tomllib
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from segue.engine.log import MakeLogger, flat
from segue.engine.state.checkpoint import write_text
from segue.errors import UserError, missing_extra

PROJECT = "segue"
"""Default project or experiment name, if the environment sets none."""


def find(name: str) -> MakeLogger:
    """The tracker by its name in recipes."""
    known: dict[str, MakeLogger] = {"wandb": WeightsAndBiases, "mlflow": MLflow}
    return known[name]


class WeightsAndBiases:
    """A Weights & Biases run; WANDB_PROJECT, WANDB_MODE and other variables apply."""

    def __init__(self, run: Path, step: int, num_steps: int) -> None:
        del step, num_steps
        try:
            import wandb
        except ModuleNotFoundError:
            raise missing_extra("wandb", "wandb") from None
        kept = run / "wandb_id"
        if not kept.is_file():
            write_text(kept, uuid4().hex[:8])
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=kept.read_text(encoding="utf-8"),
                name=run.resolve().name,
                resume="allow",
                dir=run,
                config=_recipe(run),
            )
        except wandb.Error as problem:  # not logged in, for instance
            raise UserError(f"engine.loggers: wandb: {problem}") from None
        self._run.define_metric("*", step_metric="step")  # W&B's own step counter cannot go back
        self._told = _last_step(self._run.summary.get("step"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.finish(exit_code=int(value is not None))

    def advance(self, step: int) -> None:
        """Nothing."""

    def write(self, record: dict[str, Any]) -> None:
        """The numbers of a step."""
        if record["step"] > self._told:
            self._run.log(dict(flat(record)))

    def say(self, text: str) -> None:
        """Nothing: W&B captures standard error itself."""


class MLflow:
    """An MLflow run; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME apply."""

    def __init__(self, run: Path, step: int, num_steps: int) -> None:
        del step, num_steps
        try:
            import mlflow
            from mlflow import entities
        except ModuleNotFoundError:
            raise missing_extra("mlflow", "mlflow") from None
        self._metric = entities.Metric
        kept = run / "mlflow_id"
        try:
            self._client = mlflow.MlflowClient()
            if not kept.is_file():
                name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
                known = self._client.get_experiment_by_name(name)
                experiment = self._client.create_experiment(name) if known is None else known.experiment_id
                made = self._client.create_run(experiment, run_name=run.resolve().name)
                for key, value in _flat_text(_recipe(run)):
                    self._client.log_param(made.info.run_id, key, value)
                write_text(kept, made.info.run_id)
            self._id = kept.read_text(encoding="utf-8")
            self._client.update_run(self._id, status="RUNNING")
            self._told = _last_step(self._client.get_run(self._id).data.metrics.get("step"))
        except mlflow.exceptions.MlflowException as problem:
            raise UserError(f"engine.loggers: mlflow: {problem}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.set_terminated(self._id, "FINISHED" if value is None else "FAILED")

    def advance(self, step: int) -> None:
        """Nothing."""

    def write(self, record: dict[str, Any]) -> None:
        """The numbers of a step."""
        if record["step"] <= self._told:
            return
        at = int(record.get("time", time()) * 1000)
        numbers = [self._metric(name, value, at, record["step"]) for name, value in flat(record)]
        numbers.sort(key=lambda number: number.key == "step")  # last: a partially logged step is logged again
        self._client.log_batch(self._id, metrics=numbers)

    def say(self, text: str) -> None:
        """Nothing."""


def _last_step(step: float | None) -> int:
    """The last step that a tracker has."""
    return -1 if step is None else int(step)


def _recipe(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))


def _flat_text(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found.extend(_flat_text(value, f"{prefix}{name}."))
        else:
            found.append((prefix + name, str(value)))
    return found
