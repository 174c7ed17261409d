"""In which number format does a model compute, and what does it keep? float32, bfloat16, or float16 with loss scaling.

Weights, gradients, losses, softmax and norms are float32 in each of them.
"""

import math
import platform
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.utils.checkpoint import checkpoint

from segue.engine.distributed.parts import batch_norms, units
from segue.errors import UserError, warn
from segue.recipe import Section

Precision = Literal["float32", "bfloat16", "float16"]
Matmul = Literal["ieee", "tf32"]
Scale = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PATIENCE = 100
"""Consecutive steps without finite gradients at a static loss scale, after which a run stops."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context for a forward pass."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def check(precision: Precision, device: torch.device) -> None:
    """Raises a UserError if the device does not support this format; warns if it would be slower than float32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"engine.precision: {torch.cuda.get_device_name(device)} has no bfloat16; use float16")
        if precision == "float16" and capability < (5, 3):
            raise UserError(f"engine.precision: {torch.cuda.get_device_name(device)} has no float16; use float32")
    elif device.type == "cpu":
        # Measured eight times slower than float32 where it is emulated.
        if precision == "bfloat16" and not _has_bfloat16_units():
            warn("engine.precision: this processor has no bfloat16 units; float32 is about 8 times faster here")
        if precision == "float16" and not _has_float16_units():
            warn("engine.precision: this processor has no float16 units; float32 is faster here, and needs no scaling")


def set_matmul(matmul: Matmul) -> None:
    """Sets how CUDA computes float32 matrix products and convolutions."""
    # The old switch is set as well, and first: with only the new ones set to "ieee", torch cannot read the old one
    # back, and exports fail.
    torch.backends.cudnn.allow_tf32 = matmul == "tf32"
    torch.backends.cuda.matmul.fp32_precision = matmul
    torch.backends.cudnn.conv.fp32_precision = matmul  # type: ignore[attr-defined]  # torch's own default is tf32
    torch.backends.cudnn.rnn.fp32_precision = matmul  # type: ignore[attr-defined]


def _has_bfloat16_units() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return True  # unknown; Arm servers have them
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _has_float16_units() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return torch.cpu._is_amx_fp16_supported()


# --- Recomputation ---


def recompute(model: nn.Module) -> None:
    """Activation checkpointing: each layer keeps only its input (Chen et al. 2016, arXiv:1604.06174). In place.

    A layer is an item of a ModuleList. The recomputation does not update BatchNorm's running statistics.
    """
    for unit in units(model):
        norms = batch_norms(unit)
        contexts = partial(_contexts, norms) if norms else None
        options: dict[str, Any] = {} if contexts is None else {"context_fn": contexts}
        unit.forward = partial(_checkpointed, unit.forward, options)


def _checkpointed(forward: Any, options: dict[str, Any], *inputs: Any) -> Any:
    # Lists are copied: the list of inputs of Jasper's blocks grows from block to block.
    kept = [list(each) if isinstance(each, list) else each for each in inputs]
    return checkpoint(forward, *kept, use_reentrant=False, **options)


def _contexts(norms: list[Any]) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), _OnCopies(norms)


class _OnCopies:
    """Inside, BatchNorm updates copies of its statistics.

    Without any statistics torch would save fewer tensors than in the first forward pass, which checkpointing refuses.
    """

    def __init__(self, norms: list[Any]) -> None:
        self._norms = norms

    def __enter__(self) -> None:
        self._own = [dict(norm._buffers) for norm in self._norms]
        for norm in self._norms:
            norm._buffers.update({name: buffer.clone() for name, buffer in norm._buffers.items()})

    def __exit__(self, *_: object) -> None:
        for norm, own in zip(self._norms, self._own, strict=True):
            norm._buffers.update(own)


# --- Loss scaling ---


class BackoffSection(Section):
    """Halved on overflow, doubled after `window` steps without; never above its initial value, as in OpenSeq2Seq."""

    kind: Literal["backoff"]
    """Backoff."""
    maximum: Scale = 2.0**14
    """Initial and largest value."""
    minimum: Scale = 1.0
    """Smallest value."""
    factor: Annotated[float, Field(gt=1)] = 2.0
    """The scale is divided or multiplied by this."""
    window: Annotated[int, Field(gt=0)] = 2000
    """Steps without an overflow before the scale grows."""


