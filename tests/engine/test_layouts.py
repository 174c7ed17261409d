"""The proof that the number of ranks changes nothing: the same steps from the same four micro-batches."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ranks import RunRanks
from safetensors.torch import load_file

from segue import training
from segue.engine.distributed.parallel import ALONE

STEPS = 4
TRANSLATOR = ["model.positions=sinusoidal", "model.has_output_bias=true"]
LAYOUTS = {
    "alone": (1, 1, 1),
    "2 copies": (2, 1, 1),
    "4 copies": (4, 1, 1),
    "2 shards": (1, 2, 1),
    "2 tensor-parallel": (1, 1, 2),
    "2 shards x 2 tensor-parallel": (1, 2, 2),
}
OF_DATA = [name for name, layout in LAYOUTS.items() if layout[2] == 1]
PRECISIONS = ("float32", "bfloat16", "float16")
# Relative, for the losses. Lower precisions round activations to 8 and 11 bits: 2^-8 and 2^-11 are 4e-3 and 5e-4. Sums
# in another order move a rounding here and there.
TOLERANCE = {"float32": 1e-5, "bfloat16": 4e-3, "float16": 5e-4}


def command(path: Path, run: Path, layout: tuple[int, int, int], precision: str, *overrides: str) -> Any:
    data_parallel, shard, tensor_parallel = layout
    ranks = data_parallel * shard * tensor_parallel
    return ranks, [
        *("train", path, "--out", run, "batch.micro_batches=4", f"engine.steps={STEPS}", "engine.log_every=1"),
        *(f"engine.data_parallel={data_parallel}", f"engine.shard={shard}"),
        *(f"engine.tensor_parallel={tensor_parallel}", f"engine.precision={precision}", *overrides),
    ]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Runs:
    """Runs of a task, by layout and precision, each trained when it is first asked for."""

    def __init__(self, folder: Path, recipes: dict[str, Path], run_ranks: RunRanks) -> None:
        self._folder, self._recipes, self._run_ranks = folder, recipes, run_ranks

    def __call__(self, task: str, name: str, precision: str) -> Path:
        run = self._folder / f"{task}, {name}, {precision}"
        if not run.exists():
            overrides = ["batch.tokens=100", *TRANSLATOR] if task == "translation" else []
            order = command(self._recipes[task], run, LAYOUTS[name], precision, *overrides)
            statuses, said = self._run_ranks([order])
            assert [set(each) for each in statuses] == [{0}], said
        return run


@pytest.fixture(scope="module")
def runs(tiny_recipe: Path, recipe: Path, run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("layouts"), {"translation": recipe, "speech": tiny_recipe}, run_ranks)


# The short suite has copies, shards and tensor parallelism in float32, and shards in each other precision; shards of
# tensor-parallel parts in test_language_layouts.py.
SHORT = {
    ("translation", "4 copies", "float32"),
    ("translation", "2 tensor-parallel", "float32"),
    ("speech", "2 copies", "float32"),
    ("speech", "2 shards", "float32"),
    ("translation", "2 shards", "bfloat16"),
    ("speech", "2 shards", "float16"),
}
CASES = [
    pytest.param(*case, marks=() if case in SHORT else pytest.mark.slow)
    for precision in PRECISIONS
    for task, names in (("translation", LAYOUTS), ("speech", OF_DATA))
    for name in names
    if name != "alone"
    for case in [(task, name, precision)]
]


@pytest.mark.parametrize(("task", "name", "precision"), CASES)
def test_any_layout_takes_the_same_steps(runs: Runs, task: str, name: str, precision: str) -> None:
    alone, spread = (records(runs(task, each, precision)) for each in ("alone", name))
    assert [each["step"] for each in spread] == list(range(1, STEPS + 1))
    for expected, found in zip(alone, spread, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE[precision])
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=10 * TOLERANCE[precision])
        assert found["learning_rate"] == expected["learning_rate"]
        assert found["rate"] > 0
    assert len({each["loss"] for each in spread}) == STEPS


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("speech", "2 copies"),
        ("speech", "2 shards"),
        ("translation", "2 tensor-parallel"),
        *(
            pytest.param("translation", name, marks=pytest.mark.slow)
            for name in ("2 shards", "2 shards x 2 tensor-parallel")
        ),
    ],
)
def test_any_layout_ships_the_same_model(runs: Runs, task: str, name: str) -> None:
    alone, spread = (runs(task, each, "float32") for each in ("alone", name))
    weights, expected = (load_file(run / "model" / "model.safetensors") for run in (spread, alone))
    assert weights.keys() == expected.keys()
    for key, tensor in expected.items():
        largest = tensor.double().abs().max().item()
        assert (weights[key].double() - tensor.double()).abs().max() <= 2e-3 * max(1.0, largest), key
    assert records(spread)[-1]["dev"].keys() == records(alone)[-1]["dev"].keys()


def test_ranks_without_good_examples_stay_in_step(
    tiny_recipe: Path, corpus: Path, run_ranks: RunRanks, tmp_path: Path
) -> None:
    """Utterances that are alone in a micro-batch: one that cannot be read leaves a rank without any, at once."""
    data = tmp_path / "corpus"
    shutil.copytree(corpus, data)
    lines = (data / "train.jsonl").read_text().splitlines(keepends=True)[:12]
    (data / "train.jsonl").write_text("".join(lines))
    overrides = [f"data.root={data}", "data.skip_bad=true", "augmentation.joined_utterances=1", "batch.seconds=0.6"]
    section, module = training.read(tiny_recipe, [*overrides, "batch.micro_batches=4"])
    plan = module.build_source(section, tmp_path / "plan", ALONE)[1].plan("train")
    (bad,) = plan.micro_batch(1).indices  # the first of the second rank
    (data / json.loads(lines[bad])["audio_filepath"]).write_text("no audio")
    commands = [
        command(tiny_recipe, tmp_path / name, LAYOUTS[name], "float32", *overrides) for name in ("alone", "2 copies")
    ]
    statuses, said = run_ranks(commands)
    assert statuses == [[0], [0, 0]], said
    expected, found = (records(tmp_path / name) for name in ("alone", "2 copies"))
    assert [each["loss"] for each in found] == pytest.approx([each["loss"] for each in expected], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2 copies", "2 tensor-parallel"])
def test_a_compiled_layout_takes_the_same_steps(
    recipe: Path, runs: Runs, run_ranks: RunRanks, tmp_path: Path, name: str
) -> None:
    overrides = ("batch.tokens=100", *TRANSLATOR, "engine.compile=true")
    statuses, said = run_ranks([command(recipe, tmp_path / "run", LAYOUTS[name], "float32", *overrides)])
    assert statuses == [[0, 0]], said
    for expected, found in zip(
        records(runs("translation", "alone", "float32")), records(tmp_path / "run"), strict=True
    ):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
