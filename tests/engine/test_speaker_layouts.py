"""Models of voices on ranks: the same steps from the same micro-batches, and the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import RunRanks
from safetensors.torch import load_file

STEPS = 4
LAYOUTS = {"alone": (1, 1), "2 shards": (1, 2), "2 copies": (2, 1)}
"""Copies and shards."""


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def trained(recipe: Path, folder: Path, run_ranks: RunRanks, name: str) -> None:
    commands: list[tuple[int, list[object]]] = []
    for each in ("alone", name):
        copies, shards = LAYOUTS[each]
        overrides = [
            "batch.micro_batches=2",
            f"engine.steps={STEPS}",
            "engine.log_every=1",
            f"engine.evaluate_every={STEPS}",
        ]
        layout = [f"engine.data_parallel={copies}", f"engine.shard={shards}"]
        commands.append((copies * shards, ["train", recipe, "--out", folder / each, *overrides, *layout]))
    statuses, said = run_ranks(commands)
    assert [set(each) for each in statuses] == [{0}] * len(commands), said


def compare(folder: Path, name: str) -> None:
    alone, spread = folder / "alone", folder / name
    for expected, found in zip(records(alone), records(spread), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
    assert len({each["loss"] for each in records(spread)}) == STEPS
    assert records(spread)[-1]["dev"] == pytest.approx(records(alone)[-1]["dev"], rel=1e-3)
    wanted, found = (load_file(run / "model" / "model.safetensors") for run in (alone, spread))
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert (found[key].double() - tensor.double()).abs().max() <= 2e-3 * max(1.0, float(tensor.abs().max())), key


@pytest.mark.parametrize("name", ["2 shards", pytest.param("2 copies", marks=pytest.mark.slow)])
def test_any_layout_trains_the_same_model(speaker_recipe: Path, run_ranks: RunRanks, tmp_path: Path, name: str) -> None:
    trained(speaker_recipe, tmp_path, run_ranks, name)
    compare(tmp_path, name)
