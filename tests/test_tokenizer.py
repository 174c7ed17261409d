from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data import tokenizer as tokenizers
from segue.data.tokenizer import (
    BPESection,
    ByteBPESection,
    BytesSection,
    CharactersSection,
    Tokenizer,
    TokenizerSection,
    UnigramSection,
    WordsSection,
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
def test_any_sequence_of_tokens_can_be_decoded(kind: str, draw: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    numbers = draw.draw(st.lists(st.integers(0, len(tokenizer) - 1)))
    said = b"".join(tokenizer.pieces[number] for number in numbers)
    assert tokenizer.decode(numbers) == said.decode(errors="replace").strip(" ")


@pytest.mark.parametrize("kind", ["characters", "bpe", "unigram"])
def test_unknown_characters_are_named(kind: str) -> None:
    assert TOKENIZERS[kind].unknown_characters("bad zebras, a bad zoo") == ["z", "e", "r", "s", ",", "o"]
    with pytest.raises(UserError, match="outside the tokenizer's alphabet: 'z' 'o'"):
        TOKENIZERS[kind].encode("a zoo")


def test_a_space_can_be_an_unknown_character() -> None:
    tokenizer = tokenizers.build(CharactersSection(kind="characters", alphabet="ab"), [])
    assert tokenizer.unknown_characters("a b") == [" "]
    assert tokenizer.unknown_characters("ab") == []


def test_characters_are_numbered_as_listed() -> None:
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
def test_learning_joins_frequent_pieces(kind: str) -> None:
    """It keeps to the size."""
    texts = [
        *("the cat and the dog and the hen", "the quick brown fox jumps over the lazy dog"),
        *("the men and the women of the other town", "then the hat and the bath and the weather"),
    ]
    section = {"bpe": BPESection, "unigram": UnigramSection}[kind](kind=kind, size=40)
    tokenizer = tokenizers.build(section, texts)
    assert 27 < len(tokenizer) <= 40
    assert len(tokenizer.encode("the")) == 1


@learnt_kinds
def test_a_size_below_the_alphabets_is_refused(kind: str) -> None:
    section = SECTIONS[kind].model_copy(update={"size": 9})
    with pytest.raises(UserError, match=r"tokenizer\.size: 9 is less than the 9 characters"):
        tokenizers.build(section, TEXTS)


def test_repeated_characters_are_refused() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.alphabet: a character appears twice"):
        tokenizers.build(CharactersSection(kind="characters", alphabet="aba"), [])


# --- Special tokens ---

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<2de>")
UNKNOWN = SPECIAL.index("<unk>")
SENTENCES = [*TEXTS, "a cab, a dad; 'bad'!", "c'd a cab. bad, bad dad"]
ALL_SECTIONS: dict[str, TokenizerSection] = {
    **SECTIONS,
    "characters": CharactersSection(kind="characters", alphabet=" .,;!" + ALPHABET),
    "bpe": BPESection(kind="bpe", size=40),
    "unigram": UnigramSection(kind="unigram", size=40),
    "words": WordsSection(kind="words"),
}
WITH_SPECIAL = {kind: tokenizers.build(section, SENTENCES, SPECIAL) for kind, section in ALL_SECTIONS.items()}
all_kinds = pytest.mark.parametrize("kind", ALL_SECTIONS)


@all_kinds
def test_special_tokens_come_first_without_text(kind: str) -> None:
    tokenizer = WITH_SPECIAL[kind]
    assert tokenizer.tokens[: len(SPECIAL)] == list(SPECIAL)
    assert tokenizer.special == {token: number for number, token in enumerate(SPECIAL)}
    assert tokenizer.unknown == UNKNOWN
    assert tokenizer.pieces[: len(SPECIAL)] == [b""] * len(SPECIAL)
    assert all(tokenizer.pieces[len(SPECIAL) :])
    numbers = tokenizer.encode(SENTENCES[0])
    assert tokenizer.decode([1, *numbers[:1], 0, *numbers[1:], 2, 0, 0]) == SENTENCES[0]


@all_kinds
def test_special_tokens_do_not_change_learning(kind: str) -> None:
    section = ALL_SECTIONS[kind]
    if isinstance(section, BPESection | UnigramSection):
        assert isinstance(section.size, int)
        section = section.model_copy(update={"size": section.size - len(SPECIAL)})
    plain = tokenizers.build(section, SENTENCES)
    assert plain.special == {}
    assert plain.unknown is None
    assert WITH_SPECIAL[kind].tokens[len(SPECIAL) :] == plain.tokens
    for text in SENTENCES:
        assert WITH_SPECIAL[kind].encode(text) == [number + len(SPECIAL) for number in plain.encode(text)]


@all_kinds
@pytest.mark.parametrize(
    "text", ["</s>", "a </s> b", "<unk>", "a<pad>", "<s>a cab</s>", "<2de> bad", " <2de>", "<pad></s>"]
)
@pytest.mark.parametrize("has_unknown", [True, False])
def test_a_special_token_in_a_text_is_text(kind: str, text: str, has_unknown: bool) -> None:
    special = [token for token in SPECIAL if has_unknown or token != "<unk>"]
    tokenizer = tokenizers.build(ALL_SECTIONS[kind], SENTENCES, special)
    if kind == "bytes":
        assert tokenizer.decode(tokenizer.encode(text)) == text.strip()
    elif has_unknown:
        numbers = tokenizer.encode(text)
        assert UNKNOWN in numbers  # for < and >
        assert not set(numbers) & {number for token, number in tokenizer.special.items() if token != "<unk>"}
        assert tokenizer.num_tokens([text]) == [len(numbers)]
    else:
        with pytest.raises(UserError, match=r"outside the tokenizer's alphabet: .*<"):
            tokenizer.encode(text)


@all_kinds
def test_special_tokens_in_training_texts_are_text(kind: str) -> None:
    texts = [*SENTENCES, "a </s> b", "the <unk> <2de> word", "<pad>"]
    tokenizer = tokenizers.build(ALL_SECTIONS[kind].model_copy(update={"size": 50}), texts, SPECIAL)
    assert tokenizer.tokens[: len(SPECIAL)] == list(SPECIAL)
    assert set(tokenizer.encode("a </s> b <pad>")) <= {UNKNOWN, *range(len(SPECIAL), len(tokenizer))}
    if kind in ("bytes", "bpe", "unigram"):
        assert tokenizer.decode(tokenizer.encode("a </s> b")) == "a </s> b"


def test_no_text_becomes_a_special_token() -> None:
    """Even where it could be one piece."""
    tokenizer = tokenizers.build(UnigramSection(kind="unigram", size=40), SENTENCES, ["<unk>", "cab"])
    assert tokenizer.special["cab"] not in tokenizer.encode("a cab")
    assert tokenizer.decode(tokenizer.encode("a cab")) == "a cab"


@all_kinds
def test_a_saved_tokenizer_keeps_its_special_tokens(kind: str, tmp_path: Path) -> None:
    saved = WITH_SPECIAL[kind]
    saved.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.tokens, loaded.pieces, loaded.special) == (saved.tokens, saved.pieces, saved.special)
    assert loaded.unknown == UNKNOWN
    for text in (*SENTENCES, "a </s> b", "zoo"):
        assert loaded.encode(text) == saved.encode(text)
    assert loaded.to_json() == saved.to_json()


@all_kinds
def test_unwritable_text_is_the_unknown_token(kind: str) -> None:
    tokenizer = WITH_SPECIAL[kind]
    numbers = tokenizer.encode("a zoo bad")
    if kind == "bytes":
        assert UNKNOWN not in numbers
        return
    count = {"characters": 3, "words": 1, "bpe": 3, "unigram": 1}[kind]  # unigram joins neighbors
    assert numbers.count(UNKNOWN) == count
    assert " ".join(tokenizer.decode(numbers).split()) == "a bad"
    assert tokenizer.num_tokens(["a zoo bad"]) == [len(numbers)]
    assert tokenizer.unknown_characters("a zoo bad") == (["zoo"] if kind == "words" else ["z", "o"])


@all_kinds
@given(texts=st.lists(st.text("abcxyz 日,<>/s", max_size=12), max_size=4))
@settings(deadline=None)
def test_num_tokens_is_the_encoded_length(kind: str, texts: list[str]) -> None:
    tokenizer = WITH_SPECIAL[kind]
    assert tokenizer.num_tokens(texts) == [len(tokenizer.encode(text)) for text in texts]


# --- Words and punctuation ---

PUNCTUATED = st.lists(st.text(ALPHABET + ".,;!", min_size=1, max_size=8), max_size=6).map(" ".join)


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe", "unigram"])
@given(text=PUNCTUATED)
@settings(deadline=None)
def test_punctuation_and_special_tokens_round_trip(kind: str, text: str) -> None:
    tokenizer = WITH_SPECIAL[kind]
    numbers = tokenizer.encode(text)
    assert not set(numbers) & set(range(len(SPECIAL)))
    assert tokenizer.decode(numbers) == text


@learnt_kinds
def test_punctuation_stands_apart_from_words(kind: str) -> None:
    texts = ["street. street, street! (street) street; a street", "street. street. street,"] * 3
    tokenizer = tokenizers.build({"bpe": BPESection, "unigram": UnigramSection}[kind](kind=kind, size=60), texts)
    for token in tokenizer.tokens:
        assert token.isalpha() or token.strip("\u2581") in ("", *".,!();") or token.strip("\u2581").isalpha(), token
    alone = tokenizer.encode("street")
    for mark in ".,!;":
        assert tokenizer.encode(f"street{mark}")[: len(alone)] == alone
        assert len(tokenizer.encode(f"street{mark}")) == len(alone) + 1
    assert tokenizer.chunks("(a street).") == ["\u2581", "(", "a", "\u2581street", ")", "."]


def test_words_are_those_of_the_texts_in_order() -> None:
    texts = ["AH0 B  AE1", "B\tK", "", "'m <b> 日本"]
    tokenizer = tokenizers.build(WordsSection(kind="words"), texts)
    assert tokenizer.tokens == ["'m", "<b>", "AE1", "AH0", "B", "K", "日本"]
    assert tokenizer.pieces == [f" {word}".encode() for word in tokenizer.tokens]
    assert tokenizer.encode(" K  'm\tB ") == [5, 0, 4]
    assert tokenizer.decode([5, 0, 4]) == "K 'm B"
    assert tokenizer.chunks("K 'm B") == ["K", "'m", "B"]
    assert tokenizer.unknown_characters("K X B Y X") == ["X", "Y"]
    with pytest.raises(UserError, match="outside the tokenizer's alphabet: 'X' 'Y'"):
        tokenizer.encode("K X B Y X")


@given(st.lists(st.sampled_from([word for text in SENTENCES for word in text.split()])).map(" ".join))
@settings(deadline=None)
def test_words_give_the_encoded_text_back(text: str) -> None:
    tokenizer = WITH_SPECIAL["words"]
    numbers = tokenizer.encode(text)
    assert len(numbers) == len(text.split())
    assert tokenizer.decode(numbers) == text


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(path)


# --- Byte-level BPE and batches ---

LOSSLESS = {
    **{kind: TOKENIZERS[kind] for kind in ("characters", "bytes")},
    "words": tokenizers.build(WordsSection(kind="words"), TEXTS),
    "byte_bpe": tokenizers.build(ByteBPESection(kind="byte_bpe", size=300), TEXTS * 2, ["<|endoftext|>"]),
}


@given(st.one_of(st.text(), st.text(st.sampled_from(list(" \n\t\r\0ab'sé日🙂\u200d\u00a0<|endoftext|>")))))
@settings(deadline=None)
def test_byte_bpe_writes_every_text_exactly(text: str) -> None:
    tokenizer = LOSSLESS["byte_bpe"]
    numbers = tokenizer.encode(text)
    assert tokenizer.decode_exactly(numbers) == text
    assert tokenizer.decode(numbers) == text.strip(" ")
    assert 0 not in numbers
    [in_batch] = tokenizer.encode_batch([text])
    assert in_batch.tolist() == numbers


@pytest.mark.parametrize("kind", LOSSLESS)
@given(draw=st.data())
@settings(deadline=None)
def test_batches_are_encoded_as_single_texts_are(kind: str, draw: st.DataObject) -> None:
    tokenizer = LOSSLESS[kind]
    pieces = st.sampled_from(" ".join(TEXTS).split()) if kind == "words" else st.text(ALPHABET)
    texts = draw.draw(st.lists(st.lists(pieces).map(" ".join)))
    found = tokenizer.encode_batch(texts)
    assert [each.tolist() for each in found] == [tokenizer.encode(text) for text in texts]
    if kind != "words":
        assert [tokenizer.decode_exactly(each.tolist()) for each in found] == texts


@pytest.mark.parametrize(("kind", "strange"), [("characters", "a zo"), ("words", "bad zoo")])
def test_batches_with_unknown_characters_are_refused(kind: str, strange: str) -> None:
    with pytest.raises(UserError, match="outside the tokenizer's alphabet: 'z"):
        LOSSLESS[kind].encode_batch(["bad", strange])


def test_batches_may_have_the_unknown_token() -> None:
    tokenizer = tokenizers.build(CharactersSection(kind="characters", alphabet="ab"), [], [tokenizers.UNKNOWN])
    assert [each.tolist() for each in tokenizer.encode_batch(["abc\U0010ffffb", ""])] == [[1, 2, 0, 0, 2], []]
    assert tokenizer.encode("abc\U0010ffffb") == [1, 2, 0, 0, 2]


def test_byte_bpe_is_gpt2s() -> None:
    tokenizer = LOSSLESS["byte_bpe"]
    assert tokenizer.special == {"<|endoftext|>": 0}
    assert sorted(tokenizer.pieces[1:257]) == [bytes([byte]) for byte in range(256)]
    assert tokenizer.chunks("it's  a dab\n\nof 12 cabs!") == [
        *("it", "'s", "Ġ", "Ġa", "Ġdab", "Ċ", "Ċ", "of", "Ġ12", "Ġcabs", "!"),
    ]


def test_byte_bpe_is_learned_deterministically_from_a_stream() -> None:
    texts = [f"{number} is the cube root of {number**3}\n" for number in range(3000)]
    section = ByteBPESection(kind="byte_bpe", size=600)
    found = {tokenizers.build(section, iter(each)).to_json() for each in (texts, texts, texts[::-1])}
    assert len(found) == 1


def test_byte_bpe_has_as_many_tokens_as_asked_for() -> None:
    texts = [f"{number} is the cube root of {number**3}\n" for number in range(3000)]
    assert len(tokenizers.build(ByteBPESection(kind="byte_bpe", size=600), texts, ["<|endoftext|>"])) == 600
    resolved = tokenizers.resolved(ByteBPESection(kind="byte_bpe", size="auto"), ["a" * 500, "b" * 500], 1)
    assert resolved.size == 1 + 256 + 500
    with pytest.raises(UserError, match=r"tokenizer\.size: 256 is less than the 256 bytes and 1 special token"):
        tokenizers.build(ByteBPESection(kind="byte_bpe", size=256), texts, ["<|endoftext|>"])
