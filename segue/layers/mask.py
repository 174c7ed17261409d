"""Which positions of a padded batch are real?"""

from typing import TypeVar

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B) -> (B, 1, size): True on the first `lengths` positions."""
    return (torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)


def real_places(lengths: Tensor, size: int) -> Tensor:
    """(B) -> (P): indices of the first `lengths` positions of each row in the flattened (B, size) batch."""
    return length_mask(lengths, size).flatten().nonzero().squeeze(1)


Frames = TypeVar("Frames", Tensor, int)


def output_frames(frames: Frames, stride: int) -> Frames:
    """Number of output frames of a convolution with this stride: ceil(frames / stride)."""
    return (frames + stride - 1) // stride
