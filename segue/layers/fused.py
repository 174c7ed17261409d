"""How are several linear layers of the same input computed at once? By one product with their matrices side by side.

Faster for small models; the layers keep their own parameters and names, and tensor parallelism splits each by itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from segue.layers.residual import Portion, by_columns

Fused = tuple[Tensor, Tensor | None]
"""Weights and biases of several layers, concatenated."""


def at_once(x: Tensor, layers: Sequence[nn.Linear], fused: Fused | None, portion: Portion | None = None) -> Tensor:
    """(..., I) -> (..., sum of O): the outputs of the layers, concatenated; `fused` is of `side_by_side`, if known.

    Of a `portion` of the residual stream, (p, I) -> (B, T, sum of O).
    """
    if portion is not None:
        return by_columns(x, layers, portion)
    if fused is not None:
        return F.linear(x, *fused)
    if not are_plain(layers):
        return torch.cat([layer(x) for layer in layers], dim=-1)
    biases = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(x, torch.cat([layer.weight for layer in layers]), biases)


def are_plain(layers: Sequence[nn.Linear]) -> bool:
    """Whether they are linear layers as they are, not adapted, nor split over ranks."""
    return all(type(layer) is nn.Linear and not isinstance(layer.weight, DTensor) for layer in layers)


def side_by_side(layers: Sequence[nn.Linear]) -> Fused | None:
    """For inference: the layers' weights and biases in one piece, of which their own become views; if plain.

    In memory the weights are (I, sum of O): a product of a single row with a wide matrix takes half the time so (MKL).
    """
    if not are_plain(layers):
        return None
    sizes = [layer.out_features for layer in layers]
    weights = torch.cat([layer.weight.detach().t() for layer in layers], dim=1).t()
    biases = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
    for layer, part in zip(layers, torch.split(weights, sizes), strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    if biases is not None:
        for layer, part in zip(layers, torch.split(biases, sizes), strict=True):
            layer.bias = nn.Parameter(part, requires_grad=False)
    return weights, biases


def fuse(model: nn.Module) -> None:
    """Fuses the layers of a model that will only be used for inference, on the device where it is."""
    for module in reversed(list(model.modules())):  # a model after its layers
        own = getattr(module, "fuse", None)
        if callable(own):
            own()
