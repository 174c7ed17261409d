import json
import math
import random
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data import tokenizer as tokenizers
from segue.data.subwords import NUM_VARIANTS, RandomCuts, SubwordsSection, _Lattice, _Merges
from segue.data.tokenizer import (
    WORD_MARK,
    BPESection,
    BytesSection,
    CharactersSection,
    Tokenizer,
    TokenizerSection,
    UnigramSection,
    WordsSection,
)
from segue.errors import UserError

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
TEXTS = """two men in blue shirts are standing at a street corner, and they are talking to each other.
a little girl in a pink dress is climbing the wooden stairs of her playhouse.
several people are standing around a table with bottles; one of them is laughing.
a dog runs through the high grass; another dog is running behind it.
zwei männer in blauen hemden stehen an einer straßenecke und unterhalten sich.
ein kleines mädchen in einem rosa kleid klettert die hölzerne treppe ihres spielhauses hinauf.
mehrere leute stehen um einen tisch mit flaschen; einer von ihnen lacht.
ein hund rennt durch das hohe gras; ein anderer hund läuft hinter ihm her.
there is something about the way that the others are waiting there that nobody understands.
unterhaltungen, unternehmungen und unterschiede: wer weiß, was unten und was oben ist?""".splitlines()
LETTERS = "".join(sorted({c for text in TEXTS for c in text if c != " "}))
SECTIONS: dict[str, TokenizerSection] = {
    "bpe": BPESection(kind="bpe", size=160),
    "unigram": UnigramSection(kind="unigram", size=200),
}
TOKENIZERS = {kind: tokenizers.build(section, TEXTS, SPECIAL) for kind, section in SECTIONS.items()}

texts = st.one_of(
    st.lists(st.sampled_from([word for text in TEXTS for word in text.split()]), max_size=5).map(" ".join),
    st.lists(st.text(LETTERS, min_size=1, max_size=12), max_size=4).map(" ".join),
)
DROPOUT, SAMPLING = SubwordsSection(merge_dropout=0.1), SubwordsSection(sampling_alpha=0.3)
every_randomness = pytest.mark.parametrize(("kind", "section"), [("bpe", DROPOUT), ("unigram", SAMPLING)])


def model_of(kind: str) -> Any:
    return json.loads(TOKENIZERS[kind].to_json())["model"]


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.tokens[number] for number in tokenizer.encode(text)]


def cut_of(cuts: RandomCuts, text: str, seed: int = 0) -> list[int]:
    return cuts.encode(text, np.random.default_rng(seed))


# --- BPE ---


@given(texts)
@settings(deadline=None)
def test_with_no_dropout_merges_are_the_library_s(text: str) -> None:
    tokenizer = TOKENIZERS["bpe"]
    merge = _Merges([tuple(pair) for pair in model_of("bpe")["merges"]], 0.0)
    found = [piece for chunk in tokenizer.chunks(text) for piece in merge(chunk, random.Random(0))]
    assert found == pieces_of(tokenizer, text)


def test_equal_merges_go_from_left_to_right() -> None:
    merge = _Merges([("a", "a"), ("aa", "a"), ("aa", "aa")], 0.0)
    assert merge("aaa", random.Random(0)) == ["aaa"]
    assert merge("aaaa", random.Random(0)) == ["aaaa"]
    assert merge("aaaaa", random.Random(0)) == ["aa", "aaa"]


def test_dropout_skips_merges_at_its_probability() -> None:
    draw, num_draws = random.Random(0), 20_000
    merge = _Merges([("a", "b"), ("ab", "c"), ("b", "c")], 0.1)
    found = Counter(tuple(merge("abc", draw)) for _ in range(num_draws))
    # First both pairs are possible; (b, c) is taken only where (a, b) is left out, and then nothing joins the a.
    wanted = {("ab", "c"): 0.9 * 0.1, ("abc",): 0.9 * 0.9, ("a", "bc"): 0.1 * 0.9, ("a", "b", "c"): 0.1 * 0.1}
    assert found.keys() == wanted.keys()
    for pieces, chance in wanted.items():
        assert abs(found[pieces] - chance * num_draws) < 5 * math.sqrt(chance * (1 - chance) * num_draws)


# --- Unigram ---


def every_cut(word: str, scores: dict[str, float]) -> dict[tuple[str, ...], float]:
    """All ways to write `word` in pieces, and the log-probability of each."""

    @lru_cache(None)
    def rest(start: int) -> list[tuple[tuple[str, ...], float]]:
        if start == len(word):
            return [((), 0.0)]
        return [
            ((word[start:end], *others), scores[word[start:end]] + score)
            for end in range(start + 1, len(word) + 1)
            if word[start:end] in scores
            for others, score in rest(end)
        ]

    return dict(rest(0))


@pytest.mark.parametrize("alpha", [0.0001, 0.3, 1.0])
@pytest.mark.parametrize("word", [WORD_MARK + "unten", WORD_MARK + "the", "a"])
def test_cut_frequency_follows_p_to_the_alpha(word: str, alpha: float) -> None:
    """As often as their probability to the power of alpha says."""
    scores = {piece: score for piece, score in model_of("unigram")["vocab"] if piece not in SPECIAL}
    cuts = every_cut(word, scores)
    assert len(cuts) > 3 or word == "a"
    powers = {pieces: math.exp(alpha * score) for pieces, score in cuts.items()}
    draw, num_draws = random.Random(0), 10_000
    lattice = _Lattice(scores, alpha)
    found = Counter(tuple(lattice(word, draw)) for _ in range(num_draws))
    assert found.keys() <= cuts.keys()
    for pieces, power in powers.items():
        chance = power / sum(powers.values())
        assert abs(found[pieces] - chance * num_draws) <= 5 * math.sqrt(chance * (1 - chance) * num_draws) + 1


