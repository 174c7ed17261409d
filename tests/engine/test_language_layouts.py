"""Language models on ranks: the same steps from the same micro-batches, and the same model."""

import json
import shutil
from pathlib import Path

import pytest
from ranks import RunRanks, assert_same_training, records

STEPS = 5
LAYOUTS = {"2 copies": (2, 1, 1), "2 tensor-parallel": (1, 1, 2), "2 shards x 2 tensor-parallel": (1, 2, 2)}
LLAMA = ("model.padded_vocabulary=16", "model.has_query_key_norm=true", "model.is_tied=false")
GPT2 = (
    *("model.kind=gpt2", "model.context=32", "model.width=32", "model.layers=4", "model.heads=4"),
    *("model.dropout=0.0", "model.attention_dropout=0.0", "engine.evaluate_sharded=true"),
)
KINDS = {"llama": LLAMA, "gpt2": GPT2}
CASES = [
    ("llama", "2 shards x 2 tensor-parallel"),
    pytest.param("gpt2", "2 shards x 2 tensor-parallel", marks=pytest.mark.slow),
    *(pytest.param(kind, name, marks=pytest.mark.slow) for kind in KINDS for name in ("2 copies", "2 tensor-parallel")),
]


class Runs:
    """Runs by kind of model and layout, each trained when it is first asked for."""

    def __init__(self, folder: Path, recipe: Path, run_ranks: RunRanks) -> None:
        self._folder, self._recipe, self._run_ranks = folder, recipe, run_ranks

    def __call__(self, kind: str, name: str) -> Path:
        run = self._folder / f"{kind}, {name}"
        if not run.exists():
            copies, shards, parts = LAYOUTS.get(name, (1, 1, 1))
            often = [f"engine.steps={STEPS}", "engine.log_every=1", f"engine.evaluate_every={STEPS}"]
            layout = [f"engine.data_parallel={copies}", f"engine.shard={shards}", f"engine.tensor_parallel={parts}"]
            words: list[object] = ["train", self._recipe, "--out", run, *KINDS[kind], *often, *layout]
            statuses, said = self._run_ranks([(copies * shards * parts, words)])
            assert [set(each) for each in statuses] == [{0}], said
        return run


@pytest.fixture(scope="module")
def runs(language_recipe: Path, run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("language_layouts"), language_recipe, run_ranks)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_any_layout_trains_the_same_model(runs: Runs, kind: str, name: str) -> None:
    """It also takes the same steps, with the vocabulary split over ranks that have other numbers of tokens."""
    alone, spread = (runs(kind, each) for each in ("alone", name))
    assert_same_training(spread, alone, STEPS)


@pytest.mark.slow
def test_a_cut_of_megatron_takes_the_same_steps(texts: Path, run_ranks: RunRanks, tmp_path: Path) -> None:
    """Four layers of `megatron_8b`, at full width and with all rows of its vocabulary: 0.6 billion parameters.

    Four ranks (2 shards x 2 tensor-parallel) hold a quarter each, from the start on: 11 GB alone, 5 GB each of four.
    """
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes((texts / "train.jsonl").read_bytes())
    shortest = min((texts / "dev.jsonl").read_text().splitlines(), key=len)  # each window gathers the model once
    (folder / "dev.jsonl").write_text(shortest + "\n")
    shipped = Path(__file__).parents[2] / "recipes" / "language_modeling" / "megatron_8b.toml"
    words: list[object] = [
        *("train", shipped, f"data.root={folder}", "tokenizer.kind=characters", "tokenizer.alphabet=auto"),
        *("model.layers=4", "model.context=32", "model.padded_vocabulary=51200", "model.dropout=0.0"),
        *("model.attention_dropout=0.0", "batch.tokens=64", "batch.micro_batches=2", "engine.device=cpu"),
        *("engine.precision=float32", "engine.steps=2", "engine.evaluate_every=2", "engine.save_every=2"),
        *("engine.log_every=1", "engine.workers=0", "engine.threads=1", "schedule.warmup_steps=1"),
    ]
    layouts = {"alone": (1, 1), "spread": (2, 2)}
    for name, (shards, parts) in layouts.items():
        layout = [f"engine.shard={shards}", f"engine.tensor_parallel={parts}", "--out", tmp_path / name]
        statuses, said = run_ranks([(shards * parts, [*words, *layout])])
        assert [set(each) for each in statuses] == [{0}], said
        for kept in ("checkpoints", "model"):  # 10 GB
            shutil.rmtree(tmp_path / name / kept)
    alone, spread = (records(tmp_path / name) for name in layouts)
    for expected, found in zip(alone, spread, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
        print(expected, found, sep="\n")
    assert len({each["loss"] for each in spread}) == 2
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1] for name in layouts]
    memory_alone, memory_spread = (json.loads(line)["memory_gb"] for line in logs)
    print(memory_alone, memory_spread)
    assert memory_spread < 0.5 * memory_alone
