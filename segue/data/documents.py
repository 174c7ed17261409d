"""What are the documents of a language model's corpus? Those of its files, each once, some of them held out."""

import glob
import hashlib
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from segue.data import document_files
from segue.data.distinct import Distinct
from segue.data.document_files import KNOWN, Document, cuts
from segue.data.manifest import unreadable
from segue.data.manifests import Split
from segue.errors import Problems, UserError, count_of, warn
from segue.files import PARTIAL
from segue.progress import Bar
from segue.recipe import Section

END = "<|endoftext|>"
"""The special token of language models: it ends each document, and stands before the first."""
INDEX = ".idx"
"""Suffix of a token file, in a list of texts."""
DEV_NAMES = ("dev.jsonl", "dev.txt", "valid.txt")
"""Files of which dev = "auto" takes the first that exists."""
FEW_DOCUMENTS = 50
"""With fewer documents than this, the end of each is held out, since no whole one can be spared."""
SAMPLE_BYTES = 1_000_000_000
"""Most text from which a tokenizer is learned: the package counts pairs in 32 bits (tokenizers #1345)."""

_SAMPLE_PIECE = 100_000  # characters of a long document that are drawn together
_BEGINNING = 10_000
_SHOWN = 10
_TWO = struct.Struct("<QQ")
_PURPOSE: dict[Split, str] = {"train": "training", "dev": "development"}

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class DocumentsSection(Section):
    """Texts of a language model."""

    root: str = "."
    """Folder of the texts."""
    train: Names = ("train.jsonl",)
    """Training texts: files, folders or patterns such as "books/*.txt", in `root` or elsewhere. Text (.txt, .md), JSON
    lines (.jsonl) and parquet, the first two also packed (.gz, .zst); or one .idx file of tokens, as Megatron has."""
    dev: Names | Literal["auto", "held_out"] = "auto"
    """Development texts, which select the best model. "held_out" takes `held_out_share` of the training documents and
    does not train on them; "auto" is dev.jsonl, dev.txt or valid.txt in `root` if there is one, else "held_out"."""
    held_out_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the training documents that "held_out" takes, by a hash of their text; of fewer than 50 documents, the
    same share of each one's text, from its end."""
    split: document_files.Split = "file"
    """What a document is in a text file: the whole file, a paragraph (divided by blank lines) or a line. Documents do
    not see each other in attention."""
    text_key: str = "text"
    """Key of the text in JSON lines, column in parquet."""
    tokens: str = "tokens"
    """Folder under `root` where the tokens of the texts are kept."""
    rehearsal: tuple[str, ...] = ()
    """For fine-tuning: texts that the model learned from before, in `root` or elsewhere. A share of the training uses
    them, so that the model does not forget them."""
    rehearsal_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the micro-batches that come from `rehearsal`."""
    skip_bad: bool = False
    """Leave out and count documents that cannot be read, instead of stopping."""


def resolved(data: DocumentsSection) -> DocumentsSection:
    """The section with `dev = "auto"` resolved: one of `DEV_NAMES` if it exists and is no training text, else
    "held_out"."""
    if data.dev != "auto":
        return data
    root = Path(data.root)
    given = {(root / name).resolve() for name in data.train}
    found = [name for name in DEV_NAMES if (root / name).is_file() and (root / name).resolve() not in given]
    return data.model_copy(update={"dev": tuple(found[:1]) or "held_out"})


def check(section: DocumentsSection) -> None:
    """Raises a UserError if there are no such files."""
    files(resolved(section))


class Files(NamedTuple):
    """The files of a corpus."""

    train: list[Path]
    dev: list[Path]
    """Empty if documents are held out."""

    def by_name(self) -> dict[Split, list[Path]]:
        """As a dict; development texts come first."""
        return {"dev": self.dev, "train": self.train}


def files(section: DocumentsSection) -> Files:
    """The files of a section, of which `dev` is resolved. What is for development is not for training.

    Raises a UserError for names without a file, and for a file given by name that cannot be read or is in both. Other
    files in folders are left out, with a warning.
    """
    root, strange = Path(section.root), list[Path]()
    if not root.is_dir():
        wrong = "not a folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {wrong}; data.root should be the folder of the texts")
    dev = [] if isinstance(section.dev, str) else _found(section, section.dev, "data.dev", strange)
    reserved = {path.resolve() for path in dev}
    train = _found(section, section.train, "data.train", strange)
    twice = [name for name in section.train if (root / name).is_file() and (root / name).resolve() in reserved]
    if twice:
        raise UserError(f"{root / twice[0]}: both in data.train and in data.dev; a text can be in only one of them")
    if strange:
        suffixes = Counter(path.suffix or "no suffix" for path in strange).most_common()
        listed = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes[:_SHOWN])
        said = count_of(len(strange), "file that is no text by its name", "files that are no texts by their names")
        warn(f"{said} left out: {listed}; texts: {KNOWN}")
    train = [path for path in train if path.resolve() not in reserved]
    for key, paths in (("data.train", train), ("data.dev", dev)):
        if len(paths) > 1 and any(path.suffix == INDEX for path in paths):
            raise UserError(f"{key}: a file of tokens ({INDEX}) has to be the only entry; merge several into one")
    if not train:
        raise UserError(f"{root}: all files of data.train are in data.dev, too")
    return Files(train, dev)


def documents(
    paths: Iterable[Path], section: DocumentsSection, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Document | UserError]:
    """The documents of files, in order, as `document_files.read` gives them."""
    for path in paths:
        yield from document_files.read(path, section.split, section.text_key, advance)


class Corpus:
    """The documents of a section, each once, in training and development parts; can be read many times.

    Two documents are the same if their texts differ only in white space; a long document that comes in parts is never
    taken for a repeated one. What is held out depends only on a document's own text, so other documents may be added
    without moving any.
    """

    def __init__(self, section: DocumentsSection) -> None:
        """Finds the files. Raises a UserError as `files` does."""
        self.section = resolved(section)
        self.files = files(self.section)
        self.given: dict[Split, Path] = {
            split: paths[0] for split, paths in self.files.by_name().items() if paths and paths[0].suffix == INDEX
        }
        """Parts that are given as tokens: the .idx file of each. They are not read as texts."""
        self.paths = {
            split: paths for split, paths in self.files.by_name().items() if paths and split not in self.given
        }
        """The texts of each other part."""
        self.is_held_out = self.section.dev == "held_out" and "train" not in self.given
        """Whether development texts are a part of the training texts."""
        self.num_bytes = sum(path.stat().st_size for path in chain(*self.paths.values()))
        """Size of all texts' files."""
        self.num_duplicates: Counter[Split] = Counter()
        """Documents that `read` has left out because they repeat an earlier one."""
        self.problems = Problems()
        """What `read` could not read, and with `skip_bad` has left out."""
        self._lengths: list[int] | None = None

    def read(self, what: str = "reads texts") -> Iterator[tuple[Split, Document]]:
        """The documents or their parts, development texts first; a bar labeled `what` shows progress.

        Raises a UserError that lists what cannot be read, unless `skip_bad`, and one if a part has no document.
        """
        lengths = self._few_lengths() if self.is_held_out else []
        num_read = Counter[Split]()
        with Bar(what, self.num_bytes / 1e6, "MB") as bar:
            found = self._unique(bar)
            for split, document in _with_ends_held_out(found, lengths, self.section) if lengths else found:
                num_read[split] += 1
                yield split, document
        for split in ("train", "dev") if self.is_held_out else self.paths:
            if not num_read[split]:
                why = (
                    "too little to hold some out: add texts, or name others in data.dev"
                    if self.is_held_out
                    else "what is there repeats other documents, or cannot be read"
                )
                raise UserError(f"{self.section.root}: no {_PURPOSE[split]} text; {why}")

    def texts(self, *splits: Split) -> Iterator[str]:
        """The texts of the documents of these parts (default: of all), long ones in several pieces.

        Raises a UserError if a part is given as tokens.
        """
        for split in splits or self.given:
            if split in self.given:
                raise UserError(f"{self.given[split]}: tokens, from which no tokenizer can be learned: give one")
        return (document.text for split, document in self.read() if split in (splits or ("train", "dev")))

    def sample(self, num_bytes: int = SAMPLE_BYTES, seed: int = 0) -> Iterator[str]:
        """Training texts, long ones in pieces: all of them, or at random so many that they have about `num_bytes`."""
        size = sum(path.stat().st_size * _packing(path) for path in self.paths.get("train", []))
        draw, share = np.random.default_rng([seed, 3]), min(1.0, num_bytes / max(1, size))
        for text in self.texts("train"):
            for piece in cuts(text, _SAMPLE_PIECE):
                if share == 1 or draw.random() < share:
                    yield piece

    def checksum(self) -> str:
        """A hash of the names of all texts, without their folder, of their contents, and of how they are read."""
        section = self.section
        fields = [section.split, section.text_key, section.skip_bad, self.is_held_out and section.held_out_share]
        whole = hashlib.sha256(repr(fields).encode())
        with Bar("checks texts", self.num_bytes / 1e6, "MB") as bar:
            for split, paths in self.paths.items():
                for path in paths:
                    name = os.path.relpath(path, section.root)
                    whole.update(f"\0{split}\0{name}\0{_content_hash(path, bar)}".encode(errors="surrogateescape"))
        return whole.hexdigest()

    def _unique(self, bar: Bar) -> Iterator[tuple[Split, Document]]:
        """The documents without repeated ones, in the part where their hash puts them."""
        self.num_duplicates = Counter()
        limit, seen = round(self.section.held_out_share * 2**64), Distinct()
        goes_to: Split = "train"
        for split, document in self._good(bar):
            if document.is_first:
                # Of a long document, the first part is enough to choose its place, and it is never a repeated one.
                identity, place = _hashes(document.text if document.is_last else document.text[:_BEGINNING])
                goes_to = "dev" if self.is_held_out and not self._lengths and place < limit else split
                if document.is_last and not seen.add(identity):
                    self.num_duplicates[goes_to] += 1
                    continue
            yield goes_to, document

    def _good(self, bar: Bar) -> Iterator[tuple[Split, Document]]:
        """The documents that can be read. Raises a UserError with the first problems, unless `skip_bad`."""
        self.problems = Problems()
        for split, paths in self.paths.items():
            for document in documents(paths, self.section, lambda size: bar.advance(size / 1e6)):
                if isinstance(document, UserError):
                    self.problems.add(str(document))
                    if len(self.problems) == _SHOWN and not self.section.skip_bad:
                        raise self._complaint()
                elif not self.problems or self.section.skip_bad:
                    yield split, document
        if self.problems and not self.section.skip_bad:
            raise self._complaint()

    def _complaint(self) -> UserError:
        return UserError(f"{self.problems.some()}\n(--skip-bad leaves out what cannot be read, and counts it)")

    def _few_lengths(self) -> list[int]:
        """The characters of each document, if there are so few that the end of each is held out; else an empty list."""
        if self._lengths is None:
            lengths = list[int]()
            with Bar("counts documents", self.num_bytes / 1e6, "MB") as bar:
                for _, document in self._unique(bar):
                    if document.is_first:
                        lengths.append(0)
                    if len(lengths) == FEW_DOCUMENTS:
                        lengths = []
                        break
                    lengths[-1] += len(document.text)
            self._lengths = lengths
        return self._lengths