class LogMaxSection(Section):
    """2 ** (log_max - mean - deviations * sigma), as in OpenSeq2Seq: assumes a log-normal largest gradient."""

    kind: Literal["logmax"]
    """LogMax."""
    minimum: Scale = 1.0
    """Smallest and initial value."""
    maximum: Scale = 2.0**14
    """Largest value."""
    log_max: float = 16.0
    """Base-2 logarithm of the largest float16."""
    decay_mean: Share = 0.99
    """Decay of the average of log2 of the largest gradient."""
    decay_square: Share = 0.999
    """Decay of the averages from which its variance is computed."""
    deviations: Scale = 3.09
    """Standard deviations above the mean that must not overflow; 3.09: 1 overflow in 1000 steps."""


class StaticSection(Section):
    """A constant scale."""

    kind: Literal["static"]
    """Static."""
    scale: Scale
    """The loss is multiplied by this."""


LossScalingSection = Annotated[BackoffSection | LogMaxSection | StaticSection, Field(discriminator="kind")]


class LossScale:
    """The factor of a float16 loss before the backward pass (Micikevicius et al. 2018, arXiv:1710.03740)."""

    def __init__(self, section: LossScalingSection) -> None:
        self._section = section
        self.state: dict[str, float] = {"num_clean": 0, "num_overflows_in_a_row": 0}
        """The complete state, JSON-serializable."""
        if isinstance(section, StaticSection):
            self.state["scale"] = section.scale
        elif isinstance(section, BackoffSection):
            self.state["scale"] = section.maximum
        else:
            self.state |= {"scale": section.minimum, "num_seen": 0, "mean": 0.0, "slow_mean": 0.0, "square": 0.0}

    @property
    def value(self) -> float:
        """The scale of the next step."""
        return self.state["scale"]

    def update(self, largest: float | None) -> None:
        """Call after each step with the largest magnitude of the unscaled gradient, None if that was not finite.

        Raises a UserError if gradients are not finite and the scale cannot be lowered.
        """
        section, state = self._section, self.state
        is_clean = largest is not None
        state["num_clean"] = state["num_clean"] + 1 if is_clean else 0
        state["num_overflows_in_a_row"] = 0 if is_clean else state["num_overflows_in_a_row"] + 1
        is_lowest = isinstance(section, StaticSection) or state["scale"] <= section.minimum
        patience = PATIENCE if isinstance(section, StaticSection) else 1
        if is_lowest and state["num_overflows_in_a_row"] >= patience:
            raise UserError(
                f"engine.loss_scaling: the gradients are not finite at the smallest loss scale ({state['scale']:g}); a "
                "lower optimizer.learning_rate or engine.clip_norm may help, or engine.precision bfloat16 or float32"
            )
        if isinstance(section, BackoffSection):
            if not is_clean:
                state["scale"] = max(section.minimum, state["scale"] / section.factor)
            elif state["num_clean"] % section.window == 0:
                state["scale"] = min(section.maximum, state["scale"] * section.factor)
        elif isinstance(section, LogMaxSection):
            self._follow(section, largest)

    def _follow(self, section: LogMaxSection, largest: float | None) -> None:
        state = self.state
        # An overflow counts as an unscaled gradient of the largest float16, which widens the variance at once.
        seen = section.log_max if largest is None else math.log2(max(largest, 2.0**-24))
        state["num_seen"] += 1
        for name, decay, value in (
            ("mean", section.decay_mean, seen),
            ("slow_mean", section.decay_square, seen),
            ("square", section.decay_square, seen * seen),
        ):
            state[name] = decay * state[name] + (1 - decay) * value
        fast, slow = (1 - decay ** state["num_seen"] for decay in (section.decay_mean, section.decay_square))
        variance = max(0.0, state["square"] / slow - (state["slow_mean"] / slow) ** 2)
        cutoff = state["mean"] / fast + section.deviations * math.sqrt(variance)
        state["scale"] = min(section.maximum, max(section.minimum, 2.0 ** (section.log_max - cutoff)))
