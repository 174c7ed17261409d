"""How do texts become token files? Once for each corpus and tokenizer, on all cores, as a stream.

Memory grows only with the number of documents: by 11 to 16 bytes each, to leave out those that repeat others, and by
4 for their lengths.
The files are in a folder that is named by checksums of the texts and of the tokenizer, and appears when it is complete.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from segue.data.document_files import Document, cuts
from segue.data.documents import FEW_DOCUMENTS, INDEX, Corpus
from segue.data.manifests import Split
from segue.data.token_files import Facts, TokenFile, Writer, facts_of, sync
from segue.data.tokenizer import Tokenizer
from segue.errors import UserError, count_of, warn
from segue.files import LOCK, PARTIAL, fcntl

# Encodings need 20 times the memory of their text (tokenizers #665), and long texts take longer a character.
_PIECE_CHARACTERS, _BATCH_CHARACTERS = 16_384, 2_000_000


def build(corpus: Corpus, tokenizer: Tokenizer, end: int, folder: Path) -> dict[Split, TokenFile]:
    """The token files of a corpus: those in `data.tokens` if they are of these texts and this tokenizer, else new ones.

    They are written below `folder` if `data.root` may not be written to. Several processes may build the same files at
    once. Raises a UserError for texts and tokens that cannot be used.
    """
    mark = sha256(tokenizer.to_json().encode()).hexdigest()
    found = {split: TokenFile(index) for split, index in corpus.given.items()}
    for file in found.values():
        file.check(len(tokenizer), end, mark)
    if "train" in found and corpus.section.dev == "held_out":
        found["train"], found["dev"] = _with_end_held_out(found["train"], corpus.section.held_out_share)
    if not corpus.paths:
        return found
    texts = corpus.checksum()
    name = sha256(f"{mark} {texts} {end}".encode()).hexdigest()[:12]
    splits: list[Split] = ["train", "dev"] if corpus.is_held_out else list(corpus.paths)

    def is_complete(place: Path) -> bool:
        facts = [facts_of(place / f"{split}{INDEX}") for split in splits]
        return all(each is not None and (each.tokenizer, each.texts) == (mark, texts) for each in facts)

    places = [parent / corpus.section.tokens / name for parent in (Path(corpus.section.root), folder)]
    for place in filter(is_complete, places):
        return found | _opened(place, splits)
    place = places[0] if _may_be_written(places[0].parent) else places[1]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.parent / f"{LOCK}_{name}"):
            if not is_complete(place):  # another process may have made it meanwhile
                _make(place, is_complete, lambda partial: _write(corpus, tokenizer, end, splits, partial, mark, texts))
    except OSError as error:
        raise UserError(
            f"{place}: cannot write these tokens: {error.strerror or error}; data.tokens can be another folder"
        ) from None
    return found | _opened(place, splits)


def _opened(place: Path, splits: Sequence[Split]) -> dict[Split, TokenFile]:
    try:
        return {split: TokenFile(place / f"{split}{INDEX}") for split in splits}
    except UserError as error:
        raise UserError(f"{error}; or delete {place}: then it is made anew from the texts") from None


def _may_be_written(folder: Path) -> bool:
    """Whether the folder is there, or can be made, and may be written to."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Inside, no other process is; the lock ends with its process, however that ends."""
    with path.open("w") as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks: then both work, and one is first
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(place: Path, is_complete: Callable[[Path], bool], write: Callable[[Path], None]) -> None:
    """Makes the folder `place`, which appears when all is written. Without locks, other processes may do the same."""
    prefix = f"{PARTIAL}{place.name}_"
    if fcntl is not None:
        for left in place.parent.glob(f"{prefix}*"):  # by a process that was killed: this one has the lock
            shutil.rmtree(left)
    partial = place.parent / f"{prefix}{uuid4().hex[:8]}"
    partial.mkdir()
    try:
        write(partial)
        if place.is_dir() and not is_complete(place):
            shutil.rmtree(place)
        try:
            partial.rename(place)
        except OSError:  # another process was first
            if not is_complete(place):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _with_end_held_out(file: TokenFile, share: float) -> tuple[TokenFile, TokenFile]:
    """The last documents of a token file apart; of few documents, the last tokens."""
    place = len(file) - round(share * len(file))
    if file.num_documents >= FEW_DOCUMENTS:
        place = int(file.document_starts[-max(1, round(share * file.num_documents))])
    if not 0 < place < len(file):
        raise UserError(f"{file.path}: too few tokens to hold some out for development; data.dev can name others")
    return file.part(0, place), file.part(place, len(file))


