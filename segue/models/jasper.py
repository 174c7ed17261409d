"""What is Jasper? Blocks of 1-D convolutions; Wave2Letter+ and QuartzNet are configurations of the same architecture.

Li et al. 2019, "Jasper: An End-to-End Convolutional Neural Acoustic Model" (arXiv:1904.03288); Kriman et al. 2019,
"QuartzNet" (arXiv:1910.10261). Layers are those of OpenSeq2Seq; the published sizes are in `recipes/`.

Shape letters: B batch, C channels, D width, T frames.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from segue.layers.mask import length_mask, output_frames
from segue.models.width import WidthMultiplier
from segue.recipe import Section

# OpenSeq2Seq's batch normalization (tdnn_encoder.py): epsilon 1e-3; momentum 0.9 by TensorFlow's definition.
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.1

Size = Annotated[int, Field(gt=0, le=65536)]
Count = Annotated[int, Field(gt=0, le=1000)]


class BlockSection(Section):
    """One block: `repeats` times convolution, batch normalization, ReLU, dropout."""

    channels: Size
    """Output channels."""
    kernel: Size
    """Kernel width in frames; odd."""
    repeats: Count = 1
    """Convolutions in the block (R in "Jasper BxR")."""
    stride: Count = 1
    """Stride of the first convolution."""
    dilation: Count = 1
    """Dilation of the convolutions."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after each activation."""
    has_residual: bool = True
    """Whether residuals are added before the block's last activation; not usual in the first and the last blocks."""


class JasperSection(Section):
    """Jasper, Wave2Letter+ and QuartzNet."""

    kind: Literal["jasper"]
    """Jasper."""
    residual: Literal["dense", "plain", "none"]
    """What a block adds before its last activation: a projection of its own input (plain), or projections of the inputs
    of all residual blocks so far (dense)."""
    is_separable: bool = False
    """QuartzNet: each convolution wider than 1 consists of a depthwise and a pointwise one."""
    blocks: Annotated[tuple[BlockSection, ...], Field(min_length=1)]
    """The blocks, first to last."""
    width_multiplier: WidthMultiplier = 1
    """Multiplies the channels of all blocks. "auto" depends on the amount of training speech: 1 below 5 hours, 2 below
    50, else 4; the result is written into the run's recipe."""

    def widened(self) -> Self:
        """The section with `width_multiplier` applied to its blocks."""
        assert self.width_multiplier != "auto"
        blocks = [each.model_copy(update={"channels": each.channels * self.width_multiplier}) for each in self.blocks]
        return self.model_copy(update={"blocks": tuple(blocks), "width_multiplier": 1})

    def build(self, features: int) -> "Jasper":
        """The encoder for this number of features."""
        return Jasper(self, features)

    @property
    def subsampling(self) -> int:
        """Input frames per output frame."""
        return math.prod(block.stride for block in self.blocks)

    @model_validator(mode="after")
    def _frames_line_up(self) -> Self:
        with_residual = [block.has_residual and self.residual != "none" for block in self.blocks]
        for number, block in enumerate(self.blocks):
            if block.kernel % 2 == 0:
                raise ValueError(f"block {number}: kernel {block.kernel} is even; frames would shift")
            if block.stride != 1 and with_residual[number]:
                raise ValueError(f"block {number}: a block with a residual needs stride 1")
            if block.stride != 1 and self.residual == "dense" and any(with_residual[:number]):
                raise ValueError(f"block {number}: with dense residuals, no stride after the first block that has one")
        return self


class Jasper(nn.Module):
    """An `Encoder` of features for an objective."""

    def __init__(self, section: JasperSection, features: int) -> None:
        super().__init__()
        section = section.widened()
        self.blocks = nn.ModuleList()
        channels = features
        residual_inputs: list[int] = []  # channels of the inputs of dense residuals
        for block in section.blocks:
            sources: list[int] = []
            if block.has_residual and section.residual != "none":
                residual_inputs.append(channels)
                sources = list(residual_inputs) if section.residual == "dense" else [channels]
            self.blocks.append(Block(block, channels, sources, section.is_separable))
            channels = block.channels
        self._is_dense = section.residual == "dense"
        self.width = channels
        """Channels of the output."""
        self.subsampling = section.subsampling
        """Input frames per output frame."""

    def initialize(self) -> None:
        """Initializes the weights as OpenSeq2Seq did."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.xavier_normal_(module.weight)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) normalized features, (B) frames -> (B, D, T'), (B) output frames; D is `width`.

        T' = ceil(T / subsampling). Padding never influences real frames.
        """
        size = features.shape[2]
        mask = length_mask(frames, size)
        x = features.masked_fill(~mask, 0.0)
        block_inputs: list[Tensor] = []  # inputs of the blocks with residuals so far
        for module in self.blocks:
            assert isinstance(module, Block)
            sources: list[Tensor] = []
            if module.residuals:
                block_inputs.append(x)
                sources = block_inputs if self._is_dense else [x]
            if module.stride != 1:
                frames, size = output_frames(frames, module.stride), output_frames(size, module.stride)
                mask = length_mask(frames, size)
            x = module(x, mask, sources)
        return x, frames


class Block(nn.Module):
    """R times (mask, convolution, batch normalization, ReLU, dropout), with residuals added before the last ReLU."""

    def __init__(self, section: BlockSection, channels: int, residual_channels: list[int], is_separable: bool) -> None:
        super().__init__()
        self.stride = section.stride
        self.layers = nn.ModuleList()
        for repeat in range(section.repeats):
            stride = section.stride if repeat == 0 else 1
            self.layers.append(_convolution(section, channels, stride, is_separable))
            channels = section.channels
        self.residuals = nn.ModuleList(
            nn.Sequential(nn.Conv1d(c, section.channels, 1, bias=False), _batch_norm(section.channels))
            for c in residual_channels
        )
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(section.dropout)

    def forward(self, x: Tensor, mask: Tensor, sources: list[Tensor]) -> Tensor:
        """(B, C, T), mask (B, 1, T') of the output, residual inputs (B, C', T) each -> (B, C'', T'), padding 0."""
        padding = ~mask
        for repeat, layer in enumerate(self.layers):
            x = layer(x)
            if repeat + 1 == len(self.layers):
                for residual, source in zip(self.residuals, sources, strict=True):
                    x = x + residual(source)
            # Masking here makes all later convolutions, residual projections included, read zeros in the padding.
            x = self.dropout(self.activation(x.masked_fill_(padding, 0.0)))
        return x


def _convolution(section: BlockSection, channels: int, stride: int, is_separable: bool) -> nn.Sequential:
    """Convolution without bias, "same" padding, then batch normalization."""
    span: dict[str, Any] = {
        "kernel_size": section.kernel,
        "stride": stride,
        "dilation": section.dilation,
        "padding": section.dilation * (section.kernel - 1) // 2,
    }
    if is_separable and section.kernel > 1:
        convolutions = [
            nn.Conv1d(channels, channels, **span, groups=channels, bias=False),  # depthwise: over time
            nn.Conv1d(channels, section.channels, 1, bias=False),  # pointwise: over channels
        ]
    else:
        convolutions = [nn.Conv1d(channels, section.channels, **span, bias=False)]
    return nn.Sequential(*convolutions, _batch_norm(section.channels))


def _batch_norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
