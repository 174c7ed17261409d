"""Search over a toy whose every prefix has scores of its own, so that all outputs can be counted and compared."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, Literal, NamedTuple
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.decoding.autoregressive import beam_search, sample
from segue.decoding.search import Hypothesis

BEGIN, END = 0, 1
Tokens = tuple[int, ...]


class World(NamedTuple):
    """A distribution over outputs. No two prefixes and no two sentences share a row of it."""

    vocabulary: int
    seed: int = 0
    sharpness: float = 1.0
    end_bonus: float = 0.0
    forbidden: Tokens = (BEGIN,)

    def scores(self, sentence: int, written: Tokens) -> np.ndarray:
        """(V) of the next token; not normalized."""
        return _scores(self, sentence, written)

    def log_probs(self, sentence: int, written: Tokens) -> np.ndarray:
        """(V) over what is permitted, in double precision."""
        scores = self.scores(sentence, written).astype(np.float64)
        scores[list(self.forbidden)] = -np.inf
        normalized: np.ndarray = scores - np.log(np.exp(scores).sum())
        return normalized


@lru_cache(1 << 18)
def _scores(world: World, sentence: int, written: Tokens) -> np.ndarray:
    draw = np.random.default_rng([world.seed, sentence, crc32(bytes(written))])
    scores = world.sharpness * draw.standard_normal(world.vocabulary)
    scores[END] += world.end_bonus
    return (scores + draw.uniform(-20, 20)).astype(np.float32)


class TranslationBackend:
    """The toy as search sees it; it checks that it is asked for what is possible, and counts the rows."""

    def __init__(self, world: World, sentences: Sequence[int], beams: int = 1) -> None:
        self._world, self._beams = world, beams
        self._sentences = list(sentences)
        self._written: list[Tokens] = [()] * (len(sentences) * beams)
        self.num_rows: list[int] = []

    def step(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == len(self._written) == len(self._sentences) * self._beams
        self._written = [(*each, token) for each, token in zip(self._written, tokens.tolist(), strict=True)]
        assert all(each[0] == BEGIN for each in self._written)
        self.num_rows.append(len(tokens))
        rows = [
            self._world.scores(self._sentences[row // self._beams], each[1:]) for row, each in enumerate(self._written)
        ]
        return torch.from_numpy(np.stack(rows))

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        kept = list(range(len(self._sentences))) if sentences is None else sentences.tolist()
        assert [row // self._beams for row in rows.tolist()] == [n for n in kept for _ in range(self._beams)]
        self._sentences = [self._sentences[number] for number in kept]
        self._written = [self._written[row] for row in rows.tolist()]


def found_by_beams(
    world: World, sentences: Sequence[int], longest: Sequence[int], beams: int, alpha: float, **options: Any
) -> list[list[Hypothesis]]:
    return beam_search(
        TranslationBackend(world, sentences, beams),
        longest,
        begin=BEGIN,
        end=END,
        beams=beams,
        alpha=alpha,
        forbidden=world.forbidden,
        **{"num_best": beams, **options},
    )


def assert_same(found: Sequence[Hypothesis], wanted: Sequence[Hypothesis]) -> None:
    assert [(each.tokens, each.is_complete) for each in found] == [(each.tokens, each.is_complete) for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def in_order(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda each: (not each.is_complete, -each.score))


# --- All outputs, by brute force ---


def log_probability(world: World, sentence: int, tokens: Tokens) -> float:
    """Of these tokens, one after the other."""
    return float(sum(world.log_probs(sentence, tokens[:at])[token] for at, token in enumerate(tokens)))


def every_output(world: World, sentence: int, longest: int, alpha: float) -> list[Hypothesis]:
    """All that can be written within the limit, and all that comes to it without an end."""
    found = []
    others = [token for token in range(world.vocabulary) if token != END and token not in world.forbidden]
    for length in range(longest + 1):
        for tokens in product(others, repeat=length):
            total = log_probability(world, sentence, (*tokens, END))
            found.append(Hypothesis(list(tokens), total / (length + 1) ** alpha, total, True))
            if length == longest:
                total = log_probability(world, sentence, tokens)
                found.append(Hypothesis(list(tokens), total / max(1, length) ** alpha, total, False))
    return in_order(found)


@pytest.mark.parametrize(("alpha", "is_exhaustive"), [(0.0, False), (0.0, True), (0.6, True), (1.0, True)])
@pytest.mark.parametrize(("vocabulary", "longest"), [(3, 4), (4, 3), (5, 2)])
def test_with_enough_beams_search_is_brute_force(
    vocabulary: int, longest: int, alpha: float, is_exhaustive: bool
) -> None:
    for seed in range(20):
        world = World(vocabulary, seed, end_bonus=seed % 3 - 1.0, forbidden=())
        others = vocabulary - 1  # BEGIN is a token like others here
        beams = others**longest * vocabulary
        (found,) = found_by_beams(world, [7], [longest], beams, alpha, is_exhaustive=is_exhaustive)
        wanted = every_output(world, 7, longest, alpha)
        ended = {tuple(each.tokens) for each in wanted if each.is_complete}
        assert len(ended) == sum(others**length for length in range(longest + 1))
        assert math.isclose(sum(math.exp(each.log_probability) for each in wanted if each.is_complete), 1) is False
        # An output that was given its end is not listed without it as well.
        assert_same(found, [each for each in wanted if each.is_complete or tuple(each.tokens) not in ended])


# --- Few beams, against a slow restatement of the rules ---


Stop = Literal["present length", "any length", "never"]


def slow_search(
    world: World,
    sentence: int,
    longest: int,
    beams: int,
    alpha: float,
    *,
    stop: Stop = "present length",
    no_repeat_ngram: int = 0,
    prefix: Tokens = (),
) -> tuple[list[Hypothesis], int]:
    """The K best as the docstring of `beam_search` says, and after how many steps it stops."""
    live: list[tuple[float, Tokens]] = [(0.0, ())]
    done: list[Hypothesis] = []
    for length in range(1, longest + 2):
        grown = []
        for total, written in live:
            for token, gain in enumerate(world.log_probs(sentence, written)):
                is_given = len(written) < len(prefix)
                if is_given and token != prefix[len(written)]:
                    continue
                if not is_given and repeats((*written, token), no_repeat_ngram):
                    continue
                if gain > -np.inf:
                    grown.append((total + gain, written, token))
        grown = sorted(grown, key=lambda each: -each[0])[: 2 * beams]
        ends = [each for each in grown[:beams] if each[2] == END]
        going = [each for each in grown if each[2] != END]
        done += [Hypothesis(list(written), total / length**alpha, total, True) for total, written, _ in ends]
        if length > longest:
            ended = {written for _, written, _ in ends}
            stuck = [(total, written) for total, written in live if written not in ended]
            done += [
                Hypothesis(list(written), total / max(1, longest) ** alpha, total, False) for total, written in stuck
            ]
            going = []
        done = in_order(done)[:beams]
        live = [(total, (*written, token)) for total, written, token in going][:beams]
        if not live:
            break
        reached = length if stop == "present length" else longest + 1
        if len(done) == beams and stop != "never" and live[0][0] / reached**alpha <= done[-1].score:
            break
    return done, length


def repeats(tokens: Tokens, size: int) -> bool:
    """Whether the last n-gram stands before, too."""
    grams = [tokens[at : at + size] for at in range(len(tokens) - size + 1)]
    return bool(size) and len(tokens) >= size and tokens[-1] != END and tokens[-size:] in grams[:-1]


LENGTHS = [5, 0, 9, 1, 7, 7, 3, 12]


@pytest.mark.parametrize("is_exhaustive", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_few_beams_find_what_slow_search_finds(beams: int, alpha: float, is_exhaustive: bool) -> None:
    lengths, num_incomplete = Counter[int](), 0
    for seed in range(25):
        world = World(3 + seed % 3, seed, sharpness=0.5 + seed % 4, end_bonus=seed % 5 - 2.0)
        sentences = range(len(LENGTHS))
        steps = TranslationBackend(world, sentences, beams)
        options: dict[str, Any] = {"begin": BEGIN, "end": END, "beams": beams, "alpha": alpha, "num_best": beams}
        found = beam_search(steps, LENGTHS, forbidden=[BEGIN], is_exhaustive=is_exhaustive, **options)
        num_steps = []
        for sentence, longest in enumerate(LENGTHS):
            stop: Stop = "any length" if is_exhaustive else "present length"
            wanted, steps_needed = slow_search(world, sentence, longest, beams, alpha, stop=stop)
            assert_same(found[sentence], wanted)
            lengths[len(wanted[0].tokens)] += 1
            num_incomplete += any(not each.is_complete for each in wanted)
            num_steps.append(steps_needed)
        # A finished sentence costs nothing more.
        assert steps.num_rows == [beams * sum(each > step for each in num_steps) for step in range(max(num_steps))]
    assert len(lengths) > 5  # or nothing was compared
    assert 0 < num_incomplete < lengths.total()


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_the_exhaustive_rule_is_early_and_exact(alpha: float) -> None:
    """It stops early and misses nothing."""
    num_saved = num_missed = 0
    for seed in range(150):
        world, longest, beams = World(4, seed, end_bonus=1.0), 9, 2
        best, _ = slow_search(world, 0, longest, beams, alpha, stop="never")
        steps = TranslationBackend(world, [0], beams)
        options: dict[str, Any] = {"begin": BEGIN, "end": END, "beams": beams, "alpha": alpha, "num_best": beams}
        (found,) = beam_search(steps, [longest], forbidden=[BEGIN], is_exhaustive=True, **options)
        assert_same(found, best)
        num_saved += longest + 1 - len(steps.num_rows)
        (quick,) = found_by_beams(world, [0], [longest], beams, alpha)
        num_missed += [each.tokens for each in quick] != [each.tokens for each in best]
    assert num_saved > 0
    assert (num_missed > 0) == (alpha > 0)  # what the other rule risks


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_one_beam_is_greedy(alpha: float) -> None:
    for seed in range(50):
        world = World(5, seed)
        (found,) = found_by_beams(world, [3], [8], 1, alpha)
        tokens: Tokens = ()
        while len(tokens) <= 8 and (best := int(world.log_probs(3, tokens).argmax())) != END:
            tokens = (*tokens, best)
        assert found[0].tokens == list(tokens[:8])
        assert found[0].is_complete == (len(tokens) <= 8)
        assert found[0].log_probability == pytest.approx(
            log_probability(world, 3, (*tokens, END) if found[0].is_complete else tokens[:8]), abs=1e-4
        )


@pytest.mark.parametrize("beams", [1, 4])
def test_batching_changes_no_output(beams: int) -> None:
    world = World(5, 1)
    together = found_by_beams(world, range(len(LENGTHS)), LENGTHS, beams, 1.0)
    for sentence, longest in enumerate(LENGTHS):
        (alone,) = found_by_beams(world, [sentence], [longest], beams, 1.0)
        assert alone == together[sentence]
    assert found_by_beams(world, [], [], beams, 1.0) == []


def test_the_n_best_are_the_first_of_all_beams() -> None:
    world = World(5, 2)
    everything = found_by_beams(world, range(4), [6] * 4, 4, 1.0)
    assert all(len({tuple(each.tokens) for each in best}) == 4 for best in everything)
    for num_best in (1, 2, 3):
        some = found_by_beams(world, range(4), [6] * 4, 4, 1.0, num_best=num_best)
        assert some == [best[:num_best] for best in everything]


# --- Limits, prefixes, bans ---


def test_each_sentence_keeps_its_own_limit() -> None:
    """What is cut is marked, and comes last."""
    world = World(6, 0, end_bonus=-9.0)  # it hardly ever wants to end
    found = found_by_beams(world, range(len(LENGTHS)), LENGTHS, 3, 1.0)
    for longest, best in zip(LENGTHS, found, strict=True):
        assert len(best) == (3 if longest else 1)
        assert all(len(each.tokens) <= longest for each in best)
        assert all(len(each.tokens) == longest for each in best if not each.is_complete)
        flags = [each.is_complete for each in best]
        assert flags == sorted(flags, reverse=True)  # whatever their scores, complete outputs come first
    assert not all(best[0].is_complete for best in found)


def test_no_output_is_listed_twice() -> None:
    """With its end and without it."""
    for seed in range(100):
        for best in found_by_beams(World(3, seed), range(4), [0, 1, 2, 3], 6, 1.0):
            assert len({tuple(each.tokens) for each in best}) == len(best)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_prefixes_are_kept_and_scored(beams: int, alpha: float) -> None:
    prefixes: list[Tokens] = [(2, 3, 2), (), (4,), (3, 3, 3, 3), (2, 2, 2, 2, 2, 2)]
    longest = [7, 7, 7, 4, 3]  # room, room, room, just enough, too little
    for seed in range(20):
        world = World(5, seed)
        found = found_by_beams(world, range(5), longest, beams, alpha, prefixes=prefixes)
        for sentence, (prefix, limit) in enumerate(zip(prefixes, longest, strict=True)):
            wanted, _ = slow_search(world, sentence, limit, beams, alpha, prefix=prefix)
            assert_same(found[sentence], wanted)
            for each in found[sentence]:
                assert each.tokens[: len(prefix)] == list(prefix[:limit])
                written = (*each.tokens, END) if each.is_complete else tuple(each.tokens)
                assert each.log_probability == pytest.approx(log_probability(world, sentence, written), abs=1e-4)


def test_an_outputs_own_prefix_changes_nothing() -> None:
    for seed in range(20):
        world = World(5, seed)
        (free,) = found_by_beams(world, [0], [8], 1, 1.0)
        for size in range(len(free[0].tokens) + 1):
            (given_it,) = found_by_beams(world, [0], [8], 1, 1.0, prefixes=[free[0].tokens[:size]])
            assert_same(given_it, free)


@pytest.mark.parametrize(("prefix", "no_repeat_ngram"), [((2, 2, 2), 1), ((3, 2, 3, 2), 2), ((BEGIN, 2), 0)])
def test_prefixes_are_always_kept(prefix: Tokens, no_repeat_ngram: int) -> None:
    """Even where search would not write them."""
    (found,) = found_by_beams(World(5, 3), [0], [9], 3, 1.0, prefixes=[prefix], no_repeat_ngram=no_repeat_ngram)
    assert len(found) > 0
    assert all(each.tokens[: len(prefix)] == list(prefix) and math.isfinite(each.score) for each in found)


@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.integers(3, 5),
    size=st.integers(1, 4),
    beams=st.integers(1, 4),
    longest=st.integers(0, 12),
)
@settings(deadline=None, max_examples=60)
def test_no_n_gram_stands_twice(seed: int, vocabulary: int, size: int, beams: int, longest: int) -> None:
    world = World(vocabulary, seed, end_bonus=-1.0)
    found = found_by_beams(world, range(2), [longest, longest // 2], beams, 1.0, no_repeat_ngram=size)
    for sentence, limit in enumerate((longest, longest // 2)):
        wanted, _ = slow_search(world, sentence, limit, beams, 1.0, no_repeat_ngram=size)
        assert_same(found[sentence], wanted)
        for tokens, *_ in found[sentence]:
            grams = [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]
            assert len(set(grams)) == len(grams)


def test_without_the_ban_n_grams_do_stand_twice() -> None:
    found = found_by_beams(World(4, 0, end_bonus=-2.0), range(20), [12] * 20, 2, 1.0)
    outputs = [each.tokens for best in found for each in best]
    assert any(len(set(pairwise(tokens))) < len(tokens) - 1 for tokens in outputs)


def test_forbidden_tokens_are_never_written() -> None:
    """The others share their probability."""
    world = World(5, 0, forbidden=(BEGIN, 3))
    free = world._replace(forbidden=())
    drawn = sample_of(world, 300, longest=6)
    for each in [*drawn, *(each for best in found_by_beams(world, [0] * 3, [6] * 3, 3, 0.0) for each in best)]:
        assert not {BEGIN, 3} & set(each.tokens)
        written = (*each.tokens, END) if each.is_complete else tuple(each.tokens)
        assert each.log_probability == pytest.approx(log_probability(world, 0, written), abs=1e-4)
        assert each.log_probability > log_probability(free, 0, written)


# --- Sampling ---


def sample_of(world: World, count: int, *, longest: int = 3, seed: int = 0, **options: Any) -> list[Hypothesis]:
    """Independent draws of sentence 0."""
    return sample(
        TranslationBackend(world, [0] * count),
        [longest] * count,
        begin=BEGIN,
        end=END,
        generator=torch.Generator().manual_seed(seed),
        forbidden=world.forbidden,
        **options,
    )


def assert_drawn_from(counts: Counter[Any], chances: dict[Any, float]) -> None:
    """Pearson's chi-square, within five standard deviations; the generator is fixed, so it holds always or never."""
    num_draws = counts.total()
    assert counts.keys() <= chances.keys()
    assert math.isclose(sum(chances.values()), 1, abs_tol=1e-6)
    frequent = {what: chance for what, chance in chances.items() if chance * num_draws >= 5}
    assert len(frequent) > 1
    square = sum((counts[what] - chance * num_draws) ** 2 / (chance * num_draws) for what, chance in frequent.items())
    assert square < len(frequent) + 5 * math.sqrt(2 * len(frequent))


