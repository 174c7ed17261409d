"""Proofs that need a GPU: it takes the same steps as a processor, in every format, layout and mode.

With fewer GPUs than ranks, ranks share one and talk through the processor: NCCL wants a GPU for each.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import tensors

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

STEPS = 6
# Dropout draws other numbers on a GPU.
JASPER = """model.blocks=[{channels = 16, kernel = 7, stride = 2, has_residual = false}, {channels = 16, kernel = 7},
{channels = 24, kernel = 1, has_residual = false}]"""
TASKS = {
    "translation": ["batch.tokens=100", "model.positions=sinusoidal"],
    "speech": [JASPER.replace("\n", " ")],
}
# Relative, for losses: sums in another order; the rounding of activations to 10, 8 and 11 bits.
TOLERANCE = {"float32": 2e-5, "tf32": 2e-3, "bfloat16": 1e-2, "float16": 2e-3}
MODES = {
    "float32": [],
    "tf32": ["engine.matmul=tf32"],
    "bfloat16": ["engine.precision=bfloat16"],
    "float16": ["engine.precision=float16"],
    "float32, recomputed": ["engine.recompute=true"],
    "float32, compiled": ["engine.compile=true"],
    "float16, compiled, recomputed": ["engine.precision=float16", "engine.compile=true", "engine.recompute=true"],
}
LAYOUTS = {
    "2 copies": (2, 1, 1),
    "2 shards": (1, 2, 1),
    "2 shards, offloaded": (1, 2, 1),
    "2 x 2 shards": (2, 2, 1),
    "2 tensor-parallel": (1, 1, 2),
    "2 shards x 2 tensor-parallel": (1, 2, 2),
}
FEW_GPUS = """
import os
import torch
import torch.distributed as dist
if torch.cuda.device_count() < int(os.environ.get("WORLD_SIZE", "1")):
    os.environ["LOCAL_RANK"] = "0"
    def meet(backend, **options):
        return init(backend.replace("nccl", "gloo"), **options)
    init, dist.init_process_group = dist.init_process_group, meet
"""


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def train(tiny_recipe: Path, reversal_recipe: Path, run_ranks: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains a task on so many ranks; the run."""
    recipes = {"translation": reversal_recipe, "speech": tiny_recipe}

    def run(task: str, *overrides: str, ranks: int = 1, device: str = "cuda", into: Path | None = None) -> Path:
        path = into or tmp_path_factory.mktemp("run") / "run"
        words = ["train", recipes[task], "--out", path, "batch.micro_batches=4", f"engine.steps={STEPS}"]
        words += ["engine.log_every=1", f"engine.device={device}", *TASKS[task], *overrides]
        ended = run_ranks([(ranks, words)], SABOTAGE=FEW_GPUS)
        assert ended.statuses == [[0] * ranks], ended.said
        return path

    return run


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def on_cpu(train: Any, task: str) -> Path:
    """The run that all others have to follow."""
    return Path(train(task, device="cpu"))


def assert_follows(run: Path, other: Path, tolerance: float) -> None:
    found, expected = records(run), records(other)
    assert [each["step"] for each in found] == list(range(1, STEPS + 1))
    print([(ours["loss"], theirs["loss"]) for ours, theirs in zip(found, expected, strict=True)])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=tolerance)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=10 * tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_takes_the_same_steps_as_a_processor(train: Any, on_cpu: Path, task: str, mode: str) -> None:
    run = train(task, *MODES[mode])
    assert_follows(run, on_cpu, TOLERANCE[mode.partition(",")[0]])
    environment = json.loads((run / "environment.json").read_text())
    assert environment["device"] == torch.cuda.get_device_name()
    last = records(run)[-1]
    assert 0 < last["memory_gb"] < 10
    assert ("utilisation" in last) == (peak() is not None)


def peak() -> float | None:
    from segue.engine.environment import peak_operations

    return peak_operations(torch.device("cuda", 0), "float32", "ieee")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_takes_the_same_steps(train: Any, on_cpu: Path, task: str, layout: str, precision: str) -> None:
    data_parallel, shard, tensor_parallel = LAYOUTS[layout]
    if task == "speech" and tensor_parallel > 1:
        pytest.skip("Jasper has no tensor parallelism")
    run = train(
        task,
        *(f"engine.data_parallel={data_parallel}", f"engine.shard={shard}"),
        *(f"engine.tensor_parallel={tensor_parallel}", f"engine.precision={precision}"),
        f"engine.offload={str('offloaded' in layout).lower()}",
        ranks=data_parallel * shard * tensor_parallel,
    )
    assert_follows(run, on_cpu, TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_goes_on_where_it_was(train: Any, task: str, precision: str, tmp_path: Path) -> None:
    # Kernels that add in any order, as that of CTC's gradient does, differ in the last bits from run to run.
    options = [f"engine.precision={precision}", "engine.save_every=3", "engine.evaluate_every=6"]
    whole = train(task, *options)
    run = train(task, *options, into=tmp_path / "run")
    for path in (run / "checkpoints").glob(f"step_{STEPS:08d}"):
        path.rename(tmp_path / "lost")
    train(task, *options, into=run)
    assert_follows(run, whole, 1e-5 if precision == "float32" else 1e-3)
    if task == "translation":
        assert tensors(run / "model" / "model.safetensors") == tensors(whole / "model" / "model.safetensors")


def test_a_model_from_a_gpu_says_the_same_on_a_processor(
    train: Any, on_cpu: Path, task: str, corpus: Path, pairs: Path
) -> None:
    import segue

    run = train(task, "engine.steps=120", "engine.log_every=20", "engine.evaluate_every=60")
    models = [segue.load(run, device=device) for device in ("cpu", "cuda")]
    data = (corpus if task == "speech" else pairs) / "test.jsonl"
    scores = [model.evaluate(data) for model in models]
    assert scores[0] == scores[1]


def test_the_largest_batch_is_one_that_fits_in_a_gpus_memory(
    reversal_recipe: Path, run_ranks: Any, tmp_path: Path
) -> None:
    def budget(megabytes: int) -> int:
        limit = f"torch.cuda.set_per_process_memory_fraction({megabytes}e6 / torch.cuda.mem_get_info()[1])"
        words: Sequence[object] = [
            *("train", reversal_recipe, "--out", tmp_path / str(megabytes), "batch.tokens=auto", "engine.device=cuda"),
            *("engine.steps=3", "model.width=256", "model.feed_forward=1024"),
        ]
        ended = run_ranks([(1, words)], SABOTAGE=f"import torch\n{limit}")
        assert ended.statuses == [[0]], ended.said
        return int(ended.said.partition("batch.tokens: ")[2].split()[0])

    small, large = budget(150), budget(1500)
    assert 0 < 2 * small < large
