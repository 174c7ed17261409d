"""Does an exported classifier give the same classes? Its runtime compared with PyTorch."""

import numpy as np

from segue.data.examples import Labeled
from segue.data.manifest import Manifest
from segue.parity import NUM_SHOWN, Circumstances, Clock, Parity, gate, thin_out
from segue.progress import progress
from segue.runtime.classification_evaluation import ClassResult
from segue.runtime.classifier import Classifier

LEAST_IDENTICAL = 0.99
"""Smallest fraction of identical outputs in full precision."""


def compare(model: Classifier, other: Classifier, examples: Manifest[Labeled], where: Circumstances) -> Parity:
    """Compares a classifier in PyTorch with its export in another runtime."""
    ours, theirs = model.evaluator, other.evaluator
    thin_out(examples)
    before: list[ClassResult] = []
    after: list[ClassResult] = []
    differences: list[float] = []
    clock = Clock()
    batches = progress(
        ours.batches(ours.usable(examples)), "compares", len(examples), "examples", lambda each: len(each[0])
    )
    for some, given in batches:
        if not before:  # warm-up
            ours.of(given), theirs.of(given)
        rows, rows_after = clock.both(ours.of, theirs.of, given)
        differences += np.abs(rows - rows_after).ravel().tolist()
        before += ours.results(some, rows)
        after += ours.results(some, rows_after)
    differing = [
        {"id": one.example.id, "reference": one.example.label, "before": one.hypothesis, "after": other.hypothesis}
        for one, other in zip(before, after, strict=True)
        if one.hypothesis != other.hypothesis
    ]
    return Parity(
        task=model.metadata.task,
        **where._asdict(),
        examples=[str(path) for path in examples.paths],
        count=len(before),
        worst_difference=float(np.max(differences)),
        mean_difference=float(np.mean(differences)),
        identical=1 - len(differing) / len(before),
        **gate([ours.score(found) for found in (before, after)]),
        speed=clock.ratio,
        differing=differing[:NUM_SHOWN],
    )
