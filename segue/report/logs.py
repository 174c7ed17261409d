"""Reads what a run directory contains: log, recipe and environment."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue import recipe
from segue.errors import UserError
from segue.metrics import describe

Record = dict[str, Any]

# Keys of the scores in a line of the log.
GROUPS = ("dev", "averaged")


class Series(NamedTuple):
    """Finite values at steps, in order."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    def point(self, index: int) -> tuple[int, float]:
        """A step and its value."""
        return int(self.steps[index]), float(self.values[index])


class Run(NamedTuple):
    """The contents of a run directory."""

    label: str
    """Name in a report, different from those of the other runs."""
    path: Path
    records: Sequence[Record]
    """The lines of `metrics.jsonl`; at least one."""
    recipe_text: str
    recipe: Mapping[str, str]
    """Values as text by dotted key."""
    environment: Mapping[str, str]
    metric: str | None
    """The score that selects the best model; None if nothing was evaluated."""

    def series(self, name: str, group: str = "") -> Series:
        """The values of the number `name`, or of the score `name` if `group` is "dev" or "averaged"."""
        found = [(each["step"], (each.get(group) or {}) if group else each) for each in self.records]
        points = [(step, values[name]) for step, values in found if _is_finite(values.get(name))]
        steps, values = np.array(points, np.float64).reshape(-1, 2).T
        return Series(steps, values)

    def best(self, name: str) -> tuple[int, float] | None:
        """Step and value of the best evaluation by a score; of equal ones that with the lowest loss, as in training.

        None if nothing was evaluated, or if the direction of the score is unknown.
        """
        series, direction = self.series(name, "dev"), describe(name).direction
        if direction is None or not len(series.steps):
            return None
        losses = self.series("loss", "dev")
        loss_at = dict(zip(losses.steps.tolist(), losses.values.tolist(), strict=True))
        sign = 1 if direction == "min" else -1

        def rank(index: int) -> tuple[float, float, int]:
            return sign * series.values[index], loss_at.get(series.steps[index], 0.0), -index

        return series.point(min(range(len(series.steps)), key=rank))


def read(paths: Sequence[Path]) -> list[Run]:
    """Reads the runs in these directories. Raises a UserError if one is damaged, empty or no run directory."""
    resolved = [path.resolve() for path in paths]
    for number, path in enumerate(paths):
        if resolved[number] in resolved[:number]:
            raise UserError(f"{path}: given twice")
    return [_run(path, label) for path, label in zip(paths, _labels(resolved), strict=True)]


def _labels(paths: Sequence[Path]) -> list[str]:
    """The names of the directories, with as many parent folders as are needed to make them unique."""
    for depth in count(1):
        labels = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(labels)) == len(labels):
            break
    return labels


def _run(path: Path, label: str) -> Run:
    if not path.exists():
        raise UserError(f"{path}: no such folder; a run directory is wanted")
    if any(path.glob("*.safetensors")):
        raise UserError(f"{path}: a model, not a run directory, which has metrics.jsonl")
    if not (path / "recipe.toml").is_file():
        raise UserError(f"{path}: not a run directory (it has no recipe.toml)")
    values = recipe.read_alone(path / "recipe.toml")
    records = _records(path / "metrics.jsonl")
    scores: Record = next((each["dev"] for each in records if each.get("dev")), {})
    metric = values["metric"] if values.get("metric") in scores else next(iter(scores), None)
    text = (path / "recipe.toml").read_text(encoding="utf-8")
    return Run(label, path, records, text, _flat(values), _environment(path), metric)


def _records(path: Path) -> list[Record]:
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is None and number == len(lines):  # empty, or not completely written yet
            break
        if record is None:
            raise UserError(f"{path}:{number}: damaged: not the numbers of a step")
        if records and record["step"] < records[-1]["step"]:
            raise UserError(f"{path}:{number}: damaged: step {record['step']} after step {records[-1]['step']}")
        records.append(record)
    if not records:
        raise UserError(f"{path}: nothing was logged yet")
    return records


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_whole = isinstance(record, dict) and isinstance(record.get("step"), int)
    if is_whole and "utilisation" in record:  # key in logs of earlier versions
        record["utilization"] = record.pop("utilisation")
    return record if is_whole and all(isinstance(record.get(group) or {}, dict) for group in GROUPS) else None


def _environment(run: Path) -> dict[str, str]:
    path, difference = run / "environment.json", run / "git.diff"
    try:
        found = _flat(json.loads(path.read_bytes())) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    return found | ({"not committed": str(difference)} if difference.is_file() else {})


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Values as text by dotted key; items of an array of tables count from 0."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict):
        prefix = f"{key}." if key else ""
        return {name: text for each in value for name, text in _flat(value[each], f"{prefix}{each}").items()}
    if value is None:
        return {}
    return {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
