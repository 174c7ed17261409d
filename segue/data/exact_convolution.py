"""How does a GPU transform a signal exactly? By convolutions without TF32.

A module of its own: it imports torch's compiler, which takes two seconds, and only CUDA needs it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the compiler cannot trace the switch
def exact_conv1d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """conv1d without TF32: in a Fourier transform with its 10-bit mantissa, loud bins would mask quiet ones."""
    switch: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    chosen, switch.fp32_precision = switch.fp32_precision, "ieee"
    try:
        return F.conv1d(x, weight, stride=stride)
    finally:
        switch.fp32_precision = chosen
