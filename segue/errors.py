"""Errors and warnings for users: a message of one line or a few, without a traceback."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from segue import progress

SKIP_BAD = "(--skip-bad leaves such examples out and counts them)"
"""Appended to messages about bad data by commands that have this option."""


class UserError(ValueError):
    """A mistake in a recipe, in data or on the command line. Its text says where the mistake is and what to do."""


def missing_extra(package: str, extra: str) -> UserError:
    """The error for a missing package that Segue's extra `extra` installs."""
    return UserError(f"this needs the package {package}: pip install 'segue[{extra}]'")


class Warned(NamedTuple):
    """A warning."""

    message: str
    about: "Problems | None" = None
    """The problems that it sums up, if it does."""


# Of this thread or task only: a server answers several requests at once.
_gathered: ContextVar[list[Warned] | None] = ContextVar("gathered", default=None)


@contextmanager
def gathered() -> Iterator[list[Warned]]:
    """Inside, in the same thread, warnings are not printed, but appended to the list that it yields."""
    found = list[Warned]()
    before = _gathered.set(found)
    try:
        yield found
    finally:
        _gathered.reset(before)


def warn(message: str, about: "Problems | None" = None) -> None:
    """Prints "warning: `message`" to standard error, so that standard output has only results; only on rank 0.

    `about` has the problems that the message sums up, for `gathered`.
    """
    if (found := _gathered.get()) is not None:
        found.append(Warned(message, about))
    elif os.environ.get("RANK", "0") == "0":
        progress.say(f"warning: {message}")


def note(message: str) -> None:
    """Prints `message` to standard error, as `warn` does, but without "warning:"; only on rank 0."""
    if os.environ.get("RANK", "0") == "0":
        progress.say(message)


def count_of(number: int, one: str, several: str | None = None) -> str:
    """`number` and what is counted: "1 recording", "3,000 recordings"; `several` defaults to `one` with an s.

    Both may go on with the verb: `count_of(3, "file is", "files are")`.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def some_of(problems: list[str], shown: int = 10) -> str:
    """The first `shown` problems, one per line, as `Problems.some`, and the number of those left out."""
    found = Problems()
    for problem in problems:
        found.add(problem)
    return found.some(shown)


MOST_KINDS = 40
"""Kinds of problems that are told apart."""
_FIRST = 10
_ORIGIN = re.compile(r"^(.*?):(\d+): ")
# Quoted texts, but not the names of missing keys; paths and file names; numbers.
_PARTICULAR = re.compile(
    r"""(?<!\w)(?<!the key )'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|"""
    r"""\S*/\S*[^\s:,;]|\b\S+\.\w{2,4}\b|\b(?!0(?![.,\d]))\d[\d.,]*"""
)
_REPEATED = re.compile(r"…(?:[ ,]*…)+")


@dataclass
class Kind:
    """Problems that differ only in names and numbers."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """The first few."""

    def add(self, problem: str) -> None:
        """Adds a problem."""
        self.count += 1
        if len(self.first) < _FIRST:
            self.first.append(problem)

    def merge(self, other: "Kind") -> None:
        """Adds those of `other`."""
        self.count += other.count
        self.first = [*self.first, *other.first][:_FIRST]


class Problems:
    """The problems of many lines or examples: all are counted, the first few are kept, so that memory is bounded."""

    def __init__(self) -> None:
        self.first: dict[str, Kind] = {}
        """The first few that differ in more than the line, by their text without it."""
        self.kinds: dict[str, Kind] = {}
        """By what they have in common: their text without file, line, names and numbers."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, problem: str) -> None:
        """Adds a problem, which begins with `file:line: ` if it has these."""
        self._count += 1
        name = _REPEATED.sub("…", _PARTICULAR.sub("…", _ORIGIN.sub("", problem[:500], count=1))).removeprefix("…: ")
        self._kind(name).add(problem)
        said = _ORIGIN.sub(r"\1: ", problem, count=1)
        if said in self.first or len(self.first) < _FIRST:
            self.first.setdefault(said, Kind()).add(problem)

    def merge(self, other: "Problems") -> None:
        """Adds those of `other`."""
        self._count += len(other)
        for said, new in other.first.items():
            if said in self.first or len(self.first) < _FIRST:
                self.first.setdefault(said, Kind()).merge(new)
        for name, new in other.kinds.items():
            self._kind(name).merge(new)

    def some(self, shown: int = _FIRST) -> str:
        """The first `shown` problems, one per line, and the number of those left out.

        What is the same in several lines of a file is shown once, with their numbers.
        """
        first = list(self.first.values())[:shown]
        num_left = len(self) - sum(each.count for each in first)
        return "\n".join([*map(_with_lines, first), *([f"... and {num_left} more"] if num_left else [])])

    def _kind(self, name: str) -> Kind:
        if name not in self.kinds and len(self.kinds) >= MOST_KINDS:
            name = "others"
        return self.kinds.setdefault(name, Kind())


def _with_lines(kind: Kind) -> str:
    """The first of problems that differ only in the line, with the lines of the others."""
    problem, *others = kind.first
    lines = [found[2] for each in others if (found := _ORIGIN.match(each))]
    num_more = kind.count - 1 - len(lines)
    also = [f"line{'s' * (len(lines) > 1)} {', '.join(lines)}"] * bool(lines) + [f"{num_more:,} more"] * bool(num_more)
    return f"{problem} (also {' and '.join(also)})" if also else problem
