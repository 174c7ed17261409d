"""What can be configured about training? The `[engine]` table of every recipe."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from segue.engine.precision import BackoffSection, LossScalingSection, Matmul, Precision
from segue.recipe import Section

Steps = Annotated[int, Field(gt=0)]
Ranks = Annotated[int, Field(gt=0)]
_EPOCHS = r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?epochs?"


def _is_auto_or_epochs(value: int | str) -> int | str:
    if isinstance(value, str) and value != "auto" and not epochs(value):
        raise ValueError(f'should be a number of steps, "auto", or a number of epochs as in "20 epochs", not "{value}"')
    return value


_Open = Annotated[str, Field(json_schema_extra={"pattern": f"^(auto|{_EPOCHS})$"})]
StepCount = Annotated[Steps | _Open, AfterValidator(_is_auto_or_epochs)]
"""A number of steps, or "auto" or epochs ("20 epochs"), which `training.py` resolves to one from the training data."""


def epochs(value: int | str) -> float:
    """The number of epochs in a text such as "20 epochs" or "1epoch"; 0 for anything else."""
    found = re.fullmatch(_EPOCHS, value) if isinstance(value, str) else None
    return float(found[1]) if found else 0.0


def counted(value: int | str) -> int:
    """A resolved `StepCount`; all are resolved before training begins."""
    assert isinstance(value, int)
    return value


class EngineSection(Section):
    """How long and on what to train."""

    steps: StepCount
    """Optimizer steps in the whole run. Also epochs, as in "20 epochs" (20epochs on a command line), or "auto": 100
    epochs for small data, fewer for larger data, at least 1,000 steps. The resulting number is written into the run's
    recipe."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: cuda if available, else cpu. mps is untested."""
    precision: Precision = "float32"
    """Number format of the forward pass; weights stay float32. float16 scales the loss."""
    loss_scaling: LossScalingSection = BackoffSection(kind="backoff")
    """Loss scaling of float16, which keeps small gradients from becoming 0."""
    matmul: Matmul = "ieee"
    """Float32 matrix products on CUDA: ieee, or tf32, which is several times faster with a 10-bit mantissa."""
    compile: bool = False
    """Compile the model (torch.compile): minutes at the start, faster steps."""
    recompute: bool = False
    """Activation checkpointing: keep only the inputs of each layer, compute the rest again in the backward pass."""
    data_parallel: Ranks | None = None
    """Copies of the model (DDP); by default as many as the number of ranks allows."""
    shard: Ranks | None = None
    """Ranks over which one copy's weights, gradients and optimizer state are sharded (FSDP); by default as few as
    memory allows, or all ranks that `data_parallel` does not use."""
    tensor_parallel: Ranks = 1
    """Ranks that compute each layer together; must divide the model's number of heads."""
    offload: bool = False
    """With `shard`: keep weights, gradients and optimizer state in CPU memory."""
    evaluate_sharded: bool = False
    """Evaluate the sharded model, all ranks in lockstep: slower, but no rank ever needs memory for a whole model.
    Without it each rank evaluates with a whole model."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads of the model; by default the usable cores, shared by the processes of a machine. OMP_NUM_THREADS is
    not read: torchrun sets it to 1."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes per rank that prefetch data; 0 reads in the training process. Results do not depend on it."""
    log_every: Steps = 10
    """Steps between lines in metrics.jsonl."""
    evaluate_every: StepCount = 500
    """Steps between evaluations on the development data; the last step is always evaluated. Also epochs, as in
    "1 epoch", or "auto": 20 evaluations in the run."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Stop after this number of consecutive evaluations without improvement; by default, stop only at `steps`."""
    save_every: StepCount = 500
    """Steps between checkpoints; the last step is always saved. Also epochs, or "auto": as between evaluations,
    1,000 at most."""
    keep_checkpoints: Steps = 2
    """Checkpoints that are kept."""
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Trackers that are logged to besides metrics.jsonl and TensorBoard: Weights & Biases, MLflow."""
    watchdog_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """Stop the training if a rank makes no progress for this long; its step and examples are reported."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Clip the gradient to this norm, over all parameters."""
    moving_average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and keep an exponential moving average of the weights."""
    average_count: Annotated[int, Field(ge=0)] = 0
    """At the end, average the weights of this many evaluations and keep the average as the model; 0 or 1: off."""
    average_by: Literal["last", "best"] = "last"
    """Which evaluations are averaged."""
    batch_norm_micro_batches: Annotated[int, Field(gt=0)] = 50
    """Micro-batches from which BatchNorm statistics of averaged weights are estimated."""
