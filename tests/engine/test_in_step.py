"""A model that stays sharded predicts what a whole one does, though outputs and shares differ in length."""

import json
from pathlib import Path

import pytest
from ranks import RunRanks
from safetensors.torch import load_file

LAYOUTS = {"2 shards": (1, 2, 1), "2 tensor-parallel": (1, 1, 2), "2 shards x 2 tensor-parallel": (1, 2, 2)}
AVERAGES = ["engine.moving_average_decay=0.9", "engine.average_count=2"]
CASES = [
    pytest.param("translation", "2 shards", [], marks=pytest.mark.slow),
    pytest.param("translation", "2 tensor-parallel", [], marks=pytest.mark.slow),
    pytest.param("translation", "2 shards x 2 tensor-parallel", AVERAGES, marks=pytest.mark.slow),
    ("speech", "2 shards", AVERAGES),
]


@pytest.mark.parametrize(("task", "name", "more"), CASES)
def test_sharded_evaluation_says_the_same(
    task: str, name: str, more: list[str], tiny_recipe: Path, recipe: Path, run_ranks: RunRanks, tmp_path: Path
) -> None:
    path = {"translation": recipe, "speech": tiny_recipe}[task]
    overrides = (
        ["batch.tokens=100", "model.positions=sinusoidal", "search.longest_extra=0"] if task == "translation" else []
    )
    data_parallel, shard, tensor_parallel = LAYOUTS[name]
    numbers = ["batch.micro_batches=4", "engine.steps=6", "engine.evaluate_every=3", "engine.save_every=6"]
    sizes = [f"engine.{key}={value}" for key, value in (("data_parallel", data_parallel), ("shard", shard))]
    sizes.append(f"engine.tensor_parallel={tensor_parallel}")
    commands = [
        (
            data_parallel * shard * tensor_parallel,
            [
                *("train", path, "--out", tmp_path / way, f"engine.evaluate_sharded={way}"),
                *(*numbers, *sizes, *overrides, *more),
            ],
        )
        for way in ("false", "true")
    ]
    statuses, said = run_ranks(commands)
    assert [set(each) for each in statuses] == [{0}, {0}], said
    whole, sharded = (
        [json.loads(line) for line in (tmp_path / way / "metrics.jsonl").read_text().splitlines()]
        for way in ("false", "true")
    )
    assert [record["loss"] for record in sharded] == [record["loss"] for record in whole]
    keys = [key for key in ("dev", "averaged") if any(key in record for record in whole)]
    assert keys == (["dev", "averaged"] if more else ["dev"])
    for ours, theirs in zip(sharded, whole, strict=True):
        for key in keys:
            assert (key in ours) == (key in theirs)
            assert ours.get(key, {}) == pytest.approx(theirs.get(key, {}), rel=1e-5)
    weights, wanted = (load_file(tmp_path / way / "model" / "model.safetensors") for way in ("true", "false"))
    assert weights.keys() == wanted.keys()
    for key, value in wanted.items():
        # BatchNorm's statistics are estimated anew from a sum in another order.
        assert (weights[key] - value).abs().max() <= (1e-5 if "averaged" in keys else 0), key
