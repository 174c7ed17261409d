"""Which errors are the most frequent? Words that are taken for others, added, or left out."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from segue.metrics.measures import scorer

NUM_SHOWN = 20


class Confusion(NamedTuple):
    """An error, and how often it occurs."""

    reference: str | None
    """None: inserted."""
    hypothesis: str | None
    """None: deleted."""
    times: int


class Confusions(NamedTuple):
    """Most frequent first; at most NUM_SHOWN of each kind."""

    substitutions: list[Confusion]
    insertions: list[Confusion]
    deletions: list[Confusion]

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Lists by kind."""
        return {
            kind: [
                {
                    **({} if each.reference is None else {"reference": each.reference}),
                    **({} if each.hypothesis is None else {"hypothesis": each.hypothesis}),
                    "count": each.times,
                }
                for each in found
            ]
            for kind, found in self._asdict().items()
        }


def confusions(references: Sequence[str], hypotheses: Sequence[str]) -> Confusions:
    """The errors in words of normalized texts, from jiwer's alignment."""
    counts: dict[str, Counter[tuple[str | None, str | None]]] = {
        kind: Counter() for kind in ("substitute", "insert", "delete")
    }
    aligned = scorer("jiwer").process_words(list(references), list(hypotheses))
    for right, said, chunks in zip(aligned.references, aligned.hypotheses, aligned.alignments, strict=True):
        for chunk in chunks:
            rights = right[chunk.ref_start_idx : chunk.ref_end_idx]
            saids = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "substitute":
                counts[chunk.type].update(zip(rights, saids, strict=True))
            elif chunk.type != "equal":
                counts[chunk.type].update(chain(((word, None) for word in rights), ((None, word) for word in saids)))
    return Confusions(*([Confusion(*pair, count) for pair, count in _first(each)] for each in counts.values()))


def right_words(reference: str, hypothesis: str) -> list[bool]:
    """Whether each word of the hypothesis is in the reference, in jiwer's alignment."""
    found = [False] * len(hypothesis.split())
    if found:
        for chunk in scorer("jiwer").process_words([reference], [hypothesis]).alignments[0]:
            if chunk.type == "equal":
                found[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return found


def _first(
    counts: Counter[tuple[str | None, str | None]],
) -> list[tuple[tuple[str | None, str | None], int]]:
    """The most frequent, equal ones by their words, so that the order is always the same."""
    return sorted(counts.items(), key=lambda each: (-each[1], each[0][0] or "", each[0][1] or ""))[:NUM_SHOWN]
