"""Tensor parallelism splits what a layer declares, whatever its class."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import forked
import pytest
import torch
from ranks import Start
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.parallel import Parallel, World, dealt_out
from segue.engine.planning.simulation import _split
from segue.errors import UserError
from segue.layers.feed_forward import FeedForward
from segue.layers.splits import Split

WIDTH, HIDDEN, LAYOUT = 6, 8, Layout(1, 1, 2)


class Special(FeedForward):
    """A subclass: it inherits the declaration."""


class Gated(nn.Module):
    """A layer that the engine never heard of."""

    splits: ClassVar[Mapping[str, Split]] = {"inside": "column", "gate": "column", "outside": "row", "none": "row"}

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.gate = nn.Linear(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.outside, self.none = nn.Linear(HIDDEN, WIDTH), None

    def dealt_out(self) -> dict[str, int]:
        return {"gates": HIDDEN}

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.inside(x) * self.gate(x).sigmoid())  # type: ignore[no-any-return]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Special(WIDTH, HIDDEN, "swiglu", dropout=0.0), Gated())


def learned(rank: int, folder: Path) -> tuple[Tensor, list[Tensor], dict[str, tuple[int, ...]]]:
    """The output, all whole gradients, the shapes of this rank's parts."""
    spread = model()
    parallel = Parallel(World(rank, 2), LAYOUT, torch.device("cpu"))
    parallel.spread(spread, torch.float32, is_offloaded=False)
    output = spread(torch.linspace(-1, 1, 5 * WIDTH).view(5, WIDTH))
    output.square().sum().backward()
    gradients = [parts.whole(each.grad) for each in spread.parameters() if each.grad is not None]
    shapes = {name: tuple(parts.local(each).shape) for name, each in spread.named_parameters()}
    return output.detach(), gradients, shapes


def test_declared_layers_are_split(start: Start, tmp_path: Path) -> None:
    alone = model()
    output = alone(torch.linspace(-1, 1, 5 * WIDTH).view(5, WIDTH))
    output.square().sum().backward()
    gradients = [each.grad for each in alone.parameters()]
    simulated = model()
    _split(simulated, 2)
    for of_rank in forked.run(start, __file__, "learned", 2, tmp_path):
        torch.testing.assert_close(of_rank[0], output.detach())
        torch.testing.assert_close(of_rank[1], gradients)
        assert of_rank[2] == {name: tuple(each.shape) for name, each in simulated.named_parameters()}
        assert of_rank[2]["1.gate.weight"] == (HIDDEN // 2, WIDTH)
        assert of_rank[2]["1.outside.weight"] == (WIDTH, HIDDEN // 2)


def refused(rank: int, folder: Path) -> str:
    parallel = Parallel(World(rank, 3), Layout(1, 1, 3), torch.device("cpu"))
    try:
        parallel.spread(model(), torch.float32, is_offloaded=False)
    except (UserError, SystemExit) as problem:
        return str(problem)
    return ""


def test_uneven_parts_are_refused(start: Start, tmp_path: Path) -> None:
    assert dealt_out(model()) == {f"feed_forward of {HIDDEN}": HIDDEN, "gates": HIDDEN}
    told, *others = forked.run(start, __file__, "refused", 3, tmp_path)
    assert told == f"engine.tensor_parallel: 3 does not divide the model's feed_forward of {HIDDEN}"
    assert others == ["2", "2"]


@pytest.mark.parametrize("plain", [nn.Linear(4, 4), nn.Embedding(4, 4)])
def test_undeclared_layers_stay_whole(plain: nn.Module) -> None:
    assert dealt_out(plain) == {}