def test_samples_have_the_model_s_distribution() -> None:
    world = World(5, 5)
    drawn = sample_of(world, 20_000)
    everything = every_output(world, 0, 3, 0.0)
    chances = {(tuple(each.tokens), True): math.exp(each.log_probability) for each in everything if each.is_complete}
    # What was cut had every next token but the end.
    cut = {tuple(each.tokens): math.exp(each.log_probability) for each in everything if not each.is_complete}
    chances |= {(tokens, False): chance - chances[tokens, True] for tokens, chance in cut.items()}
    assert_drawn_from(Counter((tuple(each.tokens), each.is_complete) for each in drawn), chances)
    totals = {(tuple(each.tokens), each.is_complete): each.log_probability for each in everything}
    for each in drawn[:500]:
        assert (
            each.score == each.log_probability == pytest.approx(totals[tuple(each.tokens), each.is_complete], abs=1e-4)
        )


def first_tokens(world: World, **options: Any) -> Counter[int]:
    drawn = sample_of(world, 20_000, longest=1, **options)
    return Counter(each.tokens[0] if each.tokens else END for each in drawn)


def chances_of(world: World, temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """The definition, token by token."""
    powers = {token: math.exp(x / temperature) for token, x in enumerate(world.log_probs(0, ())) if x > -np.inf}
    order = sorted(powers, key=powers.__getitem__, reverse=True)[: top_k or None]
    kept, held, whole = list[int](), 0.0, sum(powers[token] for token in order)
    for token in order:
        if held >= top_p:
            break
        kept.append(token)
        held += powers[token] / whole
    return {token: powers[token] / sum(powers[each] for each in kept) for token in kept}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "num_left"),
    [
        *((1.0, 0, 1.0, 7), (2.0, 0, 1.0, 7), (0.5, 0, 1.0, 7)),
        *((1.0, 3, 1.0, 3), (1.0, 99, 1.0, 7), (1.0, 0, 0.8, 4), (0.5, 0, 0.9, 4)),
        *((2.0, 4, 1.0, 4), (2.0, 5, 0.7, 3)),
    ],
)
def test_temperature_top_k_and_top_p_are_exact(temperature: float, top_k: int, top_p: float, num_left: int) -> None:
    world = World(8, 0, sharpness=1.2)
    chances = chances_of(world, temperature, top_k, top_p)
    assert len(chances) == num_left  # that the case tests what it is meant to
    counts = first_tokens(world, temperature=temperature, top_k=top_k, top_p=top_p)
    assert counts.keys() == chances.keys()
    assert_drawn_from(counts, chances)


