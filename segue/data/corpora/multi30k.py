"""Multi30k: 31,014 captions of pictures in English, German, French and Czech (github.com/multi30k/dataset).

SOURCE is that repository's `data/task1/raw`: train.LANG.gz, val.LANG.gz and test_*.LANG.gz, compressed or not. Each
test set keeps its name. With label=language, the captions of all given languages are texts for classification.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from segue.data.corpora import Example, check_source
from segue.data.corpora.lines import labeled, pairs, stems
from segue.data.examples import Labeled, Pair
from segue.errors import UserError, warn
from segue.recipe import Section


class Options(Section):
    """Multi30k."""

    source_language: str = "en"
    """Language to translate from."""
    target_languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("de",)
    """Languages to translate into; each gives one line per caption."""
    label: Literal["language"] | None = None
    """"language" makes manifests for classification: each caption is a text, its language the class."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Captions in the order of the files, one target language after the other."""
    del out
    check_source(source, "the folder data/task1/raw of Multi30k")
    found: Iterator[Pair | Labeled | UserError]
    tests = stems(source, "test_*", options.source_language)
    for split, stem in (("train", "train"), ("dev", "val"), *zip(tests, tests, strict=True)):
        languages = options.target_languages
        for language in languages if options.label is None else (options.source_language, *languages):
            # Some test sets were never translated into Czech.
            if stem in tests and not stems(source, stem, language):
                warn(f"{source / stem}.{language}: no such file; {split} has no {language}")
                continue
            try:
                if options.label is None:
                    found = pairs(source / stem, options.source_language, language)
                else:
                    found = labeled(source / stem, language)
                for each in found:
                    yield split, each
            except UserError as problem:
                raise UserError(f"{problem}\n(SOURCE is the folder data/task1/raw of Multi30k)") from None
