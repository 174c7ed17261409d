"""Drawing tokens: the same distributions as transformers', and rows that do not depend on each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from segue.decoding.generation import Limits, Row, generate
from segue.decoding.sampling import SamplingSection, Scores, Tokens, draw, penalized, restricted, row_generator
from segue.errors import UserError

VOCABULARY = 40


def scores(rows: int = 6, seed: int = 0) -> Scores:
    return np.random.default_rng(seed).normal(0, 3, (rows, VOCABULARY)).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_k": 1},
        {"top_p": 0.8},
        {"top_p": 0.01},
        {"min_p": 0.1},
        {"temperature": 1.5, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 0.5, "top_k": 100},
    ],
)
def test_restrictions_equal_those_of_transformers(settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    section = SamplingSection.model_validate({"temperature": 1.0, **settings})
    theirs = [transformers.TemperatureLogitsWarper(section.temperature)]
    if section.top_k:
        theirs.append(transformers.TopKLogitsWarper(section.top_k))
    if section.top_p < 1:
        theirs.append(transformers.TopPLogitsWarper(section.top_p))
    if section.min_p:
        theirs.append(transformers.MinPLogitsWarper(section.min_p))
    wanted = torch.from_numpy(scores())
    for each in theirs:
        wanted = each(torch.zeros(6, 1, dtype=torch.int64), wanted)
    found = restricted(scores(), section)
    assert np.array_equal(np.isfinite(found), np.isfinite(wanted.numpy()))
    kept = np.isfinite(found)
    assert np.allclose(found[kept], (wanted - wanted.amax(dim=1, keepdim=True)).numpy()[kept], rtol=1e-5, atol=1e-5)


def test_the_repetition_penalty_equals_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    written = np.array([[1, 2, 3], [3, 3, 4]])
    used = np.zeros((2, VOCABULARY), bool)
    for row, numbers in zip(used, written, strict=True):
        row[numbers] = True
    theirs = transformers.RepetitionPenaltyLogitsProcessor(1.7)
    wanted = theirs(torch.from_numpy(written), torch.from_numpy(scores(2)))
    assert np.allclose(penalized(scores(2), used, 1.7), wanted.numpy())


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    section = SamplingSection(temperature=1.0, top_k=4)
    row = scores(1)
    kept = restricted(row, section)[0]
    wanted = np.exp(kept - kept.max())
    wanted /= wanted.sum()
    many = 20_000
    generators = [row_generator(7, 0, sample) for sample in range(many)]
    found = np.bincount(draw(np.repeat(row, many, axis=0), section, generators), minlength=VOCABULARY) / many
    assert np.abs(found - wanted).max() < 0.015  # four standard deviations


def test_temperature_0_takes_the_likeliest() -> None:
    assert np.array_equal(draw(scores(), SamplingSection(temperature=0), []), scores().argmax(axis=1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-37, 1e-46, 5e-324])
def test_tiny_temperatures_take_the_likeliest(temperature: float) -> None:
    section = SamplingSection(temperature=temperature)
    found = draw(scores() * 20, section, [row_generator(0, 0, sample) for sample in range(6)])
    assert np.array_equal(found, scores().argmax(axis=1))


class Automaton:
    """A model whose scores depend on all tokens of a row; it notes how it was asked."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.num_begun = 0
        self.batches: list[int] = []
        self.most = 0

    def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> Scores:
        self.rows, self.capacity = [list(row) for row in rows], capacity
        self.num_begun += 1
        return self._scores()

    def step(self, tokens: Tokens) -> Scores:
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        assert max(map(len, self.rows)) <= self.capacity
        self.most = max(self.most, self.capacity)
        return self._scores()

    def select(self, rows: Tokens) -> None:
        self.rows = [list(self.rows[row]) for row in rows]

    def _scores(self) -> Scores:
        self.batches.append(len(self.rows))
        return np.concatenate([scores(1, seed=hash(tuple(row)) % 2**32) for row in self.rows])


END = 0


