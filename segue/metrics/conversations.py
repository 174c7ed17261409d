"""How many words of a conversation are wrong, if it also matters who said them, or when?

cpWER: the words of each speaker are concatenated, and speakers of the hypothesis are paired with those of the reference
so that the errors are fewest (Watanabe et al. 2020, CHiME-6). Every pair is scored alone: a word of the wrong speaker
is an error twice. Time-constrained error rates only match words that are spoken at about the same time (von Neumann et
al. 2023, MeetEval).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from segue.metrics.measures import scorer

COLLAR_SECONDS = 5.0
"""Words match if they are at most so far apart: the custom of MeetEval and the CHiME challenges."""


class Spoken(NamedTuple):
    """A word with its time in seconds."""

    word: str
    start: float
    end: float


class Rate(NamedTuple):
    """Errors of a conversation."""

    errors: int
    words: int
    """Of the reference."""
    pairs: dict[str, str | None]
    """Speaker of the reference -> that of the hypothesis; None if there is none for it."""

    @property
    def rate(self) -> float:
        """1.0 is 100 %."""
        return self.errors / max(self.words, 1)


W = TypeVar("W", bound=Hashable)


def concatenated(reference: Mapping[str, Sequence[str]], hypothesis: Mapping[str, Sequence[str]]) -> Rate:
    """cpWER: of the words of each speaker, in the order in which they are said."""
    distance: Callable[[Sequence[str], Sequence[str]], int] = scorer("rapidfuzz.distance").Levenshtein.distance
    return _paired(reference, hypothesis, distance)


def concatenated_in_time(
    reference: Mapping[str, Sequence[Spoken]],
    hypothesis: Mapping[str, Sequence[Spoken]],
    collar_seconds: float = COLLAR_SECONDS,
) -> Rate:
    """tcpWER: cpWER in which words only match in time."""
    return _paired(reference, hypothesis, lambda right, said: in_time(right, said, collar_seconds))


def in_time(reference: Sequence[Spoken], hypothesis: Sequence[Spoken], collar_seconds: float = COLLAR_SECONDS) -> int:
    """The smallest number of insertions, deletions and substitutions of words, where only words whose times overlap,
    extended by the collar, are equal or substituted."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    said = {word: number for number, word in enumerate(sorted({each.word for each in hypothesis}))}
    words = np.array([said[each.word] for each in hypothesis])
    starts, ends = (np.array([getattr(each, name) for each in hypothesis]) for name in ("start", "end"))
    places = np.arange(len(hypothesis) + 1)
    row: NDArray[np.int64] = places.copy()
    for right in reference:
        overlaps = (starts <= right.end + collar_seconds) & (ends >= right.start - collar_seconds)
        costs = np.where(overlaps, words != said.get(right.word, -1), 2)  # 2: a deletion and an insertion
        found = row + 1
        found[1:] = np.minimum(found[1:], row[:-1] + costs)
        row = np.minimum.accumulate(found - places) + places  # insertions, one after the other
    return int(row[-1])


def spread(text: Sequence[str], start: float, end: float) -> list[Spoken]:
    """Words of a segment whose own times are not known: each gets its share by its number of letters."""
    lengths = np.cumsum([0, *map(len, text)])
    times = start + (end - start) * lengths / max(1, lengths[-1])
    return [Spoken(word, float(a), float(b)) for word, a, b in zip(text, times[:-1], times[1:], strict=True)]


def _paired(
    reference: Mapping[str, Sequence[W]],
    hypothesis: Mapping[str, Sequence[W]],
    distance: Callable[[Sequence[W], Sequence[W]], int],
) -> Rate:
    """The pairs of speakers with the fewest errors; words of a speaker without a partner are all errors."""
    rights, saids = list(reference), list(hypothesis)
    size = max(len(rights), len(saids))
    costs = np.zeros((size, size), np.int64)
    for row in range(size):
        for column in range(size):
            right = reference[rights[row]] if row < len(rights) else ()
            said = hypothesis[saids[column]] if column < len(saids) else ()
            costs[row, column] = distance(right, said) if right and said else len(right) + len(said)
    columns = assigned(costs)
    pairs = {name: saids[columns[row]] if columns[row] < len(saids) else None for row, name in enumerate(rights)}
    return Rate(int(costs[np.arange(size), columns].sum()), sum(map(len, reference.values())), pairs)


def assigned(costs: NDArray[np.int64]) -> list[int]:
    """(N, N) costs -> a column for each row, all different, with the least total (Kuhn 1955, Munkres 1957)."""
    size = len(costs)
    # Shortest augmenting paths, with potentials of rows and columns; column 0 and row 0 are a start outside the matrix.
    of_rows, of_columns = np.zeros(size + 1), np.zeros(size + 1)
    row_of = np.zeros(size + 1, np.int64)
    for row in range(1, size + 1):
        row_of[0], column = row, 0
        least, before = np.full(size + 1, np.inf), np.zeros(size + 1, np.int64)
        is_used = np.zeros(size + 1, np.bool_)
        while row_of[column]:
            is_used[column] = True
            current = row_of[column]
            reduced = costs[current - 1] - of_rows[current] - of_columns[1:]
            is_better = ~is_used[1:] & (reduced < least[1:])
            least[1:][is_better], before[1:][is_better] = reduced[is_better], column
            column = 1 + int(np.where(is_used[1:], np.inf, least[1:]).argmin())
            change = least[column]
            of_rows[row_of[is_used]] += change
            of_columns[is_used] -= change
            least[~is_used] -= change
        while column:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    found = [0] * size
    for column in range(1, size + 1):
        found[row_of[column] - 1] = column - 1
    return found
