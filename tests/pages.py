"""Commands of the pages in docs/, as they are written there."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from segue.cli import main

DOCS = Path(__file__).parents[1] / "docs"
FEW_STEPS = ("engine.steps=4", "engine.evaluate_every=2", "engine.threads=1", "engine.workers=0")


class Ran(NamedTuple):
    """A command that succeeded."""

    words: list[str]
    out: str
    err: str


def commands(page: str, prompt: str = r"\$ ") -> list[list[str]]:
    """The words of each command `segue ...` of a page, without "segue"."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [shlex.split(command) for command in re.findall(rf"^{prompt}segue (.*)$", text, re.MULTILINE)]


def run(
    found: Sequence[Sequence[str]], capsys: pytest.CaptureFixture[str], more: Mapping[str, Sequence[str]]
) -> Iterator[Ran]:
    """Runs the commands one after the other, each with `more` words by its name; they must succeed."""
    for command in found:
        words = [*command, *more.get(command[0], ())]
        status = main(words)
        said = capsys.readouterr()
        assert status in (0, None), said.err
        yield Ran(words, said.out, said.err)
