"""Models of voices on ranks: the same steps from the same micro-batches, and the same model."""

from pathlib import Path

import pytest
from ranks import RunRanks, assert_same_training

STEPS = 4
LAYOUTS = {"alone": (1, 1), "2 shards": (1, 2), "2 copies": (2, 1)}
"""Copies and shards."""


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


@pytest.mark.parametrize("name", ["2 shards", pytest.param("2 copies", marks=pytest.mark.slow)])
def test_any_layout_trains_the_same_model(speaker_recipe: Path, run_ranks: RunRanks, tmp_path: Path, name: str) -> None:
    trained(speaker_recipe, tmp_path, run_ranks, name)
    assert_same_training(tmp_path / name, tmp_path / "alone", STEPS)
