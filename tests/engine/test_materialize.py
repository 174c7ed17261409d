"""A model gets the same numbers on any layout."""

import hashlib
import json
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from ranks import Start
from torch import Tensor, nn

from segue import recipe
from segue.engine.distributed import parts
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.materialize import blueprint, make_room, materialize
from segue.engine.distributed.parallel import Parallel, World
from segue.engine.state.checkpoint import load_weights, write_tensors
from segue.errors import UserError
from segue.models.transformer import Transformer, TransformerSection
from segue.tasks.speech_recognition.model import AcousticModel
from segue.tasks.speech_recognition.settings import Recipe

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"width": 12, "feed_forward": 20, "heads": 2, "encoder_layers": 2, "decoder_layers": 1}
SPEECH = """
task = "speech_recognition"
[data]
root = "none"
[tokenizer]
kind = "characters"
alphabet = " abcd"
[model]
kind = "jasper"
residual = "dense"
is_separable = true
blocks = [
  { channels = 6, kernel = 7, stride = 2, has_residual = false },
  { channels = 6, kernel = 7, repeats = 2 },
  { channels = 5, kernel = 1, has_residual = false },
]
[batch]
seconds = 3.0
[optimizer]
kind = "novograd"
learning_rate = 0.03
betas = [0.95, 0.5]
[schedule]
kind = "constant"
[engine]
steps = 1
"""


def transformer(**sizes: Any) -> Transformer:
    section = TransformerSection.model_validate({"kind": "transformer", **SIZES, **sizes}, strict=True)
    return Transformer(section, 7, 7)


def jasper() -> AcousticModel:
    return AcousticModel(recipe.loads(SPEECH, Recipe), 5)


MODELS = {
    "transformer": transformer,
    "swiglu": lambda: transformer(activation="swiglu", tied="none", norm="post"),
    "jasper": jasper,
}


def digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(name.encode() + parts.whole(tensor).contiguous().numpy().tobytes())
    return found.hexdigest()


def everything(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_the_cpu(name: str) -> None:
    torch.manual_seed(3)
    built = MODELS[name]()
    after = torch.rand(1)
    model = blueprint(MODELS[name])
    assert all(parameter.is_meta for parameter in model.parameters())
    torch.manual_seed(3)
    materialize(model, CPU)
    assert torch.equal(torch.rand(1), after)
    assert digest(everything(model)) == digest(everything(built))


LAYOUTS = {2: [(2, 1, 1), (1, 2, 1), (1, 1, 2)], 4: [(1, 4, 1), (2, 2, 1), (1, 2, 2)]}


def spread(rank: int, folder: Path, layouts: str) -> list[str]:
    """A digest of all whole tensors, for each model and layout."""
    found = []
    for name in MODELS:
        for sizes in json.loads(layouts):
            layout = Layout(*sizes)
            if layout.tensor_parallel > 1 and name == "jasper":
                continue
            model = blueprint(MODELS[name])
            parallel = Parallel(World(rank, layout.size), layout, CPU)
            torch.manual_seed(3)
            parallel.spread(model, torch.float32, is_offloaded=layout == Layout(1, 2, 1) and name == "swiglu")
            held = sum(parts.local(each).numel() for each in model.parameters())
            if layout.shard > 1:
                assert held < 0.8 * sum(each.numel() for each in model.parameters())
            for tensor in model.parameters():
                whole = parts.whole(tensor)
                assert torch.equal(parts.own_part(whole, tensor), parts.local(tensor))
            found.append(f"{name} {digest(everything(model))}")
    return found


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_values_are_the_same_on_any_layout(start: Start, size: int, tmp_path: Path) -> None:
    wanted = {}
    for name, build in MODELS.items():
        torch.manual_seed(3)
        wanted[name] = digest(everything(build()))
    for of_rank in forked.run(start, __file__, "spread", size, tmp_path, json.dumps(LAYOUTS[size])):
        assert len(of_rank) >= 2 * len(LAYOUTS[size])
        for line in of_rank:
            name, found = line.split(" ")
            assert found == wanted[name], name


def loaded(rank: int, folder: Path) -> list[str]:
    """A digest of what was read into each spread model."""
    found = []
    for name in MODELS:
        for layout in (Layout(1, 2, 1), Layout(1, 1, 2)):
            if layout.tensor_parallel > 1 and name == "jasper":
                continue
            model = blueprint(MODELS[name])
            torch.manual_seed(9)
            Parallel(World(rank, 2), layout, CPU).spread(model, torch.float32, is_offloaded=False)
            load_weights(model, folder / f"{name}.safetensors")
            found.append(f"{name} {digest(everything(model))}")
    return found


def test_each_rank_reads_its_parts(start: Start, tmp_path: Path) -> None:
    wanted = {}
    for name, build in MODELS.items():
        torch.manual_seed(3)
        model = build()
        write_tensors(tmp_path / f"{name}.safetensors", model.state_dict())
        wanted[name] = digest(everything(model))
    for of_rank in forked.run(start, __file__, "loaded", 2, tmp_path):
        assert of_rank == [f"{name} {wanted[name]}" for name in ("transformer",) * 2 + ("swiglu",) * 2 + ("jasper",)]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "x.safetensors", transformer(activation="swiglu")
    write_tensors(path, transformer(feed_forward=30).state_dict())
    before = digest(everything(model))
    with pytest.raises(UserError, match=r"feed_forward\.down\.weight is of shape \(12, 30\), not \(12, 20\)"):
        load_weights(transformer(), path)
    with pytest.raises(UserError, match=r"feed_forward\.gate\.bias is missing"):
        load_weights(model, path)
    assert digest(everything(model)) == before


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("table", torch.arange(3), persistent=False)


def test_parameters_left_without_values_are_named() -> None:
    with pytest.raises(AssertionError, match="gives a value to scale, table"):
        materialize(blueprint(Forgetful), CPU)
    with pytest.raises(AssertionError, match="by torch's functions: table"):
        make_room(blueprint(Forgetful), CPU)


def test_existing_values_are_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 3), blueprint(lambda: nn.Linear(3, 3)))
    before = model.get_parameter("0.weight").detach().clone()
    materialize(model, CPU)
    assert torch.equal(model.get_parameter("0.weight"), before)
    assert not any(parameter.is_meta for parameter in model.parameters())