def texts(
    prompts: Sequence[Sequence[int]], section: SamplingSection, *, first: int = 0, samples: int = 1, **limits: Any
) -> dict[Row, list[int]]:
    found: dict[Row, list[int]] = {}

    def is_last(row: Row, token: int) -> bool:
        found.setdefault(row, []).append(token)
        return False

    given = Limits(**{"context": 100, "num_tokens": 12, "end": END, **limits})
    generate(Automaton(), prompts, section, given, is_last, num_samples=samples, first_prompt=first)
    return found


def test_a_row_does_not_depend_on_the_batch() -> None:
    prompts = [[1, 2], [3], [4, 5, 6, 7], [8]]
    section = SamplingSection(temperature=1.0, repetition_penalty=1.2, seed=3)
    together = texts(prompts, section, samples=3)
    assert len(together) == 12
    for number, prompt in enumerate(prompts):
        for row, tokens in texts([prompt], section, samples=3, first=number).items():
            assert together[row] == tokens


def test_seeds_and_samples_differ() -> None:
    found = texts([[1, 2]], SamplingSection(temperature=1.0), samples=2)
    other = texts([[1, 2]], SamplingSection(temperature=1.0, seed=1))
    assert found[Row(0, 0)] != found[Row(0, 1)]
    assert found[Row(0, 0)] != other[Row(0, 0)]


def test_rows_that_end_leave_the_batch() -> None:
    automaton = Automaton()
    ends = {Row(0, 0): 3, Row(1, 0): 1, Row(2, 0): 5}
    seen = dict.fromkeys(ends, 0)

    def is_last(row: Row, token: int) -> bool:
        assert token != END
        seen[row] += 1
        return seen[row] == ends[row]

    section = SamplingSection(temperature=1.0, seed=8)
    generate(automaton, [[1], [2], [3]], section, Limits(100, 50, END), is_last)
    assert all(seen[row] <= most for row, most in ends.items())
    assert automaton.batches[0] == 3
    assert automaton.batches[-1] < 3


def test_a_text_may_slide_past_the_context() -> None:
    section = SamplingSection(temperature=1.0, seed=1)
    with pytest.raises(UserError, match=r"prompt 1: 6 tokens and 12 new ones are more than the model's context of 8"):
        texts([[1, 2, 3, 4, 5, 6]], section, context=8)
    slid = texts([[1, 2, 3, 4, 5, 6], [7]], section, context=8, is_sliding=True)
    alone = texts([[1, 2, 3, 4, 5, 6]], section, context=8, is_sliding=True)
    assert slid[Row(0, 0)] == alone[Row(0, 0)]
    long = texts([list(range(1, 31))], section, context=8, is_sliding=True)
    assert long == texts([list(range(27, 31))], section, context=8, is_sliding=True)


def test_a_sliding_cache_has_room_for_the_context() -> None:
    automaton = Automaton()
    limits = Limits(context=8, num_tokens=500, end=-1, is_sliding=True)
    generate(automaton, [[1, 2, 3], [4]], SamplingSection(temperature=0), limits, lambda row, token: False)
    assert automaton.num_begun > 50
    assert automaton.most <= 2 * 8 + 1


def test_the_penalty_spares_the_end() -> None:
    """It stands before each prompt, and is no part of the text; tokens that slid out of view still count."""

    class Likes:
        def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> Scores:
            return np.array([[2.0, 1.9, 1.8]], np.float32)

        def step(self, tokens: Tokens) -> Scores:
            raise AssertionError(tokens)

        def select(self, rows: Tokens) -> None:
            raise AssertionError(rows)

    found: list[int] = []

    def is_last(row: Row, token: int) -> bool:
        found.append(token)
        return True

    section = SamplingSection(temperature=0, repetition_penalty=1.2)
    generate(Likes(), [[END, 1]], section, Limits(10, 5, END), is_last)
    assert not found  # it ended
    generate(Likes(), [[7 % 3, 2, 2, 2, 2]], section, Limits(4, 5, 9, is_sliding=True), is_last)
    assert found == [0]
