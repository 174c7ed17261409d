"""What are the log-probabilities of a long recording? Those of its windows, on one grid of frames.

Shape letters: S samples, T frames, V vocabulary (blank included, last).
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.data.segments import windows
from segue.runtime.recognizer import Recognizer

SILENT = -20.0
"""Log-probability of each token in digital silence, of which the model's output would be arbitrary."""


def scored(model: Recognizer, blocks: Iterable[Samples]) -> Iterator[NDArray[np.float32]]:
    """Log-probabilities (T, V) of a recording (S), block by block: ceil(S / samples per frame) frames, in pieces.

    Neighboring windows are cut where both are surest of a blank, in the middle half of their overlap.
    """
    lengths, size = model.lengths, model.metadata.samples_per_frame
    shared, step = lengths.overlap // size, (lengths.longest - lengths.overlap) // size
    segments, before, gone = windows(blocks, lengths), None, 0  # gone: frames of `before` that are already yielded
    while batch := [segment.samples for segment in islice(segments, model.BATCH)]:
        for scores in _of_windows(model, batch):
            if before is not None:
                blanks = before[step - gone :, -1] + scores[:shared, -1]
                middle = slice(shared // 4, shared - shared // 4)
                cut = middle.start + int(np.convolve(blanks, np.ones(5), "same")[middle].argmax())
                yield before[: step - gone + cut]
                scores, gone = scores[cut:], cut
            before = scores
    if before is not None and len(before):
        yield before


def _of_windows(model: Recognizer, waveforms: list[Samples]) -> Iterator[NDArray[np.float32]]:
    """(T, V) of each window (S), T being ceil(S / samples per frame)."""
    sounding = [waveform for waveform in waveforms if waveform.any()]
    found = iter(model.backend.recognize(sounding) if sounding else [])
    blank = len(model.metadata.tokens)
    for waveform in waveforms:
        num_frames = -(-len(waveform) // model.metadata.samples_per_frame)
        scores = next(found).scores[:num_frames] if waveform.any() else np.zeros((0, blank + 1), np.float32)
        silent = np.full((num_frames - len(scores), blank + 1), SILENT, np.float32)
        silent[:, blank] = 0.0
        yield np.concatenate([scores, silent])
