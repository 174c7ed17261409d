"""How are files read in which each line is an example, or is aligned with a line of another file?"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

from segue.data.corpora.splits import unpacked_or_packed
from segue.data.encodings import lines_of
from segue.data.examples import Labeled, Pair
from segue.data.manifest import unreadable
from segue.data.text import seen
from segue.errors import UserError, count_of


class EmptyLineError(UserError):
    """A line of only white space where a text is wanted."""


Line = tuple[int, str | UserError]
"""(number from 1, text); for a bad line a UserError in place of the text."""


def stems(folder: Path, pattern: str, language: str) -> list[str]:
    """Stems of the files STEM.LANGUAGE or STEM.LANGUAGE.gz in a folder; `pattern` is a glob pattern for the stem."""
    ending = f".{language}"
    names = {path.name.removesuffix(".gz") for path in folder.glob(f"{pattern}{ending}*")}
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))


def pairs(stem: Path, source_language: str, target_language: str) -> Iterator[Pair | UserError]:
    """Pairs of the lines of STEM.SOURCE_LANGUAGE and STEM.TARGET_LANGUAGE; both may end in .gz."""
    wanted = [stem.with_name(f"{stem.name}.{language}") for language in (source_language, target_language)]
    source, target = map(unpacked_or_packed, wanted)
    if source is None or target is None:
        raise UserError(f"{wanted[0] if source is None else wanted[1]}: no such file, also not with .gz")
    yield from join(source, target, source_language, target_language)


def labeled(stem: Path, language: str) -> Iterator[Labeled | UserError]:
    """The lines of STEM.LANGUAGE, which may end in .gz, each with the language as its class."""
    wanted = stem.with_name(f"{stem.name}.{language}")
    path = unpacked_or_packed(wanted)
    if path is None:
        raise UserError(f"{wanted}: no such file, also not with .gz")
    for number, line in lines(path):
        origin = f"{path}:{number}"
        yield line if isinstance(line, UserError) else Labeled(origin, language, text=line, origin=origin)


def lines(path: Path) -> Iterator[Line]:
    """Lines without their line ends; a blank one is an EmptyLineError."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in lines_of(file, path):
                is_blank = isinstance(line, str) and not seen(line)
                yield number, EmptyLineError(f"{path}:{number}: empty") if is_blank else line
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, "file", error) from None


def join(
    source: Path,
    target: Path,
    source_language: str | None,
    target_language: str | None,
    read: Callable[[Path], Iterator[Line]] = lines,
) -> Iterator[Pair | UserError]:
    """A pair for each line of both files; for a bad one a UserError in its place: an EmptyLineError, or not UTF-8.

    Raises a UserError at the end if the files have different numbers of lines, since their alignment is then unknown.
    """
    count, more = 0, {source: 0, target: 0}
    for first, second in zip_longest(read(source), read(target)):
        if first is None or second is None:
            more[source if second is None else target] += 1
            continue
        count += 1
        (number, text), (_, translation) = first, second
        if isinstance(text, UserError):
            yield text
        elif isinstance(translation, UserError):
            yield translation
        else:
            origin = f"{source}:{number}"
            yield Pair(origin, text, translation, (), source_language, target_language, origin)
    if any(more.values()):
        raise UserError(
            f"{source} has {count_of(count + more[source], 'line')} and {target} has {count + more[target]:,}: each "
            "line of one needs a line of the other"
        )
