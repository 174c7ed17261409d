from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.data import documents, windows
from segue.data.manifests import Split
from segue.data.mixture import Mixture
from segue.data.token_files import TokenFile, Writer
from segue.data.tokenizer import CharactersSection, build
from segue.data.windows import WindowPlan, Windows, WindowSource, order
from segue.errors import UserError

TOKENIZER = build(CharactersSection(kind="characters"), (), [documents.END])
END = TOKENIZER.special[documents.END]


def token_file(index: Path, rows: list[list[int]]) -> TokenFile:
    with Writer(index, 1000, END) as writer:
        for row in rows:
            writer.add(np.array(row, np.int32), is_last=True)
        writer.close()
    return TokenFile(index)


def source(
    folder: Path, rows: list[list[int]], window: int = 8, budget: float = 32, seed: int = 0
) -> WindowSource[Windows]:
    files: dict[Split, TokenFile] = {
        "train": token_file(folder / "train.idx", rows),
        "dev": token_file(folder / "dev.idx", rows),
    }
    return WindowSource(files, window, budget, lambda found: found, tokenizer=TOKENIZER, seed=0, few=1e6)


ROWS = [list(range(1, 1 + length)) for length in (3, 1, 30, 0, 12, 50)]
STREAM = np.array([END, *(token for row in ROWS for token in [*row, END])])

