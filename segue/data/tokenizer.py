"""How does text become numbers? Characters, bytes, BPE and unigram pieces behind one face.

Every kind is kept as one `tokenizer.json` of Hugging Face's `tokenizers`, which Python, Rust and JavaScript read.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tokenizers as hf
from pydantic import Field
from tokenizers import decoders, models, pre_tokenizers, trainers

from segue.errors import UserError
from segue.recipe import Section

WORD_MARK = "\u2581"  # sentencepiece's sign for a space before a piece


class CharactersSection(Section):
    """One token a character."""

    kind: Literal["characters"]
    """Characters."""
    alphabet: str = " abcdefghijklmnopqrstuvwxyz'"
    """Every character that a text may hold, in the order of the outputs."""


class BytesSection(Section):
    """One token a byte of UTF-8: 256 tokens, any language."""

    kind: Literal["bytes"]
    """Bytes."""


class BPESection(Section):
    """Byte-pair encoding, learnt from the training texts (Sennrich et al. 2016, arXiv:1508.07909)."""

    kind: Literal["bpe"]
    """Byte-pair encoding."""
    size: Annotated[int, Field(gt=1)]
    """Number of tokens to learn at the most."""


class UnigramSection(Section):
    """Unigram pieces, learnt from the training texts (Kudo 2018, arXiv:1804.10959)."""

    kind: Literal["unigram"]
    """Unigram language model."""
    size: Annotated[int, Field(gt=1)]
    """Number of tokens to learn at the most."""


TokenizerSection = Annotated[
    CharactersSection | BytesSection | BPESection | UnigramSection, Field(discriminator="kind")
]


class Tokenizer:
    """Text to token numbers and back."""

    def __init__(self, inner: hf.Tokenizer) -> None:
        self._inner = inner
        vocabulary = inner.get_vocab()
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise UserError("tokenizer: its token numbers have gaps")
        self.tokens: list[str] = sorted(vocabulary, key=vocabulary.__getitem__)
        """Token by number, as the file writes it."""
        self.pieces: list[bytes] = self._pieces()
        """The text that each token stands for, in UTF-8: joined in order they give the text."""

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Token numbers of `text`; a UserError names what no token can write."""
        strange = self.unknown_characters(text)
        if strange:
            raise UserError(f"outside the tokenizer's alphabet: {' '.join(map(repr, strange))}")
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of token numbers."""
        return b"".join(self.pieces[n] for n in numbers).decode("utf-8", errors="replace").strip(" ")

    def unknown_characters(self, text: str) -> list[str]:
        """The characters of `text` that no token can write, each once, in order."""
        if isinstance(self._inner.pre_tokenizer, pre_tokenizers.ByteLevel):
            return []
        return [c for c in dict.fromkeys(text) if c not in self._alphabet and c != " "] + (
            [" "] if " " in text and " " not in self._alphabet and WORD_MARK not in self._alphabet else []
        )

    def save(self, path: Path) -> None:
        """Writes `tokenizer.json`."""
        self._inner.save(str(path))

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Reads `tokenizer.json`."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; a model directory holds one")
        try:
            inner = hf.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise UserError(f"{path}: not a tokenizer: {error}") from None
        return Tokenizer(inner)

    def _pieces(self) -> list[bytes]:
        self._alphabet = {character for token in self.tokens for character in token}
        if isinstance(self._inner.pre_tokenizer, pre_tokenizers.ByteLevel):
            byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
            return [bytes(byte_of[c] for c in token) for token in self.tokens]
        return [token.replace(WORD_MARK, " ").encode() for token in self.tokens]


def build(section: TokenizerSection, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that a recipe describes; the kinds that learn do so from `texts`, the same way each time."""
    match section:
        case CharactersSection():
            if len(set(section.alphabet)) != len(section.alphabet):
                raise UserError("tokenizer.alphabet: a character stands in it twice")
            inner = hf.Tokenizer(models.WordLevel({c: n for n, c in enumerate(section.alphabet)}))
            inner.pre_tokenizer = pre_tokenizers.Split(hf.Regex(r"[\s\S]"), behavior="isolated")
            inner.decoder = decoders.Fuse()
        case BytesSection():
            inner = hf.Tokenizer(models.BPE({c: n for n, c in enumerate(_byte_characters())}, []))
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            inner.decoder = decoders.ByteLevel()
        case BPESection() | UnigramSection():
            inner = _train(section, list(texts))
    return Tokenizer(inner)


def _train(section: BPESection | UnigramSection, texts: Sequence[str]) -> hf.Tokenizer:
    alphabet = sorted({c for text in texts for c in text if c != " "})
    if section.size < len(alphabet) + 2:
        raise UserError(f"tokenizer.size: {section.size} is less than the {len(alphabet)} characters of the texts")
    trainer: trainers.Trainer
    if isinstance(section, BPESection):
        inner = hf.Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(vocab_size=section.size, initial_alphabet=alphabet, show_progress=False)
    else:
        inner = hf.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=section.size, initial_alphabet=alphabet, show_progress=False)
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_MARK, prepend_scheme="always")
    inner.decoder = decoders.Metaspace(replacement=WORD_MARK, prepend_scheme="always")
    inner.train_from_iterator(texts, trainer)
    if isinstance(section, UnigramSection):
        inner.model = models.Unigram(_settled(json.loads(inner.to_str())["model"]["vocab"]), None, False)
    return inner


def _settled(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Unigram pieces with what the trainer leaves to chance taken out: last bits of scores, and the order of equals.

    Characters that it could do without get the lowest score, plus 0.0001 for each that it happened to see before.
    """
    spare = min(score for _, score in pieces) + 1e-4 * len(pieces)
    lowest = round(min(score for _, score in pieces), 6)
    settled = [(piece, lowest if len(piece) == 1 and score < spare else round(score, 6)) for piece, score in pieces]
    return sorted(settled, key=lambda each: (-each[1], each[0]))


def _byte_characters() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
