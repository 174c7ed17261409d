"""Which positions of a padded batch are real?"""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B) -> (B, 1, size): True on the first `lengths` positions."""
    return (torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)