# --- Orders ---


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_an_order_is_a_permutation(size: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    for apply in (order(size, draw), windows._feistel(size, draw)):
        assert np.array_equal(np.sort(apply(np.arange(size))), np.arange(size))


@pytest.mark.parametrize("make", [order, windows._feistel])
def test_an_order_depends_on_its_seed_and_looks_random(make: object) -> None:
    assert callable(make)
    size = 100_000
    found = [make(size, np.random.default_rng(seed))(np.arange(size)) for seed in (0, 0, 1)]
    assert np.array_equal(found[0], found[1])
    assert np.count_nonzero(found[0] == found[2]) < 20
    for each in found:
        assert abs(np.corrcoef(each[:-1], each[1:])[0, 1]) < 0.02
        assert abs(np.corrcoef(each, np.arange(size))[0, 1]) < 0.02
        assert np.count_nonzero(each == np.arange(size)) < 20


def test_large_orders_need_no_memory() -> None:
    size = 2**40 + 12345
    apply = order(size, np.random.default_rng(0))
    found = apply(np.arange(size - 1000, size))
    assert len(set(found.tolist())) == 1000
    assert 0 <= found.min() < found.max() < size
    assert np.array_equal(apply(np.array([size - 5])), found[-5:-4])


# --- Plans ---


@given(num_tokens=st.integers(1, 400), window=st.integers(1, 60), rows=st.integers(1, 9), seed=st.integers(0, 9))
def test_an_epoch_has_each_of_its_windows_once(num_tokens: int, window: int, rows: int, seed: int) -> None:
    plan = WindowPlan(num_tokens, window, rows * window, seed=seed)
    size = min(window, num_tokens)
    assert plan.window == size
    for epoch in range(3):
        numbers = range(epoch * plan.num_micro_batches, (epoch + 1) * plan.num_micro_batches)
        batches = [plan.micro_batch(number) for number in numbers]
        assert {batch.epoch for batch in batches} == {epoch}
        lengths = [len(batch.indices) for batch in batches]
        assert lengths == [len(part) for part in np.array_split(np.arange(plan.num_windows), plan.num_micro_batches)]
        assert max(lengths) * size <= rows * window
        assert lengths[plan.heaviest()[0]] == max(lengths)
        places = np.sort(np.concatenate([batch.indices for batch in batches]))
        assert np.array_equal(places, places[0] + size * np.arange(plan.num_windows))
        assert 0 <= places[0] < size
        assert places[-1] + size <= num_tokens
        assert num_tokens - len(places) * size < 2 * size


@given(num_tokens=st.integers(1, 400), window=st.integers(1, 60), rows=st.integers(1, 9))
def test_development_windows_have_each_token_once(num_tokens: int, window: int, rows: int) -> None:
    plan = WindowPlan(num_tokens, window, rows * window, is_training=False)
    batches = [plan.micro_batch(number).indices for number in range(plan.num_micro_batches)]
    places = np.concatenate(batches)
    assert places.tolist() == list(range(0, num_tokens, plan.window))
    assert np.array_equal(places, np.concatenate([plan.micro_batch(number).indices for number in range(len(batches))]))


def test_a_micro_batch_depends_only_on_its_number_and_the_seed() -> None:
    numbers = np.random.default_rng(0).integers(0, 500, 50).tolist()
    in_order = [plan_of(1).micro_batch(number) for number in range(500)]
    plan = plan_of(1)
    for number in numbers:
        assert np.array_equal(plan.micro_batch(number).indices, in_order[number].indices)
    other = plan_of(2)
    assert not all(np.array_equal(other.micro_batch(n).indices, in_order[n].indices) for n in range(5))


def plan_of(seed: int) -> WindowPlan:
    return WindowPlan(10_000, 16, 160, seed=seed)


def test_epochs_have_other_places_and_orders() -> None:
    plan = plan_of(0)
    firsts = [plan.micro_batch(epoch * plan.num_micro_batches).indices for epoch in range(40)]
    assert len({int(first[0]) % 16 for first in firsts}) > 10
    assert len({tuple((first // 16).tolist()) for first in firsts}) == 40


# --- Batches ---


@pytest.mark.parametrize("split", ["train", "dev"])
def test_targets_follow_inputs_in_the_stream(split: Split, tmp_path: Path) -> None:
    found = source(tmp_path, ROWS)
    plan, num_targets = found.plan(split), 0
    for number in range(2 * plan.num_micro_batches):
        planned = plan.micro_batch(number)
        batch = found.load(split, planned)
        assert batch.amount == batch.lengths.sum()
        assert batch.ids == [f"{split}:{place}" for place in planned.indices.tolist()]
        num_targets += int(batch.amount)
        for place, length, inputs, targets in zip(
            planned.indices, batch.lengths, batch.inputs, batch.targets, strict=True
        ):
            assert inputs[:length].tolist() == STREAM[place : place + length].tolist()
            assert targets[:length].tolist() == STREAM[place + 1 : place + length + 1].tolist()
            assert (inputs[length:] == END).all()
            assert (targets[length:] == END).all()
            assert split == "dev" or length == 8
    if split == "dev":
        assert num_targets == 2 * (len(STREAM) - 1)


def test_documents_are_numbered_from_their_first_end_token(tmp_path: Path) -> None:
    batch = source(tmp_path, ROWS, window=12).windows("dev", np.array([0, 2]))
    assert batch.inputs.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5], [2, 3, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7]]
    assert batch.documents.tolist() == [[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3], [0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]]
    assert {each.dtype for each in batch[:4]} == {np.dtype(np.int64)}


def test_a_corpus_shorter_than_a_window_is_one(tmp_path: Path) -> None:
    found = source(tmp_path, [[1, 2, 3]], window=100, budget=1000)
    for split in ("train", "dev"):
        batch = found.load(split, found.plan(split).micro_batch(7))
        assert batch.inputs.tolist() == [[0, 1, 2, 3]]
        assert batch.targets.tolist() == [[1, 2, 3, 0]]
    assert found.budgets() == (4, 4)


def test_a_budget_without_room_for_a_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch\.tokens: 7 is less than a window of 8 tokens"):
        source(tmp_path, ROWS, budget=7)


def test_budgets_change_only_training(tmp_path: Path) -> None:
    found = source(tmp_path, [[1] * 500], budget=8)
    smallest, largest = found.budgets()
    assert smallest == 8
    larger = found.with_budget(largest)
    assert larger.plan("train").num_micro_batches == 1
    assert found.plan("train").num_micro_batches == found.plan("train").num_windows == largest / 8
    assert larger.epochs() == found.epochs() == 100


def test_the_fingerprint_changes_with_tokens_and_windows(tmp_path: Path) -> None:
    found = set[str]()
    for number, rows in enumerate([ROWS, ROWS, [*ROWS[:5], [*range(1, 50), 51]], ROWS[:5]]):
        (tmp_path / str(number)).mkdir()
        found.add(source(tmp_path / str(number), rows).fingerprint())
    found.add(source(tmp_path / "0", ROWS, window=9).fingerprint())
    assert len(found) == 4


def test_windows_can_be_mixed_with_rehearsed_ones(tmp_path: Path) -> None:
    for name in ("own", "earlier"):
        (tmp_path / name).mkdir()
    own = source(tmp_path / "own", [[1] * 400])
    mixture = Mixture(own, source(tmp_path / "earlier", [[2] * 400]), 0.25)
    plan = mixture.plan("train")
    kinds = [mixture.load("train", plan.micro_batch(number)).inputs.max() for number in range(40)]
    assert kinds.count(2) == 10
