from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data import tokenizer as tokenizers
from segue.data.tokenizer import (
    BPESection,
    BytesSection,
    CharactersSection,
    Tokenizer,
    TokenizerSection,
    UnigramSection,
)
from segue.errors import UserError

ALPHABET = "abcdéß'日本"
TEXTS = ["bad dad", "a cab", "cab dad", "éß ab", "日本", "c'd a bad cab", "dada baba", "abba a dab"]
SECTIONS: dict[str, TokenizerSection] = {
    "characters": CharactersSection(kind="characters", alphabet=" " + ALPHABET),
    "bytes": BytesSection(kind="bytes"),
    "bpe": BPESection(kind="bpe", size=30),
    "unigram": UnigramSection(kind="unigram", size=30),
}
TOKENIZERS = {kind: tokenizers.build(section, TEXTS) for kind, section in SECTIONS.items()}

every_kind = pytest.mark.parametrize("kind", SECTIONS)
learnt_kinds = pytest.mark.parametrize("kind", ["bpe", "unigram"])
normalized = st.lists(st.text(ALPHABET, min_size=1, max_size=6), max_size=6).map(" ".join)


@every_kind
@given(text=normalized)
@settings(deadline=None)
def test_decoding_gives_the_encoded_text_back(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    numbers = tokenizer.encode(text)
    assert tokenizer.decode(numbers) == text
    assert b"".join(tokenizer.pieces[number] for number in numbers).decode().strip(" ") == text


@given(st.text())
@settings(deadline=None)
def test_bytes_write_every_text(text: str) -> None:
    tokenizer = TOKENIZERS["bytes"]
    assert tokenizer.unknown_characters(text) == []
    assert tokenizer.decode(tokenizer.encode(text)) == text.strip(" ")


@every_kind
@given(draw=st.data())
@settings(deadline=None)
def test_whatever_a_model_says_can_be_decoded(kind: str, draw: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    numbers = draw.draw(st.lists(st.integers(0, len(tokenizer) - 1)))
    said = b"".join(tokenizer.pieces[number] for number in numbers)
    assert tokenizer.decode(numbers) == said.decode(errors="replace").strip(" ")


@pytest.mark.parametrize("kind", ["characters", "bpe", "unigram"])
def test_what_no_token_can_write_is_named(kind: str) -> None:
    assert TOKENIZERS[kind].unknown_characters("bad zebras, a bad zoo") == ["z", "e", "r", "s", ",", "o"]
    with pytest.raises(UserError, match="outside the tokenizer's alphabet: 'z' 'o'"):
        TOKENIZERS[kind].encode("a zoo")


def test_a_space_can_be_what_no_token_can_write() -> None:
    tokenizer = tokenizers.build(CharactersSection(kind="characters", alphabet="ab"), [])
    assert tokenizer.unknown_characters("a b") == [" "]
    assert tokenizer.unknown_characters("ab") == []


def test_characters_are_numbered_as_the_recipe_lists_them() -> None:
    assert TOKENIZERS["characters"].tokens == list(" " + ALPHABET)
    assert [len(piece) for piece in TOKENIZERS["bytes"].pieces] == [1] * 256


@every_kind
def test_a_saved_tokenizer_loads_equal(kind: str, tmp_path: Path) -> None:
    saved = TOKENIZERS[kind]
    saved.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.tokens, loaded.pieces) == (saved.tokens, saved.pieces)
    assert [loaded.encode(text) for text in TEXTS] == [saved.encode(text) for text in TEXTS]
    assert loaded.unknown_characters("xyz") == saved.unknown_characters("xyz")


@learnt_kinds
def test_learning_twice_gives_the_same_file(kind: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.json" for number in range(4)]
    for file in files:
        tokenizers.build(SECTIONS[kind], iter(TEXTS)).save(file)
    assert len({file.read_bytes() for file in files}) == 1


@learnt_kinds
def test_learning_joins_what_is_frequent_and_keeps_to_the_size(kind: str) -> None:
    texts = [
        *("the cat and the dog and the hen", "the quick brown fox jumps over the lazy dog"),
        *("the men and the women of the other town", "then the hat and the bath and the weather"),
    ]
    section = {"bpe": BPESection, "unigram": UnigramSection}[kind](kind=kind, size=40)
    tokenizer = tokenizers.build(section, texts)
    assert 27 < len(tokenizer) <= 40
    assert len(tokenizer.encode("the")) == 1


@learnt_kinds
def test_a_size_below_the_number_of_characters_is_refused(kind: str) -> None:
    section = SECTIONS[kind].model_copy(update={"size": 9})
    with pytest.raises(UserError, match=r"tokenizer\.size: 9 is less than the 9 characters"):
        tokenizers.build(section, TEXTS)


def test_a_character_twice_in_the_alphabet_is_refused() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.alphabet: a character stands in it twice"):
        tokenizers.build(CharactersSection(kind="characters", alphabet="aba"), [])


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(path)
