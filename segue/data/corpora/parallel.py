"""Parallel texts: two files that are aligned line by line, in UTF-8, with or without .gz.

SOURCE is a folder with train.LANG, dev.LANG (or val, valid) and test*.LANG for both languages, or the common path of
two files without .LANG: corpora/europarl for corpora/europarl.en and corpora/europarl.de.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example
from segue.data.corpora.lines import pairs, stems
from segue.data.corpora.splits import SplitOptions, divide
from segue.errors import UserError

DEV = ("dev", "val", "valid")


class Options(SplitOptions):
    """Parallel texts."""

    source_language: str | None = None
    """Suffix of the files to translate from; required."""
    target_language: str | None = None
    """Suffix of the files to translate into; required."""


def is_there(source: Path) -> bool:
    """Whether there is such a folder or file, or a file SOURCE.*."""
    return source.exists() or any(source.parent.glob(f"{source.name}.*"))


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Lines in the order of the files; without given splits in the order of a hash of the source text."""
    del out
    from_, to = options.source_language, options.target_language
    if from_ is None or to is None:
        missing = "source_language" if from_ is None else "target_language"
        raise UserError(f"{missing}: missing; give source_language=en target_language=de, or whichever they are")
    found = ((split, pair) for split, stem in _stems(source, from_).items() for pair in pairs(stem, from_, to))
    yield from divide(found, options)


def _stems(source: Path, language: str) -> dict[str, Path]:
    """Stems by split; the first development set is dev, further ones and test sets keep their own names."""
    if not source.is_dir():
        if source.is_file() and not stems(source.parent, source.name, language):
            raise UserError(
                f"{source}: a file; SOURCE is what the names of both have in common, {source.with_suffix('')} for "
                f"{source.with_suffix('')}.{language} and the other"
            )
        return {"": source}
    dev = [stem for stem in DEV if stems(source, stem, language)]
    names = {"train": "train"} if stems(source, "train", language) else {}
    names |= {"dev" if stem == dev[0] else stem: stem for stem in dev}
    names |= {stem: stem for stem in stems(source, "test*", language)}
    if not names:
        raise UserError(
            f"{source}: no train.{language}, dev.{language} (or val, valid) or test*.{language} in it, also not with "
            f".gz; for two files NAME.{language} and NAME.OTHER, SOURCE is {source / 'NAME'}"
        )
    return {split: source / name for split, name in names.items()}
