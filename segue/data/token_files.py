"""How are tokenized documents stored? In Megatron's layout, which is opened by memory map and never read as a whole.

NAME.bin holds the tokens of all documents, one after another, each document with one end token behind it: uint16 for
vocabularies below 65,500, else int32. NAME.idx says where documents begin (Megatron-LM, core/datasets/
indexed_dataset.py): `MMIDIDX`, two zeros, version 1 (uint64), type (uint8), number of sequences and of boundaries of
documents (uint64); lengths (int32) and first bytes (int64) of the sequences; first sequences of the documents (int64)
and the number of all. Here, a sequence is a document. NAME.json has what only we need: checksums and sizes of the
texts.
"""

import json
import os
import struct
from array import array
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError, count_of, warn
from segue.files import PARTIAL
from segue.progress import progress

Tokens = NDArray[np.uint16] | NDArray[np.int32]

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_TYPES: dict[int, Any] = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_SMALL_VOCABULARY = 65_500  # Megatron's, below 2 ** 16
_LONGEST = 2**31 - 1  # a length is int32: a longer document is divided
_LARGEST_FACTS = 10_000  # bytes
_BLOCK = 1 << 22  # tokens that are checked at a time
_BLOCK_DOCUMENTS = 1 << 16  # that are written to the index at a time
_BUFFER_BYTES = 1 << 20


class Facts(NamedTuple):
    """What a token file's .json says about its texts."""

    tokenizer: str
    """Checksum of the tokenizer."""
    texts: str
    """Checksum of the texts."""
    num_documents: int
    num_tokens: int
    """With the end tokens."""
    num_bytes: int
    """Bytes of the texts in UTF-8."""
    num_words: int
    """Words of the texts as Megatron counts them: a text without white space at its ends, divided at each space."""
    num_duplicates: int
    """Documents that were left out because they repeat others."""
    num_skipped: int
    """Documents that could not be read, of both parts."""


class TokenFile:
    """The tokens of a part of a corpus: those of a file, or a range of them. Opened by each process when first used."""

    def __init__(self, index: Path, start: int = 0, stop: int | None = None) -> None:
        """Opens NAME.idx; the part begins with token `start` and ends before `stop`.

        Raises a UserError if it is not a token file, or if NAME.bin does not fit to it.
        """
        self.path = index
        self._header = _header(index)
        length = self._header.num_tokens
        self.start, self.stop = start, length if stop is None else stop
        assert 0 <= self.start <= self.stop <= length
        self.facts = facts_of(index) if (self.start, self.stop) == (0, length) else None
        """What is known about the texts; None for tokens of others, and for a range of a file."""

    def __len__(self) -> int:
        return self.stop - self.start

    def __getstate__(self) -> dict[str, Any]:
        maps = ("tokens", "document_starts")  # which would be copied
        return {name: value for name, value in self.__dict__.items() if name not in maps}

    @cached_property
    def tokens(self) -> Tokens:
        """The tokens, mapped from the file."""
        whole = np.memmap(self.path.with_suffix(".bin"), self._header.type, "r")
        return np.asarray(whole[self.start : self.stop])  # slices of a memmap itself are slow

    @cached_property
    def document_starts(self) -> NDArray[np.int64]:
        """The place in `tokens` of the first token of each document that begins in this part."""
        starts = _starts(self.path, self._header)
        return starts[(starts >= self.start) & (starts < self.stop)] - self.start

    @property
    def num_tokens(self) -> int:
        """Tokens, with the end tokens."""
        return len(self)

    @property
    def num_documents(self) -> int:
        """Documents that begin in this part."""
        return len(self.document_starts)

    @property
    def num_bytes(self) -> int | None:
        """Bytes of the texts in UTF-8; None for tokens of others."""
        return None if self.facts is None else self.facts.num_bytes

    @property
    def num_words(self) -> int | None:
        """Words of the texts by Megatron's rule (`Facts`); None for tokens of others."""
        return None if self.facts is None else self.facts.num_words

    @cached_property
    def checksum(self) -> str:
        """A hash that changes when a token does; of texts and tokenizer, if there is a NAME.json."""
        if self.facts is not None:
            return sha256(f"{self.path.stem} {self.facts}".encode()).hexdigest()
        found = sha256(str(self._header.type).encode())
        for place in range(0, len(self), _BLOCK):
            found.update(self.tokens[place : place + _BLOCK].tobytes())
        return found.hexdigest()

    def part(self, start: int, stop: int) -> Self:
        """The tokens from `start` to before `stop` of this part."""
        return type(self)(self.path, self.start + start, self.start + stop)

    def check(self, vocabulary: int, end: int, tokenizer: str) -> None:
        """Raises a UserError if tokens are not of this vocabulary, or by NAME.json of another tokenizer; warns if
        documents do not end with the token `end`. `tokenizer` is its checksum. Reads all tokens."""
        if self.facts is not None and self.facts.tokenizer != tokenizer:
            raise UserError(
                f"{self.path}: of another tokenizer than the model's; make them anew from the texts, or give the "
                "tokenizer that made them"
            )
        if self.path.parent.name.startswith(PARTIAL):
            raise UserError(f"{self.path}: not complete: the process that wrote it has stopped; name the texts instead")
        for place in progress(range(0, len(self), _BLOCK), f"checks {self.path.name}"):
            block = self.tokens[place : place + _BLOCK]
            least, most = int(block.min()), int(block.max())
            if least < 0 or most >= vocabulary:
                wrong = least if least < 0 else most
                raise UserError(
                    f"{self.path}: token {wrong} is outside the vocabulary of {vocabulary:,}: these tokens are of "
                    "another tokenizer"
                )
        lasts = np.append(self.document_starts[1:], len(self)) - 1
        if len(lasts) and (num_others := int(np.count_nonzero(self.tokens[lasts] != end))):
            warn(
                f"{self.path}: without the end token ({end}) at the end: {num_others:,} of "
                f"{count_of(len(lasts), 'document')}, so attention does not stop there; "
                "Megatron's preprocess_data.py writes it with --append-eod"
            )


