"""Written texts, a passage a line, for a model that restores case, punctuation and numbers of transcripts.

SOURCE is a text file or a folder of them (.txt). The source of each pair is what a recognizer would write, the target
the text; a few sentences each, since transcripts have sentences together. Texts that already look like a recognizer's
are pairs, too, as what needs no change is to stay; if most are, a warning says so. Passages with numbers, which are few
in most texts, are trained on with other numbers, too. Such a model is for `segue transcribe --written`. Needs the
package num2words.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from segue.data import sentences
from segue.data.corpora import Example
from segue.data.corpora.lines import EmptyLineError, lines
from segue.data.corpora.splits import SplitOptions, divide
from segue.data.examples import Pair
from segue.data.plain import plain, with_other_numbers
from segue.errors import UserError, count_of, note, warn


class Options(SplitOptions):
    """Written texts."""

    language: str = "en"
    """How numbers are read; the trained model keeps it, to check the numbers that it writes."""
    longest_words: Annotated[int, Field(gt=0)] = 30
    """Most words of a pair; longer sentences are left out."""
    number_copies: Annotated[int, Field(ge=0)] = 5
    """Most further training pairs of each passage with numbers, which have others of the same kind in their place; none
    that equals another text, and none at all without pairs for development."""
    seed: int = 0
    """Of the number of sentences in each pair, 1 to 3, and of other numbers."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Pairs in the order of the files, without lines that are empty."""
    del out
    files = sorted(source.rglob("*.txt")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source}: no text files (*.txt) in it")
    num_pairs = num_plain = 0

    def pairs() -> Iterator[Example]:
        nonlocal num_pairs, num_plain
        for file in files:
            for pair in _pairs(file, options):
                if isinstance(pair, Pair):
                    num_pairs, num_plain = num_pairs + 1, num_plain + (pair.source == pair.target)
                yield "", pair

    sources, numbered, has_dev = set[str](), list[Pair](), False
    for split, example in divide(pairs(), options):
        yield split, example
        has_dev |= split == "dev"
        if isinstance(example, Pair):
            sources.add(example.source)
            if split == "train" and any(map(str.isdigit, example.target)):
                numbered.append(example)
    if has_dev:
        yield from (("train", copy) for copy in _copies(numbered, sources, options))
    elif numbered and options.number_copies:
        remedy = "more texts help" if options.dev_share else "dev_share=0.1 puts some there"
        note(
            f"{source}: no passages with other numbers, as none are in dev.jsonl: training holds out some of "
            f"train.jsonl, and would train on these with other numbers; {remedy}"
        )
    if num_plain > num_pairs / 2:
        warn(
            f"{source}: no capitals, punctuation or numbers to learn from in "
            f"{num_plain:,} of {count_of(num_pairs, 'text')}"
        )


def _pairs(file: Path, options: Options) -> Iterator[Pair | UserError]:
    draw = random.Random(f"{options.seed} {file.name}")
    for number, line in lines(file):
        if isinstance(line, EmptyLineError):
            continue
        if isinstance(line, UserError):
            yield line
            continue
        origin = f"{file}:{number}"
        for text in _passages(sentences.split(line), draw, options.longest_words):
            try:
                said = plain(text, options.language)
            except UserError as problem:
                raise UserError(f"{origin}: {problem}") from None
            if said:
                yield Pair(origin, said, text, (), options.language, options.language, origin)


def _copies(numbered: Iterable[Pair], sources: set[str], options: Options) -> Iterator[Pair]:
    """The pairs with other numbers, but for those whose source is among `sources`, in any split, to which theirs are
    added.
    """
    draw = random.Random(options.seed)
    for pair in numbered:
        for number in range(options.number_copies):
            target = with_other_numbers(pair.target, draw)
            source = plain(target, options.language)
            if source not in sources:
                sources.add(source)
                yield replace(pair, id=f"{pair.id}, numbers {number + 1}", source=source, target=target)


def _passages(found: list[str], draw: random.Random, longest: int) -> Iterator[str]:
    """One to three sentences together, as many as are not too long."""
    passage, wanted = list[str](), draw.randint(1, 3)
    for sentence in found:
        size = len("".join(passage).split()) + len(sentence.split())
        if passage and (len(passage) == wanted or size > longest):
            yield "".join(passage).strip()
            passage, wanted = [], draw.randint(1, 3)
        if len(sentence.split()) <= longest:
            passage.append(sentence)
    if passage:
        yield "".join(passage).strip()
