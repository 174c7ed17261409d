"""How does a layer learn with few parameters? By two thin matrices beside its weights, which stay as they are.

LoRA: Hu et al. 2021 (arXiv:2106.09685), equation 3. A convolution is a product with unfolded inputs, and gets the same.

Shape letters: B batch, T positions, I inputs, O outputs, R rank, K kernel.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

A, B = "lora_a", "lora_b"
"""Names of the matrices, beside `weight`."""


class LowRankLinear(nn.Linear):
    """y = W x + b + scale * B A x, where A is (R, I) and B is (O, R), zero at first."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        has_bias, device = layer.bias is not None, layer.weight.device
        super().__init__(layer.in_features, layer.out_features, has_bias, device, layer.weight.dtype)
        self.scale = scale
        self.lora_a = nn.Parameter(torch.empty(rank, layer.in_features, device=device))
        self.lora_b = nn.Parameter(torch.empty(layer.out_features, rank, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes all of them."""
        super().reset_parameters()
        if hasattr(self, A):  # not while torch's own layer is built
            _reset(self.lora_a, self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, I) -> (B, T, O)."""
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale


class LowRankConv1d(nn.Conv1d):
    """The same for a convolution without groups: A is one to R channels, (R, I, K), and B is (O, R)."""

    def __init__(self, layer: nn.Conv1d, rank: int, scale: float) -> None:
        assert layer.groups == 1
        assert layer.padding_mode == "zeros"
        device = layer.weight.device
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            bias=layer.bias is not None,
            device=device,
        )
        self.scale = scale
        self.lora_a = nn.Parameter(torch.empty(rank, *layer.weight.shape[1:], device=device))
        self.lora_b = nn.Parameter(torch.empty(layer.out_channels, rank, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes all of them."""
        super().reset_parameters()
        if hasattr(self, A):
            _reset(self.lora_a, self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, T) -> (B, O, T')."""
        low = F.conv1d(x, self.lora_a, None, self.stride, self.padding, self.dilation)
        return super().forward(x) + F.conv1d(low, self.lora_b.unsqueeze(2)) * self.scale


def adapt(model: nn.Module, matches: Callable[[str], bool], rank: int, scale: float) -> list[str]:
    """Gives each linear layer and convolution whose name `matches` matrices of this rank; returns the names.

    Convolutions with groups, and layers that are a kind of their own, as the output layer of a Transformer, stay.
    """
    adapted = []
    for parent_name, parent in list(model.named_modules()):
        for name, layer in list(parent.named_children()):
            path = f"{parent_name}.{name}" if parent_name else name
            if not is_adaptable(layer) or not matches(path):
                continue
            kind = LowRankLinear if type(layer) is nn.Linear else LowRankConv1d
            setattr(parent, name, kind(layer, rank, scale))
            adapted.append(path)
    return adapted


def is_adaptable(layer: nn.Module) -> bool:
    """Whether `adapt` knows what to do with it."""
    return type(layer) is nn.Linear or (type(layer) is nn.Conv1d and layer.groups == 1)


def is_of_adapter(name: str) -> bool:
    """Whether a tensor of this name is one of the matrices."""
    return name.rpartition(".")[2] in (A, B)


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """(O, I...), (R, I...), (O, R) -> (O, I...): the weights of a plain layer that computes the same; in float32."""
    return weight.float() + scale * (b.float() @ a.float().flatten(1)).view_as(weight)


def _reset(a: Tensor, b: Tensor) -> None:
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    nn.init.zeros_(b)
