from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.batching import BatchPlan


class Case(NamedTuple):
    lengths: list[float]
    budget: float
    buckets: int
    seed: int
    is_shuffled: bool

    def plan(self) -> BatchPlan:
        lengths = np.array(self.lengths)
        return BatchPlan(lengths, self.budget, buckets=self.buckets, seed=self.seed, is_shuffled=self.is_shuffled)

    def epoch(self, number: int) -> Iterator[list[int]]:
        plan = self.plan()
        for position in range(plan.num_micro_batches):
            batch = plan.micro_batch(number * plan.num_micro_batches + position)
            assert batch.epoch == number
            yield batch.indices.tolist()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths = draw(st.lists(st.floats(0.01, 30), min_size=1, max_size=60))
    spare = draw(st.floats(1, 8))
    return Case(
        lengths, spare * max(lengths), draw(st.integers(1, 10)), draw(st.integers(0, 2**32)), draw(st.booleans())
    )


@given(cases(), st.integers(0, 3))
@settings(deadline=None)
def test_each_example_is_in_every_epoch_exactly_once(case: Case, epoch: int) -> None:
    seen = Counter(index for indices in case.epoch(epoch) for index in indices)
    assert seen == Counter(range(len(case.lengths)))


@given(cases(), st.integers(0, 3))
@settings(deadline=None)
def test_no_micro_batch_is_empty_or_over_budget(case: Case, epoch: int) -> None:
    for indices in case.epoch(epoch):
        assert 0 < len(indices) * max(case.lengths[index] for index in indices) <= case.budget


@given(cases(), st.lists(st.integers(0, 200), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_micro_batch_depends_on_its_number_alone(case: Case, numbers: list[int]) -> None:
    plan = case.plan()
    asked_in_this_order = [plan.micro_batch(number) for number in numbers]
    for number, batch in zip(numbers, asked_in_this_order, strict=True):
        fresh = case.plan().micro_batch(number)
        assert (batch.epoch, batch.indices.tolist()) == (fresh.epoch, fresh.indices.tolist())


@given(cases())
@settings(deadline=None)
def test_heaviest_batches_are_longest_and_largest(case: Case) -> None:
    """One micro-batch with the longest example, one with the most examples."""
    epoch = list(case.epoch(0))
    longest, most = case.plan().heaviest()
    assert max(case.lengths) in [case.lengths[index] for index in epoch[longest]]
    assert len(epoch[most]) == max(map(len, epoch))


def test_epochs_and_seeds_change_the_batches() -> None:
    lengths = list(np.linspace(1, 9, 60))
    case, other = Case(lengths, 27.0, 4, 0, True), Case(lengths, 27.0, 4, 1, True)
    companies = [{frozenset(indices) for indices in each} for each in (case.epoch(0), case.epoch(1), other.epoch(0))]
    assert len(companies[0] & companies[1]) < 5
    assert len(companies[0] & companies[2]) < 5


def test_unshuffled_examples_come_by_length() -> None:
    """In every epoch."""
    lengths = [5.0, 1.0, 3.0, 2.0, 4.0, 3.5]
    case = Case(lengths, 8.0, 3, 0, False)
    order = [index for indices in case.epoch(0) for index in indices]
    assert order == np.argsort(lengths).tolist()
    assert list(case.epoch(0)) == list(case.epoch(1))


def test_equal_lengths_fill_the_budget() -> None:
    assert [len(indices) for indices in Case([1.0] * 12, 4.0, 1, 0, True).epoch(0)] == [4, 4, 4]
