import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from segue.data.distinct import Distinct


@given(st.lists(st.sampled_from([0, 1, 255, 256, 512, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)))
def test_a_hash_is_new_once(numbers: list[int]) -> None:
    distinct = Distinct()
    assert [distinct.add(number) for number in numbers] == [n not in numbers[:at] for at, n in enumerate(numbers)]


def test_none_is_forgotten_while_tables_grow() -> None:
    draw, distinct = random.Random(0), Distinct()
    numbers = [draw.getrandbits(64) & ~0xF0 for _ in range(20_000)]  # crowded: a sixteenth of the tables
    assert all(distinct.add(number) for number in numbers)
    assert not any(distinct.add(number) for number in numbers)


def test_a_hash_takes_few_bytes() -> None:
    draw, distinct = random.Random(0), Distinct()
    tracemalloc.start()
    for _ in range(50_000):
        distinct.add(draw.getrandbits(64))
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 8 < size / 50_000 < 20
    assert peak < 1.1 * size
