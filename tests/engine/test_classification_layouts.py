"""Classification on ranks: the same steps from the same micro-batches, and the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import RunRanks
from safetensors.torch import load_file

STEPS = 5
LAYOUTS = {"2 shards": (1, 2, 1), "2 tensor-parallel": (1, 1, 2)}
CASES = [("sounds", "2 shards"), ("texts", "2 tensor-parallel")]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(class_recipes: dict[str, Path], run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run for each kind and layout."""
    folder = tmp_path_factory.mktemp("classification_layouts")
    commands: list[tuple[int, list[object]]] = []
    for kind, name in [*CASES, ("sounds", "alone"), ("texts", "alone")]:
        copies, shards, parts = LAYOUTS.get(name, (1, 1, 1))
        overrides = ["batch.micro_batches=4", f"engine.steps={STEPS}", "engine.log_every=1", "engine.evaluate_every=5"]
        layout = [f"engine.data_parallel={copies}", f"engine.shard={shards}", f"engine.tensor_parallel={parts}"]
        words: list[object] = ["train", class_recipes[kind], "--out", folder / f"{kind}, {name}", *overrides, *layout]
        commands.append((copies * shards * parts, words))
    statuses, said = run_ranks(commands)
    assert [set(each) for each in statuses] == [{0}] * len(commands), said
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_any_layout_trains_the_same_model(runs: Path, kind: str, name: str) -> None:
    """It also takes the same steps."""
    alone, spread = (runs / f"{kind}, {each}" for each in ("alone", name))
    for expected, found in zip(records(alone), records(spread), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
    assert len({each["loss"] for each in records(spread)}) == STEPS
    assert records(spread)[-1]["dev"] == pytest.approx(records(alone)[-1]["dev"], rel=1e-3)
    wanted, found = (load_file(run / "model" / "model.safetensors") for run in (alone, spread))
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        if key.endswith("key.bias"):  # attention is blind to it: its gradient is rounding, which Adam makes large
            continue
        assert (found[key].double() - tensor.double()).abs().max() <= 2e-3 * max(1.0, float(tensor.abs().max())), key
