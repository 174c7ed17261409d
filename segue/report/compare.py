"""Word alignment of hypotheses with their nearest references."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from segue.evaluation import Example
from segue.metrics import scorer
from segue.writing import UNSPACED

# A word; in scripts without spaces between words, a character with its combining marks.
DENSE = f"\u3001-\u303f\uff00-\uff65{UNSPACED}"
_SIGNS = "".join(sign for sign in map(chr, range(0x0E00, 0xAB00)) if unicodedata.category(sign)[0] == "M")
WORD = re.compile(f"[{DENSE}][{_SIGNS}\u200c\u200d]*|[^\\s{DENSE}]+")

Pair = tuple[str | None, str | None]


class Compared(NamedTuple):
    """A hypothesis aligned with its nearest reference."""

    reference: str
    pairs: list[Pair]
    """(word of the reference, word of the hypothesis); None for an inserted or deleted word."""
    num_errors: int


def of_classes(examples: Sequence[Example]) -> list[Compared]:
    """Compares names of classes; each name counts as a single word."""
    pairs = [(whole(each.reference), whole(each.hypothesis)) for each in examples]
    return [Compared(right, [(right, said)], int(right != said)) for right, said in pairs]


def whole(label: str) -> str:
    """The name of a class as one word, joined by no-break spaces."""
    return "\N{NO-BREAK SPACE}".join(label.split())


def compare(examples: Sequence[Example]) -> list[Compared]:
    """Each hypothesis, aligned with the reference that differs in the fewest words; the first of several."""
    if not examples:
        return []
    tried = [(index, right) for index, each in enumerate(examples) for right in (each.reference, *each.alternatives)]
    references = [WORD.findall(right) for _, right in tried]
    hypotheses = [WORD.findall(examples[index].hypothesis) for index, _ in tried]
    lines = ([" ".join(words) for words in each] for each in (references, hypotheses))
    aligned = scorer("jiwer").process_words(*lines)
    nearest: dict[int, Compared] = {}
    for (index, text), right, said, chunks in zip(tried, references, hypotheses, aligned.alignments, strict=True):
        pairs: list[Pair] = []
        for chunk in chunks:
            words = right[chunk.ref_start_idx : chunk.ref_end_idx]
            pairs += zip_longest(words, said[chunk.hyp_start_idx : chunk.hyp_end_idx])
        compared = Compared(text, pairs, sum(word != other for word, other in pairs))
        if index not in nearest or compared.num_errors < nearest[index].num_errors:
            nearest[index] = compared
    return [nearest[index] for index in range(len(examples))]


def signs(pairs: Sequence[Pair]) -> str:
    """One character per pair: = equal, - deleted, + inserted, ~ substituted."""
    return "".join(
        "=" if right == said else "-" if said is None else "+" if right is None else "~" for right, said in pairs
    )


def spaced(text: str) -> str:
    """The words of a text, separated by a space, or by a line break if the text has no space between them."""
    parts, end = list[str](), 0
    for found in WORD.finditer(text):
        parts += [" " if found.start() > end else "\n", found[0]]
        end = found.end()
    return "".join(parts[1:])
