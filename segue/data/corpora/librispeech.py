"""LibriSpeech: 1000 hours of audio books, CC BY 4.0 (openslr.org/12). SOURCE is the unpacked `LibriSpeech` folder.

All existing `train-*` folders become train; dev-clean and test-clean become dev and test, dev-other and test-other
become dev_other and test_other.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, check_source, measured, read_lines
from segue.errors import UserError
from segue.recipe import Section

EVALUATION = {"dev-clean": "dev", "dev-other": "dev_other", "test-clean": "test", "test-other": "test_other"}


class Options(Section):
    """LibriSpeech; it has no options."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Utterances, chapter by chapter."""
    del out, options
    check_source(source, "the unpacked LibriSpeech folder")
    parts = [part for part in sorted(source.iterdir()) if part.name in EVALUATION or part.name.startswith("train-")]
    if not parts:
        raise UserError(
            f"{source}: no train-*, dev-* or test-* folder in it; SOURCE is the unpacked LibriSpeech folder"
        )
    for part in parts:
        split = EVALUATION.get(part.name, "train")
        for chapter in sorted(part.glob("*/*/*.trans.txt")):
            for origin, line in read_lines(chapter):
                name, _, text = line.partition(" ")
                yield (
                    split,
                    measured(chapter.parent / f"{name}.flac", text, origin, speaker=name.split("-")[0]),
                )
