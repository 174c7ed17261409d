"""Multi30k: 31,014 captions of pictures in English, German, French and Czech (github.com/multi30k/dataset).

SOURCE is that repository's `data/task1/raw`: train.LANG.gz, val.LANG.gz and test_*.LANG.gz, unpacked or not. Each test
set keeps its name.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from segue.data.corpora import Example
from segue.data.corpora.lines import pairs, stems
from segue.errors import UserError, warn
from segue.recipe import Section


class Options(Section):
    """Multi30k."""

    source_language: str = "en"
    """Language to translate from."""
    target_languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("de",)
    """Languages to translate into; each gives a line for each caption."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Captions in the order of the files, one target language after the other."""
    del out
    tests = stems(source, "test_*", options.source_language)
    for split, stem in (("train", "train"), ("dev", "val"), *zip(tests, tests, strict=True)):
        for language in options.target_languages:
            # Some test sets were never translated into Czech.
            if stem in tests and not stems(source, stem, language):
                warn(f"{source / stem}.{language}: no such file; {split} has no {language}")
                continue
            try:
                for pair in pairs(source / stem, options.source_language, language):
                    yield split, pair
            except UserError as problem:
                raise UserError(f"{problem}\n(SOURCE is the folder data/task1/raw of Multi30k)") from None
