"""Rehearsal: a share of the micro-batches is of other data."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segue
from segue import training
from segue.cli import main
from segue.data.batching import BatchPlan
from segue.data.mixture import MixedPlan
from segue.engine.distributed.parallel import ALONE
from segue.tasks import translation

counts, shares = st.integers(1, 40), st.floats(0.01, 0.5)


def plan_of(count: int, seed: int) -> BatchPlan:
    return BatchPlan(np.arange(1, count + 1, dtype=np.float64), 1.5 * count, buckets=3, seed=seed)


@given(counts, counts, shares)
def test_both_orders_are_kept(num_own: int, num_others: int, share: float) -> None:
    own, others = plan_of(num_own, 0), plan_of(num_others, 1)
    mixed = MixedPlan(own, others, share)
    places = [0, 0]
    for number in range(300):
        found = mixed.micro_batch(number)
        expected = (others if found.is_rehearsed else own).micro_batch(places[found.is_rehearsed])
        assert found.epoch == expected.epoch
        assert np.array_equal(found.indices, expected.indices)
        places[found.is_rehearsed] += 1
        assert abs(places[1] - share * (number + 1)) < 1


@given(counts, counts, shares)
def test_an_epoch_ends_with_the_last_own_micro_batch(num_own: int, num_others: int, share: float) -> None:
    own = plan_of(num_own, 0)
    mixed = MixedPlan(own, plan_of(num_others, 1), share)
    found = [mixed.micro_batch(number) for number in range(mixed.num_micro_batches)]
    assert sum(not each.is_rehearsed for each in found) == own.num_micro_batches
    assert not found[-1].is_rehearsed


@given(counts, counts, shares)
def test_the_heaviest_are_of_both(num_own: int, num_others: int, share: float) -> None:
    own, others = plan_of(num_own, 0), plan_of(num_others, 1)
    mixed = MixedPlan(own, others, share)
    found = [mixed.micro_batch(number) for number in mixed.heaviest()]
    expected = [(False, own.micro_batch(each)) for each in own.heaviest()]
    expected += [(True, others.micro_batch(each)) for each in others.heaviest()]
    assert [each.is_rehearsed for each in found] == [is_rehearsed for is_rehearsed, _ in expected]
    for each, (_, micro_batch) in zip(found, expected, strict=True):
        assert np.array_equal(each.indices, micro_batch.indices)


REHEARSED = ('data.rehearsal=["test.jsonl"]', "data.rehearsal_share=0.25", "batch.tokens=200")


def test_rehearsed_examples_are_read_from_their_manifest(reversal_recipe: Path, tmp_path: Path) -> None:
    section, _ = training.read(reversal_recipe, REHEARSED)
    section, _, source = training._data(section, translation, tmp_path, ALONE)
    plan = source.plan("train")
    for number in range(24):
        batch = source.load("train", plan.micro_batch(number))
        assert all("test.jsonl" in each for each in batch.ids) == (number % 4 == 3), batch.ids
    assert source.with_budget(400.0).plan("train").num_micro_batches < plan.num_micro_batches


@pytest.mark.parametrize("dev", ["held_out", '["dev.jsonl"]'])
def test_all_that_is_rehearsed_is_learned(reversal_recipe: Path, tmp_path: Path, dev: str) -> None:
    section, _ = training.read(reversal_recipe, (*REHEARSED, f"data.dev={dev}"))
    section, own, source = training._data(section, translation, tmp_path, ALONE)
    plan = source.plan("train")
    found = {each for n in range(0, 4000, 4) for each in source.load("train", plan.micro_batch(n + 3)).ids}
    assert len(found) == len((Path(section.data.root) / "test.jsonl").read_text().splitlines())
    assert source.plan("dev").num_micro_batches == own.plan("dev").num_micro_batches


def test_the_card_names_what_was_rehearsed(reversal_recipe: Path, tmp_path: Path) -> None:
    steps = ("engine.steps=8", "engine.evaluate_every=8", "engine.save_every=4", "engine.log_every=1")
    segue.train(reversal_recipe, tmp_path / "run", *REHEARSED, *steps)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "Trained on train.jsonl with 25% of test.jsonl mixed in: 3,000 pairs." in card


def test_a_missing_rehearsal_manifest_is_named(
    reversal_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str) -> str:
        words = ["train", str(reversal_recipe), "--out", str(tmp_path / "run"), f'data.rehearsal=["{name}"]']
        assert main(words) == 2
        return capsys.readouterr().err

    assert "old.jsonl: no such manifest (the folder has dev.jsonl, test.jsonl, train.jsonl: data.rehearsal" in said(
        "old.jsonl"
    )
    assert "/gone: no such folder; data.rehearsal names manifests, as seen from data.root=" in said("gone/old.jsonl")
