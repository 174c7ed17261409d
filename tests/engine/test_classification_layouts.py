"""Classification on ranks: the same steps from the same micro-batches, and the same model."""

from pathlib import Path

import pytest
from ranks import RunRanks, assert_same_training

STEPS = 5
LAYOUTS = {"2 shards": (1, 2, 1), "2 tensor-parallel": (1, 1, 2)}
CASES = [("sounds", "2 shards"), ("texts", "2 tensor-parallel")]


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
    assert_same_training(spread, alone, STEPS)
