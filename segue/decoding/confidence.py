"""How sure is a model in a frame? By entropy: a largest probability alone is overconfident.

Laptev and Ginsburg 2022, "Fast Entropy-Based Methods of Word-Level Confidence Estimation for End-to-End Automatic
Speech Recognition": Tsallis entropy with the exponential normalization, alpha 0.33.

Shape letters: T frames, V vocabulary (blank included).
"""

import math

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.33


def of_frames(log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, V) -> (T) from 0, all tokens are equally probable, to 1, one is certain (equation 8)."""
    vocabulary = log_probs.shape[1]
    entropies = (np.exp(ALPHA * log_probs).sum(axis=1) - 1) / (1 - ALPHA)
    least = math.exp(-(vocabulary ** (1 - ALPHA) - 1) / (1 - ALPHA))
    found: NDArray[np.float32] = (np.exp(-np.maximum(entropies, 0.0)) - least) / (1 - least)
    return np.clip(found, 0.0, 1.0)
