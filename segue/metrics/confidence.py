"""Are confidences right? Their calibration, and whether they tell right words from wrong ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 10

Values = Sequence[float] | NDArray[np.float64]
Rights = Sequence[bool] | NDArray[np.bool_]


def calibration_error(confidences: Values, is_right: Rights) -> float:
    """Expected calibration error: the mean difference between confidence and share of right words, in bins of 0.1
    (Naeini et al. 2015)."""
    given, right = np.asarray(confidences, np.float64), np.asarray(is_right, np.float64)
    bins = np.minimum((given * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    differences = np.bincount(bins, given - right, NUM_BINS)
    return float(np.abs(differences).sum() / len(given))


def area_under_roc(confidences: Values, is_right: Rights) -> float | None:
    """The probability that a right word has a higher confidence than a wrong one, ties counting half; None if all are
    right, or all wrong."""
    given, right = np.asarray(confidences, np.float64), np.asarray(is_right, np.bool_)
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    if not num_right or not num_wrong:
        return None
    _, places, counts = np.unique(given, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # from 1, equal ones share their mean
    return float((ranks[right].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))
