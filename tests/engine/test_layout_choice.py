"""Which layout a recipe gets on so many ranks, and how many processes are started on a machine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import RunRanks

from segue import training
from segue.engine.distributed.layout import BYTES_PER_PARAMETER, SHARE_FOR_STATE, Layout, choose
from segue.errors import UserError

GB = 10**9
FITS = int(GB * SHARE_FOR_STATE / BYTES_PER_PARAMETER)
"""Parameters whose state a device of 1 GB may hold."""


def chosen(
    num_ranks: int,
    data_parallel: int | None = None,
    shard: int | None = None,
    tensor_parallel: int = 1,
    *,
    micro_batches: int = 96,
    parameters: int = FITS,
    memory: float | None = GB,
) -> Layout:
    return choose(
        num_ranks,
        data_parallel,
        shard,
        tensor_parallel,
        micro_batches=micro_batches,
        num_parameters=parameters,
        memory_bytes=memory,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1,), (1, 1, 1)),
        ((8,), (8, 1, 1)),
        ((8, 2), (2, 4, 1)),
        ((8, None, 2), (4, 2, 1)),
        ((8, None, None, 2), (4, 1, 2)),
        ((8, 2, 2, 2), (2, 2, 2)),
        ((8, 1, None, 4), (1, 2, 4)),
        ((8, None, 8), (1, 8, 1)),
        ((12, None, 3, 2), (2, 3, 2)),
    ],
)
def test_open_layout_settings_are_filled_in(given: tuple[Any, ...], expected: tuple[int, int, int]) -> None:
    layout = chosen(*given)
    assert layout == expected
    assert layout.size == given[0]


@pytest.mark.parametrize(
    ("parameters", "tensor_parallel", "memory", "expected"),
    [
        (FITS, 1, GB, (8, 1, 1)),
        (FITS + 1, 1, GB, (4, 2, 1)),
        (2 * FITS + 1, 1, GB, (2, 4, 1)),
        (99 * FITS, 1, GB, (1, 8, 1)),  # as much as can be done
        (2 * FITS, 2, GB, (4, 1, 2)),  # tensor parallelism has halved it
        (99 * FITS, 1, None, (8, 1, 1)),  # ranks share a processor's memory: sharding would free none
    ],
)
def test_sharding_is_as_small_as_memory_allows(
    parameters: int, tensor_parallel: int, memory: float | None, expected: tuple[int, int, int]
) -> None:
    assert chosen(8, tensor_parallel=tensor_parallel, parameters=parameters, memory=memory) == expected


def test_a_copy_s_state_may_take_half_of_a_device() -> None:
    """Of AdamW in float32: 16 bytes a parameter, of 1 GB."""
    assert chosen(8, parameters=31_250_000) == (8, 1, 1)
    assert chosen(8, parameters=31_250_001) == (4, 2, 1)


def test_a_number_of_shards_divides_the_ranks() -> None:
    assert chosen(6, parameters=4 * FITS) == (1, 6, 1)  # 4 and 5 would do, and do not divide 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((2, 3), "engine.data_parallel 3 x engine.tensor_parallel 1 does not divide"),
        ((8, None, 3), "engine.shard 3 x engine.tensor_parallel 1 does not divide"),
        ((8, None, None, 3), "engine.tensor_parallel 3 does not divide"),
        ((8, 2, 2), "engine.data_parallel 2 x engine.shard 2 x engine.tensor_parallel 1 makes 4 ranks, not"),
        ((2, 2, 2, 2), "engine.data_parallel 2 x engine.shard 2 x engine.tensor_parallel 2 does not divide"),
    ],
)
def test_layouts_must_multiply_to_the_ranks(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(UserError) as raised:
        chosen(*given)
    assert str(raised.value) == f"{said} the {given[0]} ranks that were started"


@pytest.mark.parametrize(("given", "data_ranks"), [((4,), 4), ((8, None, None, 2), 4), ((6, 2, 3), 6)])
def test_uneven_micro_batches_are_refused(given: tuple[Any, ...], data_ranks: int) -> None:
    """The message has a number that can be dealt out."""
    with pytest.raises(UserError, match=r"^batch\.micro_batches: 10 cannot be dealt out to ") as raised:
        chosen(*given, micro_batches=10)
    named = int(str(raised.value).removesuffix(" can").rpartition(" ")[2])
    assert named == data_ranks
    assert chosen(*given, micro_batches=3 * named).data_ranks == data_ranks


# --- On ranks ---

MISTAKES = {
    "heads": (["model.key_value_heads=1"], "engine.tensor_parallel: 2 does not divide the model's 1 head"),
    "feed_forward": (
        ["model.feed_forward=63"],
        "engine.tensor_parallel: 2 does not divide the model's feed_forward of 63",
    ),
    "jasper": ([], "engine.tensor_parallel: this model has no attention or feed-forward layers to split"),
    "ranks": (
        ["engine.data_parallel=3"],
        "engine.data_parallel 3 x engine.tensor_parallel 1 does not divide the 2 ranks that were started",
    ),
    "auto": (
        ["engine.shard=2", "batch.seconds=auto"],
        'batch.seconds: "auto" tries one device; a model that is sharded needs a number (segue estimate)',
    ),
}


@pytest.mark.slow
def test_unfit_layouts_are_one_line_for_all_ranks(
    tiny_recipe: Path, reversal_recipe: Path, run_ranks: RunRanks, tmp_path: Path
) -> None:
    """It does not fit the model, the recipe or the ranks, and all of them end."""
    commands = []
    for name, (overrides, _) in MISTAKES.items():
        recipe = reversal_recipe if name in ("heads", "feed_forward") else tiny_recipe
        parts = [] if name in ("ranks", "auto") else ["engine.tensor_parallel=2"]
        commands.append((2, ["train", recipe, "--out", tmp_path / name, *parts, *overrides]))
    statuses, said = run_ranks(commands)
    assert statuses == [[2, 2]] * len(MISTAKES), said
    assert said == [f"segue: {message}" for _, message in MISTAKES.values()]


# --- How many processes ---


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("overrides", "expected", "used"),
    [
        (["batch.micro_batches=4"], 4, None),
        (["batch.micro_batches=8"], 4, None),
        (["batch.micro_batches=6"], 3, "6 keeps 3 of 4 GPUs or groups of them busy; a multiple of 4 would use all"),
        (["batch.micro_batches=1"], 1, "1 keeps 1 of 4 GPUs or groups of them busy; a multiple of 4 would use all"),
        (["batch.micro_batches=2", "engine.tensor_parallel=2"], 4, None),
        (["batch.micro_batches=1", "engine.tensor_parallel=4"], 4, None),
        (
            ["batch.micro_batches=3", "engine.tensor_parallel=2"],
            2,
            "3 keeps 1 of 2 GPUs or groups of them busy; a multiple of 2 would use all",
        ),
        (["batch.micro_batches=2", "engine.data_parallel=1", "engine.shard=2"], 2, None),
        (
            ["batch.micro_batches=6", "engine.shard=2"],
            2,
            "6 keeps 2 of 4 GPUs or groups of them busy; a multiple of 4 would use all",
        ),
        (["batch.micro_batches=3", "engine.data_parallel=3"], 3, None),
    ],
)
def test_one_process_per_usable_gpu(
    reversal_recipe: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], expected: int, used: str | None
) -> None:
    """A warning names GPUs that the recipe leaves idle."""
    assert training.num_processes(reversal_recipe, ["engine.device=auto", *overrides]) == expected
    assert capsys.readouterr().err == ("" if used is None else f"warning: batch.micro_batches: {used}\n")


@pytest.mark.usefixtures("four_gpus")
def test_one_process_on_a_cpu_and_under_torchrun(reversal_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.num_processes(reversal_recipe, ["batch.micro_batches=4", "engine.device=cpu"]) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert training.num_processes(reversal_recipe, ["batch.micro_batches=4", "engine.device=cuda"]) == 1
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training.num_processes(reversal_recipe, ["batch.micro_batches=4", "engine.device=auto"]) == 1
