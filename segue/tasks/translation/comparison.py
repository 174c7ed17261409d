"""Does an exported translator give the same translations? Its runtime compared with PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segue.data.examples import Pair
from segue.data.manifest import Manifest
from segue.parity import NUM_SHOWN, Circumstances, Clock, Least, Parity, gate, thin_out
from segue.progress import progress
from segue.runtime.translation_evaluation import Translated
from segue.runtime.translator import Translator

LEAST_IDENTICAL = 0.98
"""Smallest fraction of identical outputs in full precision; below 1, since searches may end by other rules."""


def compare(
    model: Translator,
    other: Translator,
    pairs: Manifest[Pair],
    where: Circumstances,
    least: tuple[str, Translator] | None = None,
) -> Parity:
    """Compares a translator in PyTorch with its export in another runtime, also on the `least` instruction set.

    The loss of the metric is the larger one of the two.
    """
    evaluator = model.evaluator
    thin_out(pairs)
    before = sorted(evaluator.usable(pairs), key=lambda each: (each.target_language or "", len(each.source)))
    after: list[Translated] = []
    after_least: list[Translated] = []
    differences: list[float] = []
    differing: list[dict[str, Any]] = []
    clock = Clock()
    decode = model.vocabularies.target.decode
    groups = progress(_groups(before), "compares", len(before), "texts", lambda each: each[1] - each[0])
    for start, end in groups:
        group, language = before[start:end], before[start].target_language
        sources = [each.source for each in group]
        if start == 0:  # warm-up
            model.search(sources, language), other.search(sources, language)
        found, found_after = clock.both(model.search, other.search, sources, language)
        if least is not None:
            texts_least = (decode(best.tokens) for best, *_ in least[1].search(sources, language))
            after_least += (each._replace(hypothesis=text) for each, text in zip(group, texts_least, strict=True))
        for number, ([ours, *_], [theirs, *_]) in enumerate(zip(found, found_after, strict=True), start):
            texts = decode(ours.tokens), decode(theirs.tokens)
            before[number], after_it = (before[number]._replace(hypothesis=text) for text in texts)
            after.append(after_it)
            if ours.tokens == theirs.tokens:
                differences.append(abs(ours.log_probability - theirs.log_probability))
            else:
                said = {"id": after_it.id, "source": after_it.source, "before": texts[0], "after": texts[1]}
                differing.append({**said, "score_before": ours.score, "score_after": theirs.score})
    scores = [evaluator.score(outputs) for outputs in (before, after, after_least) if outputs]
    gated = gate(scores)
    return Parity(
        task=model.metadata.task,
        **where._asdict(),
        examples=[str(path) for path in pairs.paths],
        count=len(before),
        worst_difference=float(np.max(differences or [0.0])),
        mean_difference=float(np.mean(differences or [0.0])),
        identical=len(differences) / len(before),
        **gated,
        speed=clock.ratio,
        differing=differing[:NUM_SHOWN],
        least=None
        if least is None
        else Least(least[0], scores[2].overall()[gated["metric"]], _share_same(after, after_least)),
    )


def _share_same(outputs: Sequence[Translated], others: Sequence[Translated]) -> float:
    return float(np.mean([one.hypothesis == other.hypothesis for one, other in zip(outputs, others, strict=True)]))


def _groups(rows: Sequence[Translated]) -> list[tuple[int, int]]:
    """(start, end) of batches with one target language each."""
    changes = [n for n in range(1, len(rows)) if rows[n].target_language != rows[n - 1].target_language]
    return [
        (first, min(first + Translator.BATCH, end))
        for start, end in zip([0, *changes], [*changes, len(rows)], strict=True)
        for first in range(start, end, Translator.BATCH)
    ]