def _write(
    corpus: Corpus, tokenizer: Tokenizer, end: int, splits: Sequence[Split], folder: Path, mark: str, texts: str
) -> None:
    """Tokenizes a corpus and writes the files of all splits; what says that one is complete comes last."""
    counts = {split: _TextCount() for split in splits}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(Writer(folder / f"{split}{INDEX}", len(tokenizer), end)) for split in splits
        }
        for split, document, tokens in _tokenized(tokenizer, _batches(corpus.read("tokenizes texts"))):
            counts[split].add(document)
            writers[split].add(tokens, document.is_last)
        for writer in writers.values():
            writer.close()
    for split, writer in writers.items():
        facts = Facts(
            tokenizer=mark,
            texts=texts,
            num_documents=writer.num_documents,
            num_tokens=writer.num_tokens,
            num_bytes=counts[split].num_bytes,
            num_words=counts[split].num_words,
            num_duplicates=corpus.num_duplicates[split],
            num_skipped=len(corpus.problems),
        )
        with (folder / f"{split}.json").open("w") as file:
            json.dump(facts._asdict(), file, indent=2)
            sync(file)
    if corpus.problems:
        warn(f"{count_of(len(corpus.problems), 'document')} left out:\n{corpus.problems.some(3)}", corpus.problems)
    if num_duplicates := corpus.num_duplicates.total():
        warn(f"{count_of(num_duplicates, 'document that repeats', 'documents that repeat')} another one left out")


def _tokenized(
    tokenizer: Tokenizer, batches: Iterable[list[tuple[Split, Document]]]
) -> Iterator[tuple[Split, Document, NDArray[np.int32]]]:
    """Documents with their tokens. While the package encodes a batch on all cores, the next one is read."""
    pending = deque[tuple[list[tuple[Split, Document]], Future[list[NDArray[np.int32]]]]]()

    def finished() -> Iterator[tuple[Split, Document, NDArray[np.int32]]]:
        batch, future = pending.popleft()
        for (split, document), tokens in zip(batch, future.result(), strict=True):
            yield split, document, tokens

    with ThreadPoolExecutor(1, "tokenizer") as worker:
        for batch in batches:
            pending.append((batch, worker.submit(_encoded, tokenizer, [document for _, document in batch])))
            if len(pending) > 1:
                yield from finished()
        while pending:
            yield from finished()


def _encoded(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[NDArray[np.int32]]:
    try:
        return tokenizer.encode_batch([document.text for document in documents])
    except UserError:
        for document in documents:  # to say where
            try:
                tokenizer.check(document.text)
            except UserError as error:
                raise UserError(f"{document.origin}: {error}") from None
        raise


def _batches(found: Iterable[tuple[Split, Document]]) -> Iterator[list[tuple[Split, Document]]]:
    """Documents, long ones in pieces, in batches of a few megabytes."""
    batch, size = list[tuple[Split, Document]](), 0
    for split, document in found:
        for piece in [document] if len(document.text) <= _PIECE_CHARACTERS else _pieces(document):
            batch.append((split, piece))
            size += len(piece.text)
            if size >= _BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _pieces(document: Document) -> Iterator[Document]:
    pieces = list(cuts(document.text, _PIECE_CHARACTERS))
    for number, piece in enumerate(pieces, 1):
        is_last = document.is_last and number == len(pieces)
        yield Document(piece, document.origin, document.is_first and number == 1, is_last)


class _TextCount:
    """Bytes and words of the documents of a part."""

    def __init__(self) -> None:
        self.num_bytes, self.num_words = 0, 0
        self._num_spaces: int | None = None  # at the end of the document so far; None where no word was yet

    def add(self, document: Document) -> None:
        """Counts a part of a document."""
        text = document.text
        self.num_bytes += len(text.encode())
        if document.is_first:
            self._num_spaces = None
        start = text.lstrip()
        if start:
            if self._num_spaces is None:
                self.num_words += 1
            else:
                self.num_words += self._num_spaces + text.count(" ", 0, len(text) - len(start))
            inner = start.rstrip()
            self.num_words += inner.count(" ")
            self._num_spaces = start.count(" ", len(inner))
        elif self._num_spaces is not None:
            self._num_spaces += text.count(" ")
