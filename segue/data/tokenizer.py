"""How is text tokenized? Characters, words, bytes, BPE, unigram pieces and byte-level BPE with one interface.

All kinds are stored as a `tokenizer.json` of Hugging Face's `tokenizers`, which can be read from Python, Rust and
JavaScript.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tokenizers as hf
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import decoders, models, pre_tokenizers, trainers

from segue.data import automatic
from segue.errors import UserError, count_of
from segue.progress import Bar
from segue.recipe import AUTO, Section

WORD_MARK = "\u2581"  # sentencepiece's sign for a space before a piece
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {_SPLIT.format(r"\p{N}{1,3}"): "llama3", _SPLIT.format(r"\p{N}"): "qwen2"}
"""How byte-level tokenizers other than GPT-2's split a text before merging: the patterns that are known, and whose they
are. None of them changes a text, and none joins what `document_files.cuts` divides."""
UNKNOWN = "<unk>"
"""The special token, if a tokenizer has one, for text that no other token covers."""
SPECIAL_SCORE = -1e6
NUM_BYTES = 256

Size = Annotated[int, Field(gt=1)] | Literal["auto"]


class CharactersSection(Section):
    """One token per character."""

    kind: Literal["characters"]
    """Characters."""
    alphabet: str = " abcdefghijklmnopqrstuvwxyz'"
    """All characters that a text may contain, in the order of the outputs. "auto" takes those of the training texts and
    writes them into the run's recipe."""


class WordsSection(Section):
    """One token per space-separated word of the training texts: for phonemes and other small vocabularies."""

    kind: Literal["words"]
    """Words."""


class BytesSection(Section):
    """One token per byte of UTF-8: 256 tokens, any language."""

    kind: Literal["bytes"]
    """Bytes."""


class BPESection(Section):
    """Byte-pair encoding, learned from the training texts (Sennrich et al. 2016, arXiv:1508.07909)."""

    kind: Literal["bpe"]
    """Byte-pair encoding."""
    size: Size
    """Maximum number of tokens. "auto" is the number of distinct characters in the training texts plus 50 times the
    cube root of their total length, at most 32,000; the result is written into the run's recipe."""


class UnigramSection(Section):
    """Unigram pieces, learned from the training texts (Kudo 2018, arXiv:1804.10959)."""

    kind: Literal["unigram"]
    """Unigram language model."""
    size: Size
    """Maximum number of tokens. "auto" is the number of distinct characters in the training texts plus 50 times the
    cube root of their total length, at most 32,000; the result is written into the run's recipe."""


TokenizerSection = Annotated[
    CharactersSection | WordsSection | BytesSection | BPESection | UnigramSection, Field(discriminator="kind")
]


class ByteBPESection(Section):
    """Byte-pair encoding of bytes, as in GPT-2: writes every text without loss, including spaces and line ends."""

    kind: Literal["byte_bpe"]
    """Byte-pair encoding of bytes."""
    size: Size
    """Maximum number of tokens, 256 of which are the bytes. "auto" is 256 plus 50 times the cube root of the number of
    characters in the training texts, at most 32,256; the result is written into the run's recipe."""


# Not among the others: exports of translation and of speech look for the mark of a word's start in the tokens.
LosslessSection = Annotated[
    CharactersSection | WordsSection | BytesSection | ByteBPESection, Field(discriminator="kind")
]
"""Tokenizers of language models, which change nothing in a text; that of words changes only white space."""


def resolved(section: Section, texts: Iterable[str], num_special: int = 0) -> Any:
    """The section with "auto" resolved from these training texts; `num_special` is the number of special tokens.

    An alphabet always includes the space, since utterances may be joined.
    """
    if isinstance(section, CharactersSection) and section.alphabet == AUTO:
        return section.model_copy(update={"alphabet": alphabet_of(texts)})
    if isinstance(section, BPESection | UnigramSection) and section.size == AUTO:
        characters, length = set[str](), 0
        for text in texts:
            characters.update(text)
            length += len(text)
        size = num_special + len(characters | {WORD_MARK}) + automatic.num_merges(length)
        return section.model_copy(update={"size": size})
    if isinstance(section, ByteBPESection) and section.size == AUTO:
        size = num_special + NUM_BYTES + automatic.num_merges(sum(map(len, texts)))
        return section.model_copy(update={"size": size})
    return section


def alphabet_of(texts: Iterable[str]) -> str:
    """The characters of the texts and the space, sorted."""
    return "".join(sorted({" "}.union(*texts)))


