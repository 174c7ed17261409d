"""Recordings in folders, one a class: bark/001.wav, meow/017.flac; the folder's name is the class.

SOURCE is a folder of such folders, or has such folders in train, dev and test.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, measured
from segue.data.corpora.splits import SplitOptions, divide, sources
from segue.data.examples import Labeled, Utterance
from segue.data.media import SUFFIXES
from segue.errors import UserError, note


class Options(SplitOptions):
    """Folders of recordings, one a class."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """The recordings of all folders and the folders in them, in order; where there is no split, in that of a hash."""
    del out
    yield from divide(
        ((split, each) for split, folder in sources(source, "").items() for each in _labeled(folder)), options
    )


def _labeled(source: Path) -> Iterator[Labeled | UserError]:
    if not source.is_dir():
        raise UserError(f"{source}: a folder is wanted, of which each folder is a class")
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        raise UserError(f"{source}: no folder in it; each class has one, named as the class")
    num_others = 0
    for folder in folders:
        num_found = 0
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if file.suffix.lower() not in SUFFIXES:
                num_others += 1
                continue
            num_found += 1
            found = measured(file, folder.name.strip(), str(file))
            yield Labeled.of(found) if isinstance(found, Utterance) else found
        if not num_found:
            yield UserError(f"{folder}: no recording in it (files that end in wav, flac, ogg, mp3 ...)")
    if num_others:
        note(f"{source}: {num_others} files that are no recordings left out")
