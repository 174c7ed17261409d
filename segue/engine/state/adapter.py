"""What does a run save of which only an adapter learns? The tensors that learn; the others are those of its base."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.state.checkpoint import WEIGHTS, Tensors, checksum_of, load_weights
from segue.errors import UserError
from segue.layers import lora
from segue.recipe import Section

ADAPTER = "adapter.safetensors"
"""In a model directory, in place of the weights: what was learned beside the base."""


class AdapterSection(Section):
    """LoRA: the base's weights stay, and pairs of thin matrices beside them learn (Hu et al. 2021, arXiv:2106.09685).

    The model directory then holds only what was learned, and needs the base; `segue merge` makes a plain model of both.
    """

    rank: Annotated[int, Field(gt=0)] = 8
    """Rows of the first and columns of the second matrix."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The product of the matrices counts alpha / rank times."""
    parts: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Linear layers and convolutions with such matrices, by name, as in ["decoder.*.query", "decoder.*.value"]."""
    learn: tuple[str, ...] = ()
    """Parameters that are trained themselves, by name, as in ["head.*"]: needed where the base has other tokens."""


def matching(names: Iterable[str], pattern: str, key: str) -> list[str]:
    """The names that are `pattern`, with * as wildcard, or in that part of the model.

    A UserError if there are none.
    """
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
    if not found:
        depth = pattern.count(".") + 1
        known = list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in names))
        more = ", ..." * (len(known) > 12)
        raise UserError(f'{key}: "{pattern}" is no part of this model; it has {", ".join(known[:12])}{more}')
    return found


def apply(model: nn.Module, section: AdapterSection) -> None:
    """Adds the matrices, and freezes all but them and what `learn` names. Before the model is distributed."""
    names = [name for name, module in model.named_modules() if lora.is_adaptable(module)]
    chosen = {name for pattern in section.parts for name in matching(names, pattern, "start.adapter.parts")}
    lora.adapt(model, chosen.__contains__, section.rank, section.alpha / section.rank)
    parameters = dict(model.named_parameters())
    learning = {name for pattern in section.learn for name in matching(parameters, pattern, "start.adapter.learn")}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in learning or lora.is_of_adapter(name))


def learned(model: nn.Module) -> set[str]:
    """Names in the state dict that training changes: parameters that are not frozen, and statistics beside these."""
    found = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    beside = {id(norm) for norm in parts.learning_batch_norms(model)}
    for name, module in model.named_modules():
        if id(module) in beside:
            found |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers(recurse=False)}
    return found


def shipped(model: nn.Module) -> tuple[str, Tensors]:
    """The name of the weights file in the model directory, and its tensors."""
    tensors = model.state_dict()
    if not any(map(lora.is_of_adapter, tensors)):
        return WEIGHTS, tensors
    names = learned(model)
    return ADAPTER, {name: tensor for name, tensor in tensors.items() if name in names}


@torch.no_grad()
def restore(
    model: nn.Module,
    folder: Path,
    base: tuple[AdapterSection, str, str] | None,
    renamed: Callable[[Iterable[str]], Mapping[str, str]],
) -> None:
    """Fills a plain model with the weights of a model directory; with an adapter, with those of its `base` and it.

    `base` is the adapter, the base's directory and the checksum of its weights. Raises a UserError if it is gone or
    another.
    """
    if base is None:
        load_weights(model, folder / WEIGHTS, renamed)
        return
    section, directory, checksum = base
    weights = _weights_of(directory)
    remedy = f"put the base back, or correct start.model in {folder / 'recipe.toml'}"
    if weights is None:
        raise UserError(f"{folder}: an adapter of {directory}, which is not there; {remedy}")
    if checksum_of(weights) != checksum:
        raise UserError(f"{folder}: an adapter of other weights than {weights} has now, by its checksum; {remedy}")
    try:
        with safe_open(folder / ADAPTER, framework="pt") as own, safe_open(weights, framework="pt") as of_base:
            tensors = model.state_dict()
            for name, value in _values(tensors, own, of_base, renamed(of_base.keys()), section):
                tensors[name].copy_(value)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder / ADAPTER}: damaged, or not of its recipe ({error}); copy it again") from None


def _values(
    tensors: Tensors, own: Any, of_base: Any, saved: Mapping[str, str], section: AdapterSection
) -> Iterator[tuple[str, Tensor]]:
    names = set(own.keys())
    for name in tensors:
        value = own.get_tensor(name) if name in names else of_base.get_tensor(saved[name])
        a, b = (f"{name.rpartition('.')[0]}.{matrix}" for matrix in (lora.A, lora.B))
        if name.endswith(".weight") and a in names:
            value = lora.merged(value, own.get_tensor(a), own.get_tensor(b), section.alpha / section.rank)
        if value.shape != tensors[name].shape:
            raise KeyError(f"{name} is of shape {tuple(value.shape)}, not {tuple(tensors[name].shape)}")
        yield name, value


def _weights_of(directory: str) -> Path | None:
    """The weights of a run or model directory."""
    paths = (Path(directory) / "model" / WEIGHTS, Path(directory) / WEIGHTS)
    return next((path for path in paths if path.is_file()), None)