class Tokenizer:
    """Text to token numbers and back. Special tokens have no text, so no text can be encoded to them."""

    def __init__(self, inner: hf.Tokenizer) -> None:
        inner.encode_special_tokens = True  # "</s>" in a text is ordinary text
        self._inner = inner
        self._is_of_words = isinstance(inner.pre_tokenizer, pre_tokenizers.WhitespaceSplit)
        self.split = _split_of(inner)
        """How a byte-level tokenizer splits texts: "gpt2", not at all (""), or a name in `SPLITS`; None: of others."""
        vocabulary = inner.get_vocab()
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise UserError("tokenizer: its token numbers have gaps")
        self.tokens: list[str] = sorted(vocabulary, key=vocabulary.__getitem__)
        """Tokens by number, as written in the file."""
        self.special: dict[str, int] = {
            added.content: number for number, added in inner.get_added_tokens_decoder().items() if added.special
        }
        """Special tokens and their numbers."""
        self.unknown: int | None = self.special.get(UNKNOWN)
        """Number of the token for text that no other token covers, if there is one."""
        self.pieces: list[bytes] = self._pieces()
        """The text of each token, in UTF-8: concatenated they give the text."""
        self._table = self._number_of_unit()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def _is_of_bytes(self) -> bool:
        return self.split is not None

    def encode(self, text: str) -> list[int]:
        """Token numbers of `text`. Raises a UserError as `check` does."""
        self.check(text)
        numbers: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        if self.unknown is not None and self._is_of_words:  # a word may look like a special token
            numbers = [self.unknown if self.tokens[number] in self.special else number for number in numbers]
        return numbers

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token numbers of each text, as `encode` gives them, on all cores. Raises a UserError as `check` does.

        For BPE, it needs about 20 times the memory of the texts while it runs: a few megabytes of text are enough.
        """
        if self._table is not None:
            return [self._looked_up(text) for text in texts]
        if self._is_of_words or not self._is_of_bytes:
            return [np.array(self.encode(text), np.int32) for text in texts]
        found = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in found]

    def check(self, text: str) -> None:
        """Raises a UserError if there is no unknown token and `text` has characters or words that no token covers."""
        strange = self.unknown_characters(text) if self.unknown is None else []
        if strange:
            raise UserError(f"outside the tokenizer's alphabet: {' '.join(map(repr, strange))}")

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text."""
        return [len(each.ids) for each in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of token numbers, without spaces at its ends."""
        return self.decode_exactly(numbers).strip(" ")

    def decode_exactly(self, numbers: Iterable[int]) -> str:
        """The text of token numbers, with spaces at its ends; each word of a tokenizer of words begins with a space."""
        return b"".join(self.pieces[n] for n in numbers).decode("utf-8", errors="replace")

    def chunks(self, text: str) -> list[str]:
        """The parts of `text` that are tokenized independently of each other."""
        return [chunk for chunk, _ in self._inner.pre_tokenizer.pre_tokenize_str(self._normalized(text))]

    def unknown_characters(self, text: str) -> list[str]:
        """The characters of `text` (words, for a word tokenizer) that no token covers, each once, in order."""
        if self._is_of_bytes:
            return []
        text = self._normalized(text)
        if self._is_of_words:
            known = self._inner.token_to_id
            return [word for word in dict.fromkeys(text.split()) if known(word) is None or word in self.special]
        return [c for c in dict.fromkeys(text) if c not in self._alphabet and c != " "] + (
            [" "] if " " in text and " " not in self._alphabet and WORD_MARK not in self._alphabet else []
        )

    def spelled(self, piece: bytes) -> tuple[int, ...]:
        """The tokens that spell a piece of text, including spaces; empty if it cannot be spelled."""
        try:
            text = piece.decode()
        except UnicodeDecodeError:  # a part of a character
            text = ""
        kind, find = self._inner.pre_tokenizer, self._inner.token_to_id
        if self._is_of_bytes:
            written = "".join(_byte_characters()[byte] for byte in piece)
            numbers = [token.id for token in self._inner.model.tokenize(written)]
        elif self._is_of_words:
            numbers = [find(text.strip(" "))]
        elif isinstance(kind, pre_tokenizers.Split):
            numbers = [find(character) for character in text]
        else:
            numbers = [token.id for token in self._inner.model.tokenize(text.replace(" ", WORD_MARK))]
        is_exact = None not in numbers and b"".join(self.pieces[number] for number in numbers) == piece
        return tuple(numbers) if is_exact and piece else ()

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        text: str = self._inner.to_str()
        return text

    def save(self, path: Path) -> None:
        """Writes `tokenizer.json`."""
        self._inner.save(str(path))

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Reads `tokenizer.json`. Raises a UserError if it is missing or not a tokenizer of Segue."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; a model directory holds one")
        try:
            inner = hf.Tokenizer.from_file(str(path))
            if inner.pre_tokenizer is None:
                raise UserError("it has no pre_tokenizer")
            return Tokenizer(inner)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the package raises nothing narrower, and panics are not Exceptions
            raise UserError(f"{path}: not a tokenizer that Segue wrote: {error}") from None

    def _normalized(self, text: str) -> str:
        """The text as the tokenizer itself normalizes it: those of imported models do, as their models were trained."""
        normalizer = self._inner.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _number_of_unit(self) -> NDArray[np.int32] | None:
        """If each token is one byte, or each is one character: its number, at the place of its code; else None.

        A table is a hundred times as quick as the package, which makes a token of each unit in four steps.
        """
        kind, texts = self._inner.pre_tokenizer, ["" if each in self.special else each for each in self.tokens]
        if any(len(text) > 1 for text in texts):
            return None
        if self._is_of_bytes:
            codes = [piece[0] if piece else -1 for piece in self.pieces]
        elif isinstance(kind, pre_tokenizers.Split) and self._inner.normalizer is None:
            codes = [ord(text) if text else -1 for text in texts]
        else:
            return None
        unknown = -1 if self.unknown is None else self.unknown
        table = np.full(max(codes, default=-1) + 2, unknown, np.int32)  # the last place is for all larger codes
        for number, code in enumerate(codes):
            if code >= 0:
                table[code] = number
        return table

    def _looked_up(self, text: str) -> NDArray[np.int32]:
        assert self._table is not None
        if self._is_of_bytes:
            return self._table[np.frombuffer(text.encode(), np.uint8)]
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        numbers = self._table[np.minimum(codes, len(self._table) - 1)]
        if len(numbers) and numbers.min() < 0:
            self.check(text)
            raise UserError("outside the tokenizer's alphabet: ' '")  # which `check` takes for the mark of words
        return numbers

    def _pieces(self) -> list[bytes]:
        texts = ["" if token in self.special else token for token in self.tokens]
        self._alphabet = {character for text in texts for character in text}
        if self._is_of_bytes:
            byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
            # Those that an imported tokenizer finds in texts before it splits them are written as they are.
            added = {each.content for each in self._inner.get_added_tokens_decoder().values()}
            return [text.encode() if text in added else bytes(byte_of[c] for c in text) for text in texts]
        if self._is_of_words:
            return [f" {text}".encode() if text else b"" for text in texts]
        return [text.replace(WORD_MARK, " ").encode() for text in texts]


def _split_of(inner: hf.Tokenizer) -> str | None:
    found = inner.pre_tokenizer
    if isinstance(found, pre_tokenizers.Sequence):  # Split, then ByteLevel without a split of its own
        steps = json.loads(inner.to_str())["pre_tokenizer"]["pretokenizers"]
        if [each["type"] for each in steps] != ["Split", "ByteLevel"]:
            return None
        pattern, byte_level = steps[0]["pattern"].get("Regex"), steps[1]
        is_plain = (steps[0]["behavior"], steps[0]["invert"]) == ("Isolated", False)
        is_known = is_plain and pattern in SPLITS and not byte_level["use_regex"] and not byte_level["add_prefix_space"]
        return SPLITS[pattern] if is_known else None
    if not isinstance(found, pre_tokenizers.ByteLevel):
        return None
    return "gpt2" if found.use_regex else ""


def origins(new: Tokenizer, old: Tokenizer) -> list[tuple[int, ...]]:
    """For each token of `new`: the equal token of `old`, or those that spell it, or none."""
    same = {piece: number for number, piece in enumerate(old.pieces) if piece}
    special = {number: token for token, number in new.special.items()}

    def origin(number: int, piece: bytes) -> tuple[int, ...]:
        if number in special:
            return (old.special[special[number]],) if special[number] in old.special else ()
        return (same[piece],) if piece in same else old.spelled(piece)

    return [origin(*each) for each in enumerate(new.pieces)]


def build(section: TokenizerSection | ByteBPESection, texts: Iterable[str], special: Sequence[str] = ()) -> Tokenizer:
    """Builds the tokenizer of a recipe; BPE, unigram and words are learned from `texts`, deterministically.

    Byte-level BPE reads `texts` as a stream, of which it keeps only the different words; of more than 1 GB, a sample
    should be given (`documents.Corpus.sample`), since the package counts pairs in 32 bits. `special` tokens get the
    first numbers. With `UNKNOWN` among them, any text can be encoded.
    """
    unknown = UNKNOWN if UNKNOWN in special else None
    first = {token: number for number, token in enumerate(special)}
    match section:
        case CharactersSection():
            assert section.alphabet != AUTO
            if len(set(section.alphabet)) != len(section.alphabet):
                raise UserError("tokenizer.alphabet: a character appears twice")
            inner = hf.Tokenizer(_word_level([*special, *section.alphabet], unknown))
            inner.pre_tokenizer = pre_tokenizers.Split(hf.Regex(r"[\s\S]"), behavior="isolated")
            inner.decoder = decoders.Fuse()
        case WordsSection():
            words = sorted({word for text in texts for word in text.split()} - set(special))
            inner = hf.Tokenizer(_word_level([*special, *words], unknown))
            inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        case BytesSection():
            inner = hf.Tokenizer(
                models.BPE({**first, **{c: n for n, c in enumerate(_byte_characters(), len(special))}}, [])
            )
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            inner.decoder = decoders.ByteLevel()
        case BPESection() | UnigramSection():
            with Bar("learns the tokenizer"):
                inner = _train(section, list(texts), special, unknown)
        case ByteBPESection():
            with Bar("learns the tokenizer"):
                inner = _train_on_bytes(section, texts, special)
    inner.add_special_tokens(list(special))
    return Tokenizer(inner)


def _word_level(words: Sequence[str], unknown: str | None) -> models.WordLevel:
    vocabulary = {word: number for number, word in enumerate(words)}
    return models.WordLevel(vocabulary) if unknown is None else models.WordLevel(vocabulary, unk_token=unknown)


def _train(
    section: BPESection | UnigramSection, texts: Sequence[str], special: Sequence[str], unknown: str | None
) -> hf.Tokenizer:
    alphabet = sorted({c for text in texts for c in text if c != " "})
    assert isinstance(section.size, int)
    if section.size < len(alphabet) + 2 + len(special):
        raise UserError(
            f"tokenizer.size: {section.size} is less than the {count_of(len(alphabet), 'character')} of the texts"
        )
    options: dict[str, Any] = {
        "vocab_size": section.size,
        "initial_alphabet": alphabet,
        "special_tokens": list(special),
        "show_progress": False,
    }
    trainer: trainers.Trainer
    if isinstance(section, BPESection):
        inner = hf.Tokenizer(models.BPE(unk_token=unknown))
        trainer = trainers.BpeTrainer(**options)
    else:
        inner = hf.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(**options, unk_token=unknown)
    # Punctuation is split from words, as in sentencepiece; else "street." and "street," would be separate pieces.
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=WORD_MARK, prepend_scheme="always"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    inner.decoder = decoders.Metaspace(replacement=WORD_MARK, prepend_scheme="always")
    inner.train_from_iterator(texts, trainer)
    if isinstance(section, UnigramSection):
        vocabulary = json.loads(inner.to_str())["model"]["vocab"]
        learned = _settled([each for each in vocabulary if each[0] not in special])
        # A score so low that no text is ever segmented into them.
        reserved = [(token, SPECIAL_SCORE) for token in special]
        unknown_number = None if unknown is None else list(special).index(unknown)
        inner.model = models.Unigram([*reserved, *learned], unknown_number, False)
    return inner


def _train_on_bytes(section: ByteBPESection, texts: Iterable[str], special: Sequence[str]) -> hf.Tokenizer:
    assert isinstance(section.size, int)
    if section.size < NUM_BYTES + len(special):
        raise UserError(
            f"tokenizer.size: {section.size} is less than the {NUM_BYTES} bytes and "
            f"{count_of(len(special), 'special token')}"
        )
    inner = hf.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=section.size,
        initial_alphabet=_byte_characters(),
        special_tokens=list(special),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return inner


def _settled(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Makes the result of the unigram trainer deterministic: rounds scores, and sorts pieces of equal score.

    The trainer gives dispensable characters the lowest score plus 0.0001 for each one it happened to process before.
    """
    spare = min(score for _, score in pieces) + 1e-4 * len(pieces)
    lowest = round(min(score for _, score in pieces), 6)
    settled = [(piece, lowest if len(piece) == 1 and score < spare else round(score, 6)) for piece, score in pieces]
    return sorted(settled, key=lambda each: (-each[1], each[0]))


def _byte_characters() -> list[str]:
    """The printable character that represents each byte in byte-level tokenizers (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
