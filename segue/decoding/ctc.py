"""How are CTC scores decoded? Greedy search.

Connectionist temporal classification: Graves et al. 2006. NumPy only, so that inference needs no torch.

Shape letters: T frames, V vocabulary (blank included).
"""

import numpy as np
from numpy.typing import NDArray

from segue.decoding.confidence import of_frames
from segue.decoding.emissions import Emission


def greedy(log_probs: NDArray[np.float32], blank: int) -> list[Emission]:
    """(T, V) -> the tokens of the best path, with repeats merged and blanks dropped.

    The confidence of a token is the largest one in its run of frames (`confidence.of_frames`).
    """
    if not len(log_probs):
        return []
    best = log_probs.argmax(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], best[1:] != best[:-1]]))
    ends = np.concatenate([starts[1:], [len(best)]])
    peaks = np.maximum.reduceat(of_frames(log_probs), starts)
    return [
        Emission(int(best[start]), int(start), int(end), float(peak))
        for start, end, peak in zip(starts, ends, peaks, strict=True)
        if best[start] != blank
    ]
