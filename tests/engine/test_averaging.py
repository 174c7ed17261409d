from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import torch
from ranks import Start
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.materialize import blueprint
from segue.engine.distributed.parallel import Parallel, World
from segue.engine.state.averaging import MovingAverage, Snapshots, reestimate_batch_norms, weights_of


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def weights(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 3), value), "count": torch.tensor(round(value))}


def test_moving_average_decay_warms_up() -> None:
    """Early weights are forgotten sooner: the decay grows to what was given."""
    model = small_model()
    average = MovingAverage(model, decay=0.4)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in range(1, 6):
        model(torch.randn(8, 3))  # changes the running statistics
        with torch.no_grad():
            model.get_parameter("0.weight").add_(torch.randn(4, 3))
        decay = min(0.4, (1 + step) / (10 + step))  # 0.18, 0.25, 0.31, 0.36, 0.4
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
        average.update(model, step)
    expected["1.num_batches_tracked"] = torch.tensor(5)
    torch.testing.assert_close(average.tensors, expected, check_dtype=False)


def test_weights_are_restored_after_an_error() -> None:
    model = small_model()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    lent = {name: torch.ones_like(value) for name, value in own.items()}
    with pytest.raises(AssertionError), weights_of(model, lent):
        torch.testing.assert_close(dict(model.state_dict()), own)  # wrong: these are the lent ones
    torch.testing.assert_close(dict(model.state_dict()), own, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("by", "direction", "kept"),
    [("last", "min", [20, 30, 40]), ("best", "min", [40, 10, 30]), ("best", "max", [20, 30, 10])],
)
def test_average_is_of_last_or_best_evaluations(tmp_path: Path, by: str, direction: str, kept: list[int]) -> None:
    snapshots = Snapshots(tmp_path, 3, by, direction)
    for step, score in ((10, 2.0), (20, 9.0), (30, 2.5), (40, 1.0)):
        snapshots.add(step, score, weights(step / 7))
    snapshots.drop_others()
    assert [each.step for each in snapshots.kept] == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:08d}.safetensors" for step in sorted(kept)]
    average = snapshots.average(weights(0.0))
    assert average is not None
    torch.testing.assert_close(average["weight"].float(), torch.full((2, 3), sum(kept) / 7 / 3), rtol=1e-6, atol=0)


def test_of_equal_evaluations_the_later_is_kept(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, 1, "best", "min")
    snapshots.add(10, 0.5, weights(1.0))
    snapshots.add(20, 0.5, weights(2.0))
    assert [(each.step, each.score) for each in snapshots.kept] == [(20, 0.5)]


def test_snapshots_in_use_are_not_deleted(tmp_path: Path) -> None:
    """What another checkpoint needs stays."""
    snapshots = Snapshots(tmp_path, 1, "last", "min")
    for step in (10, 20, 30):
        snapshots.add(step, 0.0, weights(step))
    snapshots.drop_others([(10, 0.0, "a checksum")])
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["step_00000010", "step_00000030"]


def test_bad_snapshots_are_left_out_of_the_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damaged and missing ones, each with a warning."""
    snapshots = Snapshots(tmp_path, 3, "last", "min")
    for step in (10, 20, 30):
        snapshots.add(step, 0.0, weights(step))
    flipped, missing, _ = sorted(tmp_path.iterdir())
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 0x80  # a sign
    flipped.write_bytes(content)
    missing.unlink()
    average = snapshots.average(weights(0.0))
    assert average is not None
    assert average["weight"].unique().tolist() == [30.0]  # type: ignore[no-untyped-call]
    assert capsys.readouterr().err == (
        f"warning: {flipped}: damaged; left out of the average\nwarning: {missing}: missing; left out of the average\n"
    )
    (tmp_path / "step_00000030.safetensors").unlink()
    assert snapshots.average(weights(0.0)) is None


def shares(rank: int, folder: Path) -> list[tuple[int, Tensor]]:
    """Numbers that a rank holds of an average of shards, and all of them together."""
    model = blueprint(small_model)
    Parallel(World(rank, 2), Layout(1, 2, 1), torch.device("cpu")).spread(model, torch.float32, is_offloaded=False)
    snapshots = Snapshots(folder, 2, "last", "min", World(rank, 2))
    with torch.no_grad():
        for step in (1, 2):
            for tensor in model.state_dict().values():
                parts.local(tensor).copy_(torch.full_like(parts.local(tensor), step))
            snapshots.add(step, 0.0, model.state_dict())
    found = snapshots.average(model.state_dict())
    assert found is not None
    return [(parts.local(found[name]).numel(), parts.whole(found[name])) for name in ("0.weight", "0.bias")]


def test_a_rank_averages_its_own_parts_only(start: Start, tmp_path: Path) -> None:
    for of_rank in forked.run(start, __file__, "shares", 2, tmp_path):
        assert [size for size, _ in of_rank] == [6, 2]  # of 4 x 3 and 4
        assert all((whole == 1.5).all() for _, whole in of_rank)


def test_reestimated_batch_norm_equals_full_pass() -> None:
    """Momentum and mode are what they were."""
    model = small_model().eval()
    model.get_buffer("1.running_mean").fill_(99.0)
    inputs = 3 * torch.randn(5, 16, 3) + 1
    with torch.no_grad():
        seen = model[0](inputs)  # (batches, examples, channels): what the normalization sees

    def forwards() -> Iterator[None]:
        for batch in inputs:
            model(batch)
            yield

    reestimate_batch_norms(model, forwards())
    torch.testing.assert_close(model.get_buffer("1.running_mean"), seen.flatten(0, 1).mean(dim=0))
    torch.testing.assert_close(model.get_buffer("1.running_var"), seen.var(dim=1).mean(dim=0))
    assert model[1].momentum == 0.1
    assert not model.training
