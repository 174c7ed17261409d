"""LJSpeech: one reader, 24 hours of non-fiction, public domain (keithito.com/LJ-Speech-Dataset), or a part of it.

SOURCE contains `metadata.csv` (id|text|normalized text) and the clips in `wavs/` or `flac/`. It has no official split.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, check_source, measured, read_lines
from segue.errors import UserError
from segue.recipe import Section


class Options(Section):
    """LJSpeech; sorted by name, the clips are train, then dev, then test."""

    dev_from: str = "LJ049-0001"
    """Name of the first development clip."""
    test_from: str = "LJ050-0001"
    """Name of the first test clip."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Clips with the normalized text, in which numbers are spelled out."""
    del out
    check_source(source, "the unpacked LJSpeech folder, with metadata.csv")
    if not options.dev_from < options.test_from:
        raise UserError(f"test_from: {options.test_from} should come after dev_from, {options.dev_from}")
    splits = set()
    for origin, line in read_lines(source / "metadata.csv"):
        columns = line.split("|")
        if len(columns) != 3:
            yield "train", UserError(f"{origin}: three columns wanted, separated by |, got {len(columns)}")
            continue
        name, _, text = columns
        split = "train" if name < options.dev_from else "dev" if name < options.test_from else "test"
        splits.add(split)
        clips = [source / folder / f"{name}.{suffix}" for folder, suffix in (("wavs", "wav"), ("flac", "flac"))]
        file = next((clip for clip in clips if clip.is_file()), clips[0])
        yield split, measured(file, text, origin, speaker="LJ")
    if "dev" not in splits:
        raise UserError(
            f"{source}: no clip from {options.dev_from} on, so none for development; for a part of the corpus give "
            "dev_from=NAME test_from=NAME"
        )
