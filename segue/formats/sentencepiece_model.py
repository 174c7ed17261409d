"""How is a tokenizer of SentencePiece read? Its file, a message of protobuf, becomes a unigram tokenizer of Segue.

The fields are those of sentencepiece_model.proto (github.com/google/sentencepiece). The numbers of the tokens are given
from outside: a model of Marian has its own. Pieces without a number cannot be tokens, and the text is cut otherwise
where SentencePiece would use them; tokens that are no pieces are used only for characters that no piece covers.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers

from segue.data.tokenizer import SPECIAL_SCORE, UNKNOWN, WORD_MARK, Tokenizer
from segue.errors import UserError

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types
_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6  # types of pieces; the others are unknown, control and unused
_UNIGRAM = 1
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


class PieceModel(NamedTuple):
    """What is in a file of SentencePiece."""

    scores: dict[str, float]
    """Log-probabilities of the pieces."""
    characters: bytes
    """The compiled table of the text normalization; empty if there is none."""


def read(path: Path) -> PieceModel:
    """The model in a file. Raises a UserError if it cannot be read, or is of a kind that Segue's tokenizers are not."""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror or problem}") from None
    try:
        return _parsed(content, path)
    except (ValueError, IndexError, struct.error) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{path}: not a model of SentencePiece, or cut off: download it again") from None


def _parsed(content: bytes, path: Path) -> PieceModel:
    scores: dict[str, float] = {}
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if not isinstance(value, bytes):
            continue
        if number == 1:  # pieces: 1 piece, 2 score, 3 type
            piece = dict(_fields(value))
            kind, name, score = piece.get(3, _NORMAL), piece.get(1, b""), piece.get(2, b"\0\0\0\0")
            if not isinstance(name, bytes) or not isinstance(score, bytes):
                raise ValueError
            if kind in (_USER_DEFINED, _BYTE):
                raise UserError(f"{path}: the piece {name.decode()!r} is user-defined or a byte: cannot be imported")
            if kind == _NORMAL:
                (scores[name.decode()],) = struct.unpack("<f", score)
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    if not scores:
        raise ValueError
    kind = trainer.get(3, _UNIGRAM)
    if kind != _UNIGRAM:
        raise UserError(f"{path}: model_type {_KINDS.get(int(kind), kind)} cannot be imported, only unigram")
    # trainer_spec.treat_whitespace_as_suffix; normalizer_spec.add_dummy_prefix, remove_extra_whitespaces,
    # escape_whitespaces
    if trainer.get(24, 0) or not all(normalizer.get(field, 1) for field in (3, 4, 5)):
        raise UserError(f"{path}: it treats spaces in another way than Segue's tokenizers: cannot be imported")
    characters = normalizer.get(2, b"")
    if not isinstance(characters, bytes):
        raise ValueError
    return PieceModel(scores, characters)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of a message's fields. Raises a ValueError or an IndexError if it is none."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError

    while place < len(content):
        number, wire = divmod(varint(), 8)
        if wire == _VARINT:
            yield number, varint()
            continue
        size = {_EIGHT: 8, _FOUR: 4}.get(wire, -1)
        if wire == _BYTES:
            size = varint()
        if size < 0 or place + size > len(content):
            raise ValueError
        yield number, content[place : place + size]
        place += size


def tokenizer(found: PieceModel, tokens: Sequence[str], special: Sequence[str]) -> Tokenizer:
    """The tokenizer with these tokens, in the order of their numbers; `special`, with UNKNOWN, are among them."""
    scores: Mapping[str, float] = {piece: score for piece, score in found.scores.items() if piece not in special}
    inner = hf.Tokenizer(
        models.Unigram([(each, scores.get(each, SPECIAL_SCORE)) for each in tokens], tokens.index(UNKNOWN), False)
    )
    if found.characters:
        # The table can bring in spaces, which SentencePiece removes.
        inner.normalizer = normalizers.Sequence(
            [
                normalizers.Precompiled(found.characters),
                normalizers.Replace(hf.Regex(" {2,}"), " "),
                normalizers.Strip(),
            ]
        )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_MARK, prepend_scheme="always")
    inner.decoder = decoders.Metaspace(replacement=WORD_MARK, prepend_scheme="always")
    inner.add_special_tokens(list(special))
    return Tokenizer(inner)
