"""How are positions encoded? Sinusoids added to embeddings, or rotations of queries and keys.

Shape letters: T tokens, D width, d width of a head.
"""

import math

import torch
from torch import Tensor

WAVELENGTH_BASE = 10_000.0  # Vaswani et al. 2017, section 3.5; Su et al. 2021, equation 15


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """(T) -> (T, D): sines in the first half of the width, cosines in the second (Vaswani et al. 2017, section 3.5).

    The paper interleaves them; this is the same up to the order of dimensions, and Marian's layout.
    """
    angles = positions.float().unsqueeze(1) * _frequencies(width, positions.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """(..., T, d), (T) -> (..., T, d): rotates pairs of dimensions (i, i + d/2) by position times frequency i.

    Su et al. 2021 (arXiv:2104.09864), equation 34, with Llama's order of dimensions.
    """
    angles = positions.float().unsqueeze(1) * _frequencies(x.shape[-1], x.device)  # (T, d/2)
    cosines, sines = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def _frequencies(width: int, device: torch.device) -> Tensor:
    """(width / 2) radians per position, decreasing from 1."""
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    return torch.exp(-math.log(WAVELENGTH_BASE) * exponents)
