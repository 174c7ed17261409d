"""Recordings in one folder per class: bark/001.wav, meow/017.flac; the folder's name is the class.

SOURCE contains these folders, or folders train, dev and test that contain them.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, measured
from segue.data.corpora.splits import SplitOptions, divide, sources
from segue.data.examples import Labeled, Utterance
from segue.data.media import SUFFIXES
from segue.errors import UserError, count_of, note


class Options(SplitOptions):
    """Folders of recordings, one per class."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """The recordings of all folders and their subfolders, sorted; without given splits in the order of a hash."""
    del out
    yield from divide(
        ((split, each) for split, folder in sources(source, "").items() for each in _labeled(folder)), options
    )


def _labeled(source: Path) -> Iterator[Labeled | UserError]:
    if not source.is_dir():
        raise UserError(f"{source}: not a folder; it should contain one folder per class")
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        raise UserError(f"{source}: no folder in it; there should be one per class, with its name")
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
        said = count_of(num_others, "file that is not a recording", "files that are not recordings")
        note(f"{source}: {said} left out")