@given(texts)
@settings(deadline=None)
def test_a_high_alpha_leaves_the_best_cut(text: str) -> None:
    """The library's, or one as good."""
    tokenizer = TOKENIZERS["unigram"]
    scores = {piece: score for piece, score in model_of("unigram")["vocab"] if piece not in SPECIAL}
    lattice = _Lattice(scores, 1e6)
    found = [piece for chunk in tokenizer.chunks(text) for piece in lattice(chunk, random.Random(0))]
    wanted = pieces_of(tokenizer, text)
    assert "".join(found) == "".join(wanted)
    # Not the pieces themselves: cuts may be equally good.
    assert sum(map(scores.__getitem__, found)) == pytest.approx(sum(map(scores.__getitem__, wanted)), abs=1e-4)


# --- Both ---


@every_randomness
@given(text=texts, seed=st.integers(0, 99))
@settings(deadline=None)
def test_random_cuts_never_change_the_text(kind: str, section: SubwordsSection, text: str, seed: int) -> None:
    tokenizer = TOKENIZERS[kind]
    numbers = cut_of(RandomCuts(tokenizer, section, seed), text, seed)
    assert tokenizer.decode(numbers) == text
    assert not set(numbers) & set(tokenizer.special.values())


@every_randomness
def test_random_cuts_change_some_words_and_not_all(kind: str, section: SubwordsSection) -> None:
    tokenizer = TOKENIZERS[kind]
    cuts = RandomCuts(tokenizer, section, 0)
    assert cuts.is_random
    words = [word for text in TEXTS for word in text.split()]
    num_same = sum(cut_of(cuts, word, number) == tokenizer.encode(word) for number, word in enumerate(words))
    assert 0.1 < num_same / len(words) < 0.9
    again = {tuple(cut_of(cuts, "unterhaltungen", seed)) for seed in range(10 * NUM_VARIANTS)}
    assert 2 < len(again) <= NUM_VARIANTS


@every_randomness
def test_cuts_depend_on_seed_word_and_variant(kind: str, section: SubwordsSection) -> None:
    """On nothing else."""
    tokenizer = TOKENIZERS[kind]
    first, second, other = (RandomCuts(tokenizer, section, seed) for seed in (3, 3, 4))
    wanted = [cut_of(first, text, seed) for seed in range(5) for text in TEXTS]
    cut_of(second, "something else first", 99)
    backwards = [cut_of(second, text, seed) for seed in reversed(range(5)) for text in reversed(TEXTS)]
    assert backwards[::-1] == wanted
    assert [cut_of(other, text, seed) for seed in range(5) for text in TEXTS] != wanted
    # The same words elsewhere in a text are cut from the same variants.
    word = [cut_of(first, "unterschiede", seed) for seed in range(500)]
    pair = [cut_of(first, "unterschiede unterschiede", seed) for seed in range(500)]
    variants = {tuple(numbers) for numbers in word}
    assert all(any(tuple(numbers) == (*one, *two) for one in variants for two in variants) for numbers in pair)


@every_randomness
def test_unwritable_text_is_the_unknown_token(kind: str, section: SubwordsSection) -> None:
    """As often as the library has it."""
    tokenizer = TOKENIZERS[kind]
    cuts = RandomCuts(tokenizer, section, 0)
    for text in ("日", "日本", "a 日 dog", "日本x語", "dog日本dog", "日 本 日本"):
        wanted = tokenizer.encode(text)
        for seed in range(50):
            found = cut_of(cuts, text, seed)
            assert found.count(SPECIAL.index("<unk>")) == wanted.count(SPECIAL.index("<unk>")) > 0
            assert tokenizer.decode(found) == tokenizer.decode(wanted)


@every_randomness
def test_unwritable_text_needs_an_unknown_token(kind: str, section: SubwordsSection) -> None:
    """Else it is refused."""
    cuts = RandomCuts(tokenizers.build(SECTIONS[kind], TEXTS), section, 0)
    assert cut_of(cuts, "a dog")
    with pytest.raises(UserError, match="outside the tokenizer's alphabet: '日'"):
        cut_of(cuts, "a 日 dog")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_without_randomness_cuts_equal_encoding(kind: str) -> None:
    cuts = RandomCuts(TOKENIZERS[kind], SubwordsSection(), 0)
    assert not cuts.is_random
    assert [cut_of(cuts, text) for text in TEXTS] == [TOKENIZERS[kind].encode(text) for text in TEXTS]


OTHERS: list[TokenizerSection] = [
    CharactersSection(kind="characters"),
    WordsSection(kind="words"),
    BytesSection(kind="bytes"),
]


@pytest.mark.parametrize("section", [*OTHERS, SECTIONS["unigram"]], ids=lambda section: section.kind)
def test_dropout_of_merges_needs_merges(section: TokenizerSection) -> None:
    with pytest.raises(UserError, match=r"subwords\.merge_dropout: needs a tokenizer of kind bpe"):
        RandomCuts(tokenizers.build(section, TEXTS, SPECIAL), DROPOUT, 0)


@pytest.mark.parametrize("section", [*OTHERS, SECTIONS["bpe"]], ids=lambda section: section.kind)
def test_sampling_needs_unigram_pieces(section: TokenizerSection) -> None:
    with pytest.raises(UserError, match=r"subwords\.sampling_alpha: needs a tokenizer of kind unigram"):
        RandomCuts(tokenizers.build(section, TEXTS, SPECIAL), SAMPLING, 0)
