"""How are examples listed? JSONL manifests, one example per line, with NeMo's keys."""

import codecs
import gzip
import json
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue.data.encodings import decode, is_wide, other_kind
from segue.data.examples import Example, Writable, other_content
from segue.errors import Problems, UserError, count_of, warn
from segue.files import replacing
from segue.progress import progress
from segue.recipe import Section

E = TypeVar("E", bound=Example)

_LINES_OF_KIND = 20  # from which the kind of a manifest is seen


class ManifestsSection(Section):
    """Manifests of the examples."""

    root: str = "."
    """Folder of the manifests."""
    train: Annotated[tuple[str, ...], Field(min_length=1)] = ("train.jsonl",)
    """Training manifests."""
    dev: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["auto", "held_out"] = ("dev.jsonl",)
    """Development manifests, which select the best model. "held_out" takes a tenth of the training examples, at most
    1,000, and does not train on them; "auto" is dev.jsonl if it exists, else "held_out"."""
    rehearsal: tuple[str, ...] = ()
    """For fine-tuning: manifests of the data that the model learned from before, in `root` or elsewhere. A share of the
    training uses them, so that the model does not forget them."""
    rehearsal_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the micro-batches that come from `rehearsal`."""
    skip_bad: bool = False
    """Leave out and count unusable examples, instead of stopping."""


class Manifest(Sequence[E]):
    """Examples of one or more manifests. All lines are checked when a manifest is opened.

    Lines are kept as bytes and parsed on access: a hundred thousand of them need little memory, and forked loader
    processes share them without touching reference counts.
    """

    def __init__(self, kind: type[E], paths: Sequence[Path], *, skip_bad: bool = False) -> None:
        """Reads `paths` in order. Bad lines raise a UserError that lists them, or with `skip_bad` are left out.

        Raises a UserError of one line if a manifest is of another kind.
        """
        self.kind = kind
        self.paths = [Path(path) for path in paths]
        self.skip_bad = skip_bad
        self._contents: list[bytes] = []
        self.num_skipped = 0
        places, sizes, problems = array("q"), array("d"), Problems()
        seen: dict[int, tuple[int, int]] = {}
        num_repeated = 0
        for file_number, path in enumerate(self.paths):
            content = _read(path)
            self._contents.append(content)
            _refuse_another_kind(kind, content, path)
            megabytes = len(content) / 1e6
            lines = progress(
                _lines(content), f"checks {path.name}", megabytes, "MB", lambda line: (line[2] - line[1]) / 1e6
            )
            for line_number, start, end in lines:
                try:
                    example = _parse(kind, content[start:end], path, line_number)
                except UserError as problem:
                    problems.add(str(problem))
                    continue
                # Default ids that cannot repeat need no entry in this dict.
                if example.has_id or kind.repeats:
                    earlier = seen.setdefault(hash(example.id), (file_number, line_number))
                    if earlier != (file_number, line_number):
                        num_repeated += 1
                        if example.has_id:
                            where = f"{self.paths[earlier[0]]}:{earlier[1]}"
                            problems.add(f"{example.origin}: id: {example.id!r} is already in {where}")
                            continue
                places.extend((file_number, line_number, start, end))
                sizes.append(example.size)
        if problems and not skip_bad:
            raise UserError(problems.some() + "\n(--skip-bad leaves such lines out and counts them)")
        if problems:
            self.num_skipped = len(problems)
            warn(f"{count_of(len(problems), 'bad manifest line')} left out:\n{problems.some(3)}", problems)
        if num_repeated and not problems:
            said = count_of(num_repeated, "line repeats", "lines repeat")
            warn(f"{', '.join(map(str, self.paths))}: {said} {kind.repeats} of an earlier line")
        if not sizes:
            raise UserError(f"{', '.join(map(str, self.paths))}: no examples in it")
        self._places = np.frombuffer(places, dtype=np.int64).reshape(-1, 4)
        self.sizes: NDArray[np.float64] = np.frombuffer(sizes, dtype=np.float64)
        """Each example's `size`."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        file_number, line_number, start, end = self._places[index].tolist()
        return _parse(self.kind, self._contents[file_number][start:end], self.paths[file_number], line_number)

    def checksum(self) -> int:
        """CRC-32 of the lines in use; it does not depend on the folder of the manifests."""
        number = 0
        for file_number, _, start, end in map(np.ndarray.tolist, self._places):
            number = crc32(self._contents[file_number][start:end], number)
        return number

    def without(self, indices: Iterable[int]) -> None:
        """Leaves out the examples with these indices."""
        keep = np.setdiff1d(np.arange(len(self)), np.fromiter(indices, dtype=np.int64))
        self.num_skipped += len(self) - len(keep)
        self._places, self.sizes = self._places[keep], self.sizes[keep]

    def part(self, indices: NDArray[np.int64]) -> Self:
        """A manifest of only the examples with these indices."""
        other = copy(self)
        other.num_skipped = 0
        other._places, other.sizes = self._places[indices], self.sizes[indices]
        return other


def named(folder: Path, *stems: str) -> list[Path]:
    """The manifests in a folder whose names, without their ends, match: those that are packed last."""
    return [path for stem in stems for end in (".jsonl", ".jsonl.gz") for path in sorted(folder.glob(f"{stem}{end}"))]


