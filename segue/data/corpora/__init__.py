"""How does a corpus become manifests? One file per corpus; this one has their table and writes what they find.

A corpus module has `Options`, a Section, and `examples(source, out, options)`, which yields a split's name and an
utterance, or in its place the UserError that says what is wrong with it. Nothing else in the house knows the corpus.
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from segue import recipe
from segue.data import audio
from segue.data.manifest import Utterance, write_manifest
from segue.errors import UserError, some_of, warn

Example = tuple[str, Utterance | UserError]

CORPORA = {
    "fsdd": "fsdd",
    "ljspeech": "ljspeech",
    "librispeech": "librispeech",
    "csv": "table",
    "tsv": "table",
    "nemo": "nemo",
    "kaldi": "kaldi",
}
"""Name on the command line -> module in this folder."""


class Written(NamedTuple):
    """A manifest that `prepare` wrote."""

    path: Path
    utterances: int
    seconds: float


def module_of(corpus: str) -> ModuleType:
    """The module of a corpus by its name on the command line."""
    if corpus not in CORPORA:
        raise UserError(f"no such corpus: {corpus!r} (corpora: {', '.join(CORPORA)})")
    return importlib.import_module(f"segue.data.corpora.{CORPORA[corpus]}")


def prepare(
    corpus: str, source: Path, out: Path, overrides: Sequence[str] = (), *, skip_bad: bool = False
) -> list[Written]:
    """Writes `out/SPLIT.jsonl` for each split of the corpus at `source`; `overrides` are key=value options.

    Raises a UserError that names every example that cannot be used, or counts them with `skip_bad`.
    """
    module = module_of(corpus)
    options = recipe.validate(recipe.from_overrides(overrides), module.Options)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    splits: dict[str, list[Utterance]] = {}
    problems: list[str] = []
    for split, found in module.examples(source, out, options):
        if isinstance(found, UserError):
            problems.append(str(found))
        else:
            splits.setdefault(split, []).append(found)
    if problems and not skip_bad:
        raise UserError(some_of(problems) + "\n(--skip-bad leaves such examples out and counts them)")
    if problems:
        warn(f"{len(problems)} bad examples left out:\n{some_of(problems, 3)}")
    if not splits:
        raise UserError(f"{source}: no usable example")
    written = []
    for split, utterances in splits.items():
        path = out / f"{split}.jsonl"
        write_manifest(path, utterances)
        written.append(Written(path, len(utterances), sum(each.seconds for each in utterances)))
    return written


def measured(file: Path, text: str, origin: str, speaker: str | None = None) -> Utterance | UserError:
    """The utterance that is a whole audio file, its duration read from the header; `origin` is "file:line"."""
    try:
        if not file.is_file():
            raise UserError(f"no such file: {file}")
        seconds = audio.duration(file)
    except UserError as problem:
        return UserError(f"{origin}: {problem}")
    return Utterance(id=str(file), audio=file, seconds=seconds, text=text, speaker=speaker, origin=origin)


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """("file:line", text) of each line that is not blank."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{_line_at(error)}: not UTF-8") from None
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line.rstrip("\r")


def _line_at(error: UnicodeDecodeError) -> int:
    return error.object.count(b"\n", 0, error.start) + 1
