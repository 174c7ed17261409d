"""How wrong is a diarization? The diarization error rate and its three parts; no collar, overlap included.

Shape letters: I intervals, R speakers of the reference, H speakers of the hypothesis.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Spoken = Sequence[tuple[float, float, str]]
"""Start and end in seconds, and speaker; stretches may overlap."""


class DiarizationError(NamedTuple):
    """Seconds of speech that are attributed wrongly; where two speak, both count."""

    missed: float
    """Speech of a speaker where too few were found."""
    false_alarm: float
    """Speech of a speaker where too many were found."""
    confusion: float
    """Speech that was found, of another speaker."""
    total: float
    """Speech in the reference, of all speakers together."""
    mapping: dict[str, str]
    """Speaker of the hypothesis -> that of the reference, so that confusion is smallest."""

    @property
    def rate(self) -> float:
        """The diarization error rate; 1.0 is 100 %. It can exceed 1."""
        return (self.missed + self.false_alarm + self.confusion) / self.total if self.total else float("nan")


def diarization_error(reference: Spoken, hypothesis: Spoken) -> DiarizationError:
    """The errors of a hypothesis, as in NIST's md-eval without a collar, overlapping speech included."""
    edges = np.unique([time for start, end, _ in (*reference, *hypothesis) for time in (start, end)])
    lengths = np.diff(edges)
    ours, names = _spoken(reference, edges)  # (R, I)
    theirs, labels = _spoken(hypothesis, edges)  # (H, I)
    together = (theirs * lengths) @ ours.T if names and labels else np.zeros((len(labels), len(names)))  # (H, R)
    pairs = [(row, column) for row, column in best_pairs(together) if together[row, column] > 0]
    num_ours, num_theirs = ours.sum(axis=0), theirs.sum(axis=0)  # (I)
    right = sum(float(together[row, column]) for row, column in pairs)
    return DiarizationError(
        missed=float(np.maximum(num_ours - num_theirs, 0) @ lengths),
        false_alarm=float(np.maximum(num_theirs - num_ours, 0) @ lengths),
        confusion=float(np.minimum(num_ours, num_theirs) @ lengths) - right,
        total=float(num_ours @ lengths),
        mapping={labels[row]: names[column] for row, column in pairs},
    )


def _spoken(turns: Spoken, edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[str]]:
    """(speakers, I) 1 where a speaker speaks in an interval, and the speakers."""
    names = list(dict.fromkeys(speaker for *_, speaker in turns))
    found = np.zeros((len(names), max(0, len(edges) - 1)))
    for start, end, speaker in turns:
        found[names.index(speaker), np.searchsorted(edges, start) : np.searchsorted(edges, end)] = 1
    return found, names


def best_pairs(gains: NDArray[np.float64]) -> list[tuple[int, int]]:
    """(H, R) gains of pairs -> pairs (row, column), no row or column twice, with the largest sum of gains.

    The Hungarian method with potentials and shortest augmenting paths (Kuhn 1955; Jonker and Volgenant 1987).
    """
    if gains.shape[0] > gains.shape[1]:
        return [(row, column) for column, row in best_pairs(gains.T)]
    rows, columns = gains.shape
    of_rows, of_columns = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.intp)  # column -> its row; rows and columns from 1, 0 is none
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        least, way = np.full(columns + 1, np.inf), np.zeros(columns + 1, np.intp)
        is_used = np.zeros(columns + 1, bool)
        while owner[column]:
            is_used[column] = True
            costs = -gains[owner[column] - 1] - of_rows[owner[column]] - of_columns[1:]
            is_better = ~is_used[1:] & (costs < least[1:])
            least[1:][is_better], way[1:][is_better] = costs[is_better], column
            following = int(np.where(is_used, np.inf, least)[1:].argmin()) + 1
            step = least[following]
            of_rows[owner[is_used]] += step
            of_columns[is_used] -= step
            least[~is_used] -= step
            column = following
        while column:
            owner[column] = owner[way[column]]
            column = int(way[column])
    return sorted((int(owner[column]) - 1, column - 1) for column in range(1, columns + 1) if owner[column])
