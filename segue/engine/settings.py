"""What can be chosen about training? The `[engine]` table of every recipe."""

from typing import Annotated, Literal

from pydantic import Field

from segue.engine.precision import BackoffSection, LossScalingSection, Matmul, Precision
from segue.recipe import Section

Steps = Annotated[int, Field(gt=0)]
Ranks = Annotated[int, Field(gt=0)]


class EngineSection(Section):
    """How long and on what to train."""

    steps: Steps
    """Optimizer steps in the whole run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes cuda, else cpu. Nobody has tried mps yet."""
    precision: Precision = "float32"
    """Number format of the forward pass; weights stay float32. float16 scales the loss."""
    loss_scaling: LossScalingSection = BackoffSection(kind="backoff")
    """How float16 keeps small gradients from becoming 0."""
    matmul: Matmul = "ieee"
    """Products of float32 matrices on CUDA: ieee, or tf32, which is several times faster and keeps 10 bits."""
    compile: bool = False
    """Compile the model (torch.compile): minutes at the start, faster steps."""
    recompute: bool = False
    """Activation checkpointing: keep only the inputs of each layer, compute the rest again in the backward pass."""
    data_parallel: Ranks | None = None
    """Copies of the model; without it, what the ranks allow."""
    shard: Ranks | None = None
    """Ranks that share one copy's weights, gradients and optimizer (FSDP); without it, as few as memory allows, or what
    `data_parallel` leaves."""
    tensor_parallel: Ranks = 1
    """Ranks that compute each layer together; they divide the model's heads."""
    offload: bool = False
    """With `shard`: keep weights, gradients and optimizer in the processor's memory."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads of the model; without it, as many as there are cores to use."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes that read data ahead, for each rank; 0 reads in the training process. It never changes a result."""
    log_every: Steps = 10
    """Steps between lines in metrics.jsonl."""
    evaluate_every: Steps = 500
    """Steps between evaluations on the development data; the last step is always evaluated."""
    save_every: Steps = 500
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Steps = 2
    """Checkpoints that are kept."""
    watchdog_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """A rank that gets no further for so long is named, with its step and examples, and the training stops."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the whole gradient."""
    moving_average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and keep an exponential moving average of the weights."""
    average_count: Annotated[int, Field(ge=0)] = 0
    """At the end, average the weights of so many evaluations and keep that as the model; 0 or 1 does not."""
    average_by: Literal["last", "best"] = "last"
    """Which evaluations those are."""
    batch_norm_micro_batches: Annotated[int, Field(gt=0)] = 50
    """Micro-batches from which BatchNorm statistics of averaged weights are estimated."""
