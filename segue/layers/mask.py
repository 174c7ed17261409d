"""Which positions of a padded batch are real?"""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B) -> (B, 1, size): True on the first `lengths` positions."""
    return (torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)


def real_places(lengths: Tensor, size: int) -> Tensor:
    """(B) -> (P): where the first `lengths` positions of each row lie among all, row after row."""
    return length_mask(lengths, size).flatten().nonzero().squeeze(1)