def _found(section: DocumentsSection, names: Sequence[str], key: str, strange: list[Path]) -> list[Path]:
    """The files of names, folders and patterns, each once; those in folders that are no texts are put in `strange`."""
    root, kept = Path(section.root), dict[Path, None]()
    own = (root / section.tokens).resolve()
    for name in names:
        path = root / name
        if path.is_file():
            if path.suffix != INDEX and not document_files.is_known(path):
                raise UserError(f"{path}: {key}: not a text by its name; texts: {KNOWN}; tokens: {INDEX}")
            kept[path] = None
            continue
        if path.is_dir():
            inside = [path]
        else:
            matches = (root / found for found in sorted(glob.glob(name, root_dir=root, recursive=True)))
            inside = [found for found in matches if not found.resolve().is_relative_to(own)]
            if not inside:
                what = "no file matches this pattern" if glob.has_magic(name) else "no such file or folder"
                raise UserError(f"{path}: {key}: {what}; {_there(path.parent)}")
        there = [file for each in inside for file in (_walk(each, own) if each.is_dir() else [each])]
        kept.update(dict.fromkeys(filter(document_files.is_known, there)))
        strange += [file for file in there if not document_files.is_known(file)]
        if not any(map(document_files.is_known, there)):
            raise UserError(f"{path}: {key}: no text in it; texts: {KNOWN}")
    return list(kept)


