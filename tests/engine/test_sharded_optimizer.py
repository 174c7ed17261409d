"""Ranks that hold parts of a model take the steps of one process that holds all of it."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import forked
import pytest
import torch
import torch.distributed as dist
from ranks import Start
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

from segue.engine.distributed import parts
from segue.engine.optimizer import AdamWSection, LARCSection, MuonSection, NovoGradSection, OptimizerSection, Updater

RATES = (0.5, 1.0, 0.7, 0.4, 0.1)
CLIP, SCALE = LARCSection(trust=0.02), LARCSection(mode="scale", trust=0.02)
SECTIONS: dict[str, OptimizerSection] = {
    "adamw": AdamWSection(kind="adamw", learning_rate=0.01, weight_decay=0.1, larc=CLIP),
    "novograd": NovoGradSection(kind="novograd", learning_rate=0.01, betas=(0.9, 0.5), weight_decay=0.1, larc=SCALE),
    "muon": MuonSection(kind="muon", learning_rate=0.01, adamw_learning_rate=0.01, weight_decay=0.1),
}
LAYOUTS = {2: "mixed", 4: "nested"}
"""Of so many ranks: tensors of one layer are tensor-parallel, of others sharded, of others whole; or shards of
tensor-parallel parts."""


class Found(NamedTuple):
    """A rank's."""

    weights: dict[str, Tensor]
    """Whole, after 5 steps."""
    resumed: dict[str, Tensor]
    """The same, by another updater from step 3 on."""
    rows: dict[str, int]
    """Of its part of each parameter."""
    largest: list[float]
    """Infinity norm of each whole parameter."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


class Model(nn.Module):
    """Two ranks share 3 rows unevenly; of 1 row, one has nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.layers = nn.ModuleList([Layer(), Layer(), nn.Linear(4, 3), nn.Linear(3, 1)])
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """(P) -> (P, 3)"""
        first, second, narrow, gate = self.layers
        x = narrow(self.norm(second(first(self.embedding(tokens)))))
        return self.head(x * gate(x))  # type: ignore[no-any-return]


def new_model(layout: str) -> Model:
    torch.manual_seed(0)
    model = Model()
    first, second, *rest = model.layers
    split = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    if layout == "mixed":
        mesh = init_device_mesh("cpu", (2,))
        parallelize_module(first, mesh, split)
        for layer in (second, *rest):
            fully_shard(layer, mesh=mesh)
    elif layout == "nested":
        meshes = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
        for layer in (first, second):
            parallelize_module(layer, meshes["tensor"], split)
        for module in (*model.layers, model):
            fully_shard(module, mesh=meshes["shard"])
    return model


def learn(model: nn.Module, updater: Updater, steps: range) -> None:
    """All ranks see the same data."""
    for step in steps:
        torch.manual_seed(step)
        tokens = torch.randint(3, (16,))
        F.cross_entropy(model(tokens), tokens.flip(0)).backward()  # type: ignore[no-untyped-call]
        updater.step(RATES[step])
        updater.clear()


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parts.whole(parameter).clone() for name, parameter in model.named_parameters()}


def learned(rank: int, folder: Path) -> dict[str, tuple[Any, ...]]:
    """What is found of each section. Not as `Found`, which is another class in the process that reads it."""
    found: dict[str, tuple[Any, ...]] = {}
    size = dist.get_world_size()
    for name, section in SECTIONS.items():
        model, resumed = new_model(LAYOUTS[size]), new_model(LAYOUTS[size])
        updater, resumed_updater = Updater(section, model), Updater(section, resumed)
        learn(model, updater, range(3))
        weights, state = model.state_dict(), updater.tensors()
        saved = {key: parts.spread_like(parts.local(tensor).clone(), tensor) for key, tensor in state.items()}
        state_dict_saver.save({"model": weights, "optimizer": state}, checkpoint_id=folder / name)
        resumed.load_state_dict(weights)
        resumed_updater.load(saved)
        learn(model, updater, range(3, 5))
        learn(resumed, resumed_updater, range(3, 5))
        rows = {key: parts.local(parameter).shape[0] for key, parameter in model.named_parameters()}
        trained = updater.parameters
        largest = parts.whole_norms([parts.local(parameter) for parameter in trained], trained, math.inf).tolist()
        found[name] = (whole_weights(model), whole_weights(resumed), rows, largest)
    return found


class Ranks(NamedTuple):
    folder: Path
    found: list[dict[str, Found]]
    """By rank and section."""


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda size: f"{size}_ranks")
def ranks(request: pytest.FixtureRequest, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks")
    loaded = forked.run(start, __file__, "learned", request.param, folder)
    return Ranks(folder, [{name: Found(*each) for name, each in of_rank.items()} for of_rank in loaded])


def of_one_process(section: OptimizerSection) -> dict[str, Tensor]:
    model = new_model("whole")
    learn(model, Updater(section, model), range(5))
    return whole_weights(model)


NAMES = pytest.mark.parametrize("name", SECTIONS)


@NAMES
def test_ranks_take_the_steps_of_one_process(ranks: Ranks, name: str) -> None:
    expected, before = of_one_process(SECTIONS[name]), whole_weights(new_model("whole"))
    for of_rank in ranks.found:
        torch.testing.assert_close(of_rank[name].weights, expected, rtol=0, atol=1e-6)
    for key, weight in expected.items():
        assert (weight - before[key]).abs().max() > 1e-3, key


@NAMES
def test_ranks_agree_to_the_bit(ranks: Ranks, name: str) -> None:
    first, *others = [of_rank[name].weights for of_rank in ranks.found]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


@NAMES
def test_ranks_that_resume_go_on_to_the_bit(ranks: Ranks, name: str) -> None:
    for of_rank in ranks.found:
        torch.testing.assert_close(of_rank[name].resumed, of_rank[name].weights, rtol=0, atol=0)


@NAMES
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_one_process_goes_on_from_what_ranks_saved(ranks: Ranks, name: str) -> None:
    model = new_model("whole")
    updater = Updater(SECTIONS[name], model)
    saved = {"model": model.state_dict(), "optimizer": updater.tensors()}
    state_dict_loader.load(saved, checkpoint_id=ranks.folder / name)
    learn(model, updater, range(3, 5))
    torch.testing.assert_close(whole_weights(model), of_one_process(SECTIONS[name]), rtol=0, atol=1e-6)


def test_norms_are_of_whole_tensors(ranks: Ranks) -> None:
    for found in ranks.found[0].values():
        assert found.largest == [float(weight.abs().max()) for weight in found.weights.values()]


def test_parts_of_ranks_are_uneven_and_empty(ranks: Ranks) -> None:
    rows = [of_rank["adamw"].rows for of_rank in ranks.found]
    assert {of_rank["layers.2.weight"] for of_rank in rows} == {1, 2}
    assert {of_rank["layers.3.weight"] for of_rank in rows} == {0, 1}


def test_offloaded_parts_stay_in_cpu_memory() -> None:
    # "meta" stands for a GPU: the devices of the mesh are not where the part is.
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    try:
        part, mesh = torch.arange(6.0).view(3, 2), DeviceMesh("meta", [0])
        tensor = DTensor.from_local(part, mesh, [Shard(0)], run_check=False)
        assert tensor.to_local().is_meta
        assert parts.local(parts.spread_like(part, tensor)).data_ptr() == part.data_ptr()
        torch.testing.assert_close(parts.own_part(part, tensor), part)
    finally:
        dist.destroy_process_group()