class _Header(NamedTuple):
    """What NAME.idx says."""

    type: np.dtype[Any]
    num_sequences: int
    num_documents: int
    """And one."""
    num_tokens: int


def _starts(index: Path, header: _Header) -> NDArray[np.int64]:
    """The first token of each document, and no other arrays in memory afterwards."""
    places = _HEADER.size + np.cumsum([0, 4, 8]) * header.num_sequences
    lengths = np.fromfile(index, np.int32, header.num_sequences, offset=places[0])
    first_bytes = np.fromfile(index, np.int64, header.num_sequences, offset=places[1])
    first_sequences = np.fromfile(index, np.int64, header.num_documents, offset=places[2])[:-1]
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    if not np.array_equal(starts * header.type.itemsize, first_bytes):
        raise UserError(f"{index}: its sequences do not follow each other without gaps")
    return starts[first_sequences[first_sequences < len(starts)]]


def _header(index: Path) -> _Header:
    """Reads and checks NAME.idx; a UserError says what is wrong with it or with NAME.bin."""
    try:
        size = index.stat().st_size
        with index.open("rb") as file:
            content = file.read(_HEADER.size)
        num_bytes = index.with_suffix(".bin").stat().st_size
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read these tokens: {error.strerror}") from None
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise UserError(f"{index}: not an index of tokens in Megatron's layout: it does not begin with MMIDIDX")
    _, version, code, num_sequences, num_documents = _HEADER.unpack(content)
    if version != _VERSION:
        raise UserError(f"{index}: version {version} of Megatron's layout; only version {_VERSION} is known")
    if code not in _TYPES:
        raise UserError(f"{index}: type {code} of tokens; known: {', '.join(map(str, _TYPES))} (whole numbers)")
    if size < _HEADER.size + 12 * num_sequences + 8 * num_documents:
        sequences = count_of(num_sequences, "sequence")
        raise UserError(f"{index}: cut off: {size:,} bytes are too few for {sequences}; copy it again")
    if not num_sequences:
        raise UserError(f"{index}: no document in it")
    lengths = np.fromfile(index, np.int32, num_sequences, offset=_HEADER.size)
    num_tokens, kind = int(lengths.sum(dtype=np.int64)), np.dtype(_TYPES[code])
    if num_bytes != num_tokens * kind.itemsize:
        wrong = "cut off" if num_bytes < num_tokens * kind.itemsize else "too long"
        raise UserError(
            f"{index.with_suffix('.bin')}: {wrong}: {num_bytes:,} bytes, where {index.name} has {num_tokens:,} tokens "
            f"of {kind.itemsize}; copy both again"
        )
    return _Header(kind, num_sequences, num_documents, num_tokens)


def facts_of(index: Path) -> Facts | None:
    """What NAME.json says; None if it does not exist, or is something else that has this name."""
    path = index.with_suffix(".json")
    try:
        if path.stat().st_size < _LARGEST_FACTS:
            return Facts(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        pass
    return None


class Writer:
    """Writes a token file, in order; without `close` there is no NAME.idx, and without its .json it is not complete."""

    def __init__(self, index: Path, vocabulary: int, end: int) -> None:
        self._path = index
        self._code = 8 if vocabulary < _SMALL_VOCABULARY else 4
        self._type = np.dtype(_TYPES[self._code])
        self._lengths, self._length = array("i"), 0
        self._end = np.array([end], self._type).tobytes()
        # Each flush waits for the thread that tokenizes: one for thousands of documents.
        self._file: IO[bytes] = index.with_suffix(".bin").open("wb", buffering=_BUFFER_BYTES)
        self.num_tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def num_documents(self) -> int:
        """Documents that were written."""
        return len(self._lengths)

    def add(self, tokens: NDArray[np.int32], is_last: bool) -> None:
        """Writes tokens of the document; after the last ones, the end token."""
        self._file.write(tokens.astype(self._type).tobytes())
        self._length += len(tokens)
        if is_last:
            self._file.write(self._end)
            if self._length >= _LONGEST:
                raise UserError(f"{self._path}: a document of more than {_LONGEST:,} tokens, which is too long")
            self._lengths.append(self._length + 1)
            self.num_tokens += self._length + 1
            self._length = 0

    def close(self) -> None:
        """Writes NAME.idx, by blocks of documents."""
        count, done = len(self._lengths), 0
        blocks = range(0, count, _BLOCK_DOCUMENTS)
        sync(self._file)
        with self._path.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, _VERSION, self._code, count, count + 1))
            self._lengths.tofile(file)
            for place in blocks:
                lengths = np.frombuffer(self._lengths[place : place + _BLOCK_DOCUMENTS], np.int32)
                ends = done + np.cumsum(lengths, dtype=np.int64)
                file.write(((ends - lengths) * self._type.itemsize).tobytes())
                done = int(ends[-1])
            for place in blocks:
                file.write(np.arange(place, min(place + _BLOCK_DOCUMENTS, count), dtype=np.int64).tobytes())
            file.write(np.int64(count).tobytes())
            sync(file)


def sync(file: IO[Any]) -> None:
    """Puts a file on the disk, so that the rename after it cannot come first."""
    file.flush()
    os.fsync(file.fileno())