def _walk(folder: Path, left_out: Path) -> Iterator[Path]:
    """The files in a folder and those in it, in the order of their names, without hidden ones, runs and models."""
    for path in sorted(folder.iterdir()):
        is_ours = path.resolve() == left_out or (path / "recipe.toml").is_file()
        if path.name.startswith((".", PARTIAL)) or is_ours:
            continue
        if path.is_dir():
            yield from _walk(path, left_out)
        else:
            yield path


def _there(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return (
        f"the folder has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "the folder is empty"
    )


def _content_hash(path: Path, bar: Bar) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
                bar.advance(len(block) / 1e6)
    except OSError as error:
        raise unreadable(path, "text", error) from None
    return found.hexdigest()


def _hashes(text: str) -> tuple[int, int]:
    """Two numbers of 64 bits for a text, whatever white space divides its words: which one it is, and where it goes."""
    both = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
    return _TWO.unpack(both)


def _packing(path: Path) -> int:
    """How many times the size of the file its text has, about."""
    return 3 if path.suffix.lower() in (*document_files.PACKED_SUFFIXES, document_files.PARQUET) else 1


def _with_ends_held_out(
    found: Iterable[tuple[Split, Document]], lengths: Sequence[int], section: DocumentsSection
) -> Iterator[tuple[Split, Document]]:
    """The documents, of so many characters, with the end of each as a development document of its own."""
    number, position = -1, 0
    split: Split = "train"
    for _, document in found:
        if document.is_first:
            number, position, split = number + 1, 0, "train"
        text, start = document.text, document.is_first
        held_out = round(lengths[number] * section.held_out_share)
        place = lengths[number] - held_out - position
        position += len(text)
        if split == "train" and place < len(text):
            cut = _line_end(text, max(0, place), held_out, document.is_last)
            if cut or (place <= 0 and document.is_last and not document.is_first and text.strip()):
                yield "train", Document(text[:cut], document.origin, start, True)
                text, start, split = text[cut:], True, "dev"
        yield split, Document(text, document.origin, start, document.is_last)


def _line_end(text: str, place: int, slack: int, is_last: bool) -> int:
    """Where to divide a text, at or after `place`: after a line end, also up to `slack` before it, or else at a space.

    0 if there is no such place. In a part that is not the last, only line ends behind `place` count: later parts may
    have some.
    """
    after = text.find("\n", place) + 1
    if after and (text[after:].strip() or not is_last):
        return after
    if not is_last:
        return 0
    before = text.rfind("\n", max(0, place - slack), place) + 1
    if before and text[:before].strip() and text[before:].strip():
        return before
    return len(next(cuts(text, place))) % len(text) if place else 0