@pytest.mark.parametrize("options", [{"temperature": 1e-5}, {"top_k": 1}, {"top_p": 1e-6}])
def test_no_temperature_or_one_token_left_is_greedy(options: dict[str, Any]) -> None:
    for seed in range(20):
        world = World(5, seed)
        drawn = sample(
            TranslationBackend(world, range(len(LENGTHS))),
            LENGTHS,
            begin=BEGIN,
            end=END,
            generator=torch.Generator().manual_seed(0),
            forbidden=world.forbidden,
            **options,
        )
        greedy = [best[0] for best in found_by_beams(world, range(len(LENGTHS)), LENGTHS, 1, 0.0)]
        assert_same(drawn, greedy)


def test_the_same_seed_draws_the_same() -> None:
    world = World(5, 9)
    assert sample_of(world, 50, longest=9, seed=4) == sample_of(world, 50, longest=9, seed=4)
    assert sample_of(world, 50, longest=9, seed=4) != sample_of(world, 50, longest=9, seed=5)


def test_samples_keep_their_own_limits() -> None:
    """Finished ones cost nothing."""
    world = World(4, 0, end_bonus=-1.0)
    steps = TranslationBackend(world, range(len(LENGTHS)))
    generator = torch.Generator().manual_seed(0)
    drawn = sample(steps, LENGTHS, begin=BEGIN, end=END, generator=generator, forbidden=[BEGIN])
    assert len(drawn) == len(LENGTHS)
    num_steps = []
    for sentence, (longest, each) in enumerate(zip(LENGTHS, drawn, strict=True)):
        assert len(each.tokens) <= longest
        assert each.is_complete or len(each.tokens) == longest
        written = (*each.tokens, END) if each.is_complete else tuple(each.tokens)
        assert each.log_probability == pytest.approx(log_probability(world, sentence, written), abs=1e-4)
        num_steps.append(len(each.tokens) + 1)
    assert {each.is_complete for each in drawn} == {True, False}
    assert steps.num_rows == [sum(each > step for each in num_steps) for step in range(max(num_steps))]


def test_nan_scores_write_nothing() -> None:
    """For that sentence; the others are as they were."""

    class Broken(TranslationBackend):
        def step(self, tokens: Tensor) -> Tensor:
            scores = super().step(tokens)
            scores[[sentence == 1 for sentence in self._sentences for _ in range(self._beams)]] = torch.nan
            return scores

    world, beams = World(vocabulary=5), 2
    options: dict[str, Any] = {"begin": BEGIN, "end": END, "beams": beams, "alpha": 0.6, "num_best": 2}
    whole = beam_search(TranslationBackend(world, [0, 1, 2], beams), [4, 4, 4], **options)
    found = beam_search(Broken(world, [0, 1, 2], beams), [4, 4, 4], **options)
    assert found[1] == [Hypothesis([], -math.inf, -math.inf, False)]
    assert [found[0], found[2]] == [whole[0], whole[2]]
