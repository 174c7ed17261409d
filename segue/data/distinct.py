"""Which of many 64-bit hashes came before? Open-addressed tables of plain numbers: a fifth of a set's memory."""

from array import array

_NUM_TABLES = 256  # each grows on its own, so that at no time all numbers are there twice
_FIRST_SIZE = 15  # odd, as all sizes
_NONE = 0


class Distinct:
    """The 64-bit hashes seen so far, in 11 to 16 bytes each. None is forgotten, or taken for another."""

    def __init__(self) -> None:
        self._tables = [array("Q", [_NONE]) * _FIRST_SIZE for _ in range(_NUM_TABLES)]
        self._counts = [0] * _NUM_TABLES
        self._has_none = False  # whether the hash that marks free places was seen

    def add(self, number: int) -> bool:
        """Whether this hash, below 2 ** 64, is new; from now on it is not."""
        if number == _NONE:
            is_new, self._has_none = not self._has_none, True
            return is_new
        which = number & (_NUM_TABLES - 1)
        table = self._tables[which]
        place = number % len(table)
        while there := table[place]:
            if there == number:
                return False
            place += 1
            if place == len(table):
                place = 0
        table[place] = number
        self._counts[which] += 1
        if 4 * self._counts[which] > 3 * len(table):
            self._tables[which] = _grown(table)
        return True


def _grown(table: "array[int]") -> "array[int]":
    """A table with half as many places again, and the same numbers."""
    size = len(table) * 3 // 2 | 1  # odd: the numbers of a table have the same lowest bits
    larger = array("Q", [_NONE]) * size
    for number in table:
        if number:
            place = number % size
            while larger[place]:
                place = place + 1 if place + 1 < size else 0
            larger[place] = number
    return larger