def first_values(path: Path) -> list[dict[str, Any]]:
    """The JSON objects among the first lines of a manifest. Raises a UserError if it has lines, and none is one."""
    found, problems = _first_values(_read(path), path)
    if problems and not found:
        raise problems[0]
    return found


def _first_values(content: bytes, path: Path) -> tuple[list[dict[str, Any]], list[UserError]]:
    """The JSON objects among the first lines, and what is wrong with the other lines."""
    found, problems = list[dict[str, Any]](), list[UserError]()
    for number, start, end in islice(_lines(content), _LINES_OF_KIND):
        try:
            found.append(_values(content[start:end], f"{path}:{number}"))
        except UserError as problem:
            problems.append(problem)
    return found, problems


def _refuse_another_kind(kind: type[Example], content: bytes, path: Path) -> None:
    """Raises a UserError if the first lines are all examples of one other kind: thousands would say the same."""
    others = {other_content(kind, values) for values in _first_values(content, path)[0]}
    if len(others) == 1 and (other := others.pop()) is not None:
        raise UserError(f"{path}: {other}, where {' or '.join(kind.contents)} are needed")


def parse_manifest(path: Path, kind: type[E]) -> Iterator[E | UserError]:
    """The example of each line; for a bad line, the UserError in its place."""
    yield from (example for example, _ in parse_with_values(path, kind))


def parse_with_values(path: Path, kind: type[E]) -> Iterator[tuple[E | UserError, dict[str, Any]]]:
    """As `parse_manifest`, each with the values of all keys of the line."""
    content = _read(path)
    for number, start, end in _lines(content):
        origin, values = f"{path}:{number}", dict[str, Any]()
        try:
            values = _values(content[start:end], origin)
            yield kind.parse(values, path, origin), values
        except UserError as problem:
            yield problem, values


def write_manifest(path: Path, examples: Iterable[Example]) -> int:
    """Writes one line per example, with audio paths relative to the manifest where possible; returns their number."""
    count = 0
    with open_manifest(path) as write:
        for example in examples:
            write(example)
            count += 1
    return count


@contextmanager
def open_manifest(path: Path) -> Iterator[Callable[[Writable], None]]:
    """Yields a function that writes an example; the manifest appears when the block ends without an exception."""
    folder = path.parent.resolve()
    is_packed = path.suffix == ".gz"
    with (
        replacing(path) as partial,
        gzip.open(partial, "wt", encoding="utf-8") if is_packed else partial.open("w", encoding="utf-8") as file,
    ):
        yield lambda example: print(_written(example.line(folder)), file=file)


def _written(line: dict[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8
        text = json.dumps(line)
    return text


def _read(path: Path) -> bytes:
    """The content of a manifest, converted to UTF-8. Raises a UserError if the file is not a manifest at all."""
    content = read_content(path, "manifest")
    if is_wide(content[:4]):  # as PowerShell writes it
        content = decode(content, path).encode()
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    first = content[:1000].removeprefix(codecs.BOM_UTF8).lstrip()
    if first.startswith(b"["):
        raise UserError(
            f"{path}: one JSON array, where each line should be an object; `jq -c '.[]' {path.name}` writes such lines"
        )
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if first and not first.startswith(b"{") and kind in ("csv", "tsv", "txt", "xls", "xlsx", "ods"):
        raise UserError(
            f"{path}: a table or a text, where a manifest is wanted, with one JSON object a line: `segue prepare csv "
            f"{path.name} OUT_DIR` makes manifests of a table, `segue prepare parallel` of two texts"
        )
    if first and not first.startswith(b"{") and (what := other_kind(content)):
        raise UserError(f"{path}: {what}, where a manifest is wanted, with one JSON object a line")
    return content


def read_content(path: Path, name: str) -> bytes:
    """The bytes of a file, decompressed if it ends in .gz; `name` is the kind of file, for messages."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, name, error) from None


def unreadable(path: Path, name: str, error: Exception) -> UserError:
    """The UserError for a file whose reading raised an OSError, or from gzip an EOFError or a zlib.error."""
    is_none = isinstance(error, FileNotFoundError) and name == "manifest"
    hint = " (segue prepare writes manifests; for training, data.root is their folder)" if is_none else ""
    if isinstance(error, IsADirectoryError):
        inside = sorted(path.glob("*.jsonl")) if name == "manifest" else []
        hint = "; a file is wanted, not a folder" + (f", such as {inside[-1]}" if inside else "")
    return UserError(f"{path}: cannot read this {name}: {getattr(error, 'strerror', None) or error}{hint}")


def _lines(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of every line that is not blank; numbers from 1."""
    start, number = 0, 1
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if content[start:end].strip():
            yield number, start, end
        start, number = end + 1, number + 1


def _parse(kind: type[E], line: bytes, path: Path, number: int) -> E:
    origin = f"{path}:{number}"
    return kind.parse(_values(line, origin), path, origin)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(name, _), *_] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name!r} appears twice")
    return values


def _values(line: bytes, origin: str) -> dict[str, Any]:
    """The JSON object in a line."""
    try:
        values = json.loads(line, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise UserError(f"{origin}: not UTF-8") from None
    except RecursionError:
        raise UserError(f"{origin}: not JSON that can be read: too many brackets") from None
    except ValueError as error:
        raise UserError(f"{origin}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{origin}: not a JSON object")
    return values
