"""In which number format does a model compute? float32, or bfloat16 where the hardware has units for it."""

import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from segue.errors import warn

Precision = Literal["float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context for a forward pass: weights stay float32; losses, softmax and norms do too."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def check(precision: Precision, device: torch.device) -> None:
    """Warns where bfloat16 would be emulated: measured eight times slower than float32."""
    if precision == "bfloat16" and device.type == "cpu" and not _has_bfloat16_units():
        warn("engine.precision: this processor has no bfloat16 units; float32 is about 8 times faster here")


def _has_bfloat16_units() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return True  # not known; Arm servers have them
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
