"""Does an exported recognizer give the same transcripts? Its runtime compared with PyTorch."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.text import normalize
from segue.parity import NUM_SHOWN, Circumstances, Clock, Parity, gate, thin_out
from segue.progress import progress
from segue.runtime.recognizer import Recognizer
from segue.runtime.speech_evaluation import UtteranceResult

LEAST_IDENTICAL = 0.99
"""Smallest fraction of identical outputs in full precision."""
Scores = list[NDArray[np.float32]]
Recognize = Callable[[Sequence[Samples]], tuple[list[str], Callable[[], Scores]]]
"""Waveforms (S) -> a runtime's text for each, and a function that returns the underlying log-probabilities (T, V)."""


def compare(model: Recognizer, run: Recognize, utterances: Manifest[Utterance], where: Circumstances) -> Parity:
    """Compares a recognizer in PyTorch with its export in another runtime."""
    evaluator = model.evaluator
    thin_out(utterances)
    before: list[UtteranceResult] = []
    after: list[UtteranceResult] = []
    clock = Clock()
    worst, total, count = 0.0, 0.0, 0
    sounds = progress(
        evaluator.sounds(utterances), "compares", len(utterances), "utterances", lambda each: len(each[0])
    )
    for group, waveforms in sounds:
        if not before:  # warm-up
            model.recognize(waveforms), run(waveforms)
        (texts, scores), (texts_after, scores_after) = clock.both(model.recognize, run, waveforms)
        for ours, theirs in zip(scores, scores_after(), strict=True):
            difference = np.abs(ours - theirs)
            worst = float(np.maximum(worst, difference.max(initial=0.0)))  # unlike Python's max, keeps NaN
            total, count = total + float(difference.sum()), count + ours.size
        for results, found in ((before, texts), (after, texts_after)):
            for utterance, text in zip(group, found, strict=True):
                reference = normalize(utterance.text, model.metadata.text, utterance.language)
                results.append(UtteranceResult(utterance.id, reference, text, utterance.seconds))
    differing = [
        {"id": ours.id, "reference": ours.reference, "before": ours.hypothesis, "after": theirs.hypothesis}
        for ours, theirs in zip(before, after, strict=True)
        if ours.hypothesis != theirs.hypothesis
    ]
    return Parity(
        task=model.metadata.task,
        **where._asdict(),
        examples=[str(path) for path in utterances.paths],
        count=len(before),
        worst_difference=worst,
        mean_difference=total / max(1, count),
        identical=1 - len(differing) / len(before),
        **gate([evaluator.score(results) for results in (before, after)]),
        speed=clock.ratio,
        differing=differing[:NUM_SHOWN],
    )
