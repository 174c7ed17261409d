"""Texts, for an n-gram language model of words: an ARPA file, by Kneser-Ney smoothing (kaldingram).

SOURCE is a file or a folder: .txt, JSON lines such as manifests, parquet, also packed; OUT is the file to write. Such a
model is for `segue tune` and `segue transcribe --language-model`.
"""

import io
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from segue.data import document_files
from segue.data.corpora import Written
from segue.data.sentences import split
from segue.data.text import TextSection, normalize
from segue.errors import Problems, UserError, count_of, missing_extra, note, warn
from segue.files import replacing, say_replaced
from segue.progress import progress
from segue.recipe import Section

_NOT_OF_TEXTS = frozenset(("<s>", "</s>", "<unk>"))


class Options(Section):
    """An n-gram language model of words."""

    order: Annotated[int, Field(ge=1, le=5)] = 3
    """Words of an n-gram."""
    least_count: Annotated[int, Field(gt=0)] = 1
    """N-grams of two and more words that occur less often are left out: 2 makes models of large texts much smaller."""
    unit: Literal["sentence", "line"] = "sentence"
    """What begins and ends in the model: each sentence of a text, or each line."""
    text_key: str = "text"
    """Key of the text in JSON lines, column in parquet."""
    text: TextSection = TextSection()
    """How words are written; by default as recipes for speech do, in lower case without punctuation. It has to be the
    `text` of the speech model's recipe."""


class Estimated(NamedTuple):
    """What a model was estimated from."""

    num_texts: int
    num_words: int
    num_different: int


def write(source: Path, out: Path, options: Options, *, skip_bad: bool = False) -> list[Written]:
    """Writes the model to the file `out`."""
    found = estimate(source, out, options, skip_bad=skip_bad)
    num_different = count_of(found.num_different, "different one")
    summary = f"{count_of(found.num_texts, 'text')}, {count_of(found.num_words, 'word')}, {num_different}"
    return [Written(out, found.num_texts, summary, "word")]


def next_command(out: Path) -> str:
    """What the model is for."""
    return f"segue transcribe MODEL AUDIO --language-model {shlex.quote(str(out))}"


def files(source: Path) -> list[Path]:
    """The texts of a file or folder. Raises a UserError if there are none."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    found = (
        [source] if source.is_file() else sorted(path for path in source.rglob("*") if document_files.is_known(path))
    )
    if not found:
        raise UserError(f"{source}: no texts in this folder; texts: {document_files.KNOWN}")
    if not document_files.is_known(found[0]):
        raise UserError(f"{source}: no text by its name; texts: {document_files.KNOWN}")
    return found


def estimate(source: Path, out: Path, options: Options, *, skip_bad: bool = False) -> Estimated:
    """Writes the model of the texts at `source` to the file `out`. Raises a UserError."""
    try:
        from kaldingram import train
    except ModuleNotFoundError:
        raise missing_extra("kaldingram", "search") from None
    if out.is_dir():
        raise UserError(f"{out}: a folder; the name of an ARPA file to write is wanted, such as {out / 'words.arpa'}")
    sources = files(source)
    if out.resolve() in (path.resolve() for path in sources):
        raise UserError(f"{out}: is one of the texts; give another name for the model")
    counts = train.NgramCounts(options.order)
    problems, words = Problems(), set[str]()
    num_texts = num_words = 0
    for line in progress(_lines(sources, options, problems), f"counts words of {source}", unit="texts"):
        found = [word for word in line.split() if word not in _NOT_OF_TEXTS]
        if found:
            counts.add_raw_counts_from_line(" ".join(found))
            words.update(found)
            num_texts, num_words = num_texts + 1, num_words + len(found)
    if problems and not skip_bad:
        raise UserError(f"{problems.some()}\n(--skip-bad leaves such texts out and counts them)")
    if problems:
        warn(f"{count_of(len(problems), 'bad text')} left out:\n{problems.some(3)}", problems)
    if not num_words:
        raise UserError(f"{source}: no words in it")
    say_replaced([out], note)
    with redirect_stderr(io.StringIO()):  # its progress bars
        if options.least_count > 1:
            counts.apply_count_cutoffs([0] + [options.least_count] * (options.order - 1))
        counts.cal_discounting_constants()
        counts.cal_f()
        counts.cal_bow()
        with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
            counts.print_as_arpa(fout=file)
    return Estimated(num_texts, num_words, len(words))


def _lines(paths: list[Path], options: Options, problems: Problems) -> Iterator[str]:
    """The normalized sentences or lines of the texts."""
    for path in paths:
        for found in document_files.read(path, "line", options.text_key):
            if isinstance(found, UserError):
                problems.add(str(found))
                continue
            for text in split(found.text) if options.unit == "sentence" else [found.text]:
                yield normalize(text, options.text)
