"""Does an exported model of voices give the same vectors? Its runtime compared with PyTorch."""

import numpy as np

from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.parity import NUM_SHOWN, Circumstances, Clock, Parity, thin_out
from segue.progress import progress
from segue.runtime.speaker_embedder import SpeakerEmbedder, Vectors
from segue.runtime.speaker_evaluation import score

LEAST_IDENTICAL = 0.99
"""Smallest fraction of vectors that are the same, in full precision."""
LEAST_SIMILARITY = 0.999
"""Vectors of a larger cosine similarity count as the same."""


def compare(
    model: SpeakerEmbedder, other: SpeakerEmbedder, examples: Manifest[Utterance], where: Circumstances
) -> Parity:
    """Compares a model in PyTorch with its export in another runtime. Scores are the components of unit vectors."""
    evaluator = model.evaluator
    thin_out(examples)
    recordings: list[Utterance] = []
    before: list[Vectors] = []
    after: list[Vectors] = []
    clock = Clock()
    batches = progress(
        evaluator.batches(evaluator.usable(examples)), "compares", len(examples), "examples", lambda each: len(each[0])
    )
    for some, waveforms in batches:
        if not before:  # warm-up
            model.embed(waveforms), other.embed(waveforms)
        ours, theirs = clock.both(model.embed, other.embed, waveforms)
        recordings += some
        before.append(ours)
        after.append(theirs)
    ours, theirs = np.concatenate(before), np.concatenate(after)
    speakers = [str(each.speaker) for each in recordings]
    rates = [score(each, speakers, ", ".join(map(str, examples.paths))).rate for each in (ours, theirs)]
    similarities = (ours * theirs).sum(axis=1)
    differing = [
        {"id": each.id, "reference": str(each.speaker), "similarity": float(similarity)}
        for each, similarity in zip(recordings, similarities, strict=True)
        if similarity < LEAST_SIMILARITY
    ]
    return Parity(
        task=model.metadata.task,
        **where._asdict(),
        examples=[str(path) for path in examples.paths],
        count=len(recordings),
        worst_difference=float(np.abs(ours - theirs).max()),
        mean_difference=float(np.abs(ours - theirs).mean()),
        identical=1 - len(differing) / len(recordings),
        metric="equal_error_rate",
        before=rates[0],
        after=rates[1],
        loss=100 * (rates[1] - rates[0]),
        signature="",
        speed=clock.ratio,
        differing=differing[:NUM_SHOWN],
    )
