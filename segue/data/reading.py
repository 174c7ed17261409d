"""How is sound read for a trained model? Recordings block by block, the examples of a manifest in groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from segue.data import audio, channels
from segue.data.audio import Samples
from segue.data.batching import BatchPlan
from segue.data.examples import Example
from segue.data.manifest import Manifest
from segue.errors import SKIP_BAD, UserError
from segue.progress import progress

WINDOW_SECONDS = 24.0
"""Longer recordings are processed in windows of this length."""
BATCH = 4
"""Number of windows per batch, which limits the memory for long recordings."""


class Sounding(Example, Protocol):
    """An example with sound."""

    def samples(self, sample_rate_hz: int) -> Samples:
        """(S) its samples. Raises a UserError, with the manifest's line, if they cannot be read."""


S = TypeVar("S", bound=Sounding)


def groups(manifest: Manifest[S], sample_rate_hz: int) -> Iterator[tuple[list[S], list[Samples]]]:
    """All examples and their samples, in groups of similar length, short ones first.

    Bad examples raise a UserError, or are left out if the manifest has `skip_bad`.
    """
    if not len(manifest):
        return
    seconds = max(BATCH * WINDOW_SECONDS, float(manifest.sizes.max()))
    plan = BatchPlan(manifest.sizes, seconds, buckets=16, seed=0, is_shuffled=False)
    for number in range(plan.num_micro_batches):
        examples: list[S] = []
        waveforms: list[Samples] = []
        for index in plan.micro_batch(number).indices.tolist():
            example = manifest[index]
            try:
                waveforms.append(example.samples(sample_rate_hz))
                examples.append(example)
            except UserError as problem:
                if not manifest.skip_bad:
                    raise UserError(f"{problem} {SKIP_BAD}") from None
        if examples:
            yield examples, waveforms


def opened(
    recording: str | Path | NDArray[Any], wanted_hz: int, sample_rate_hz: int | None, channel: int | str | None
) -> tuple[str, Iterator[Samples]]:
    """The name of a recording ("" for samples), and its samples (S) at `wanted_hz`, block by block.

    `recording` is a file, or samples (S) or (S, channels) at `sample_rate_hz`, from 1 kHz to 1 MHz: floats in [-1, 1]
    or signed integers. `channel` is a number from 1, "left", "right" or "mix"; None: the mean, or one of channels that
    cancel each other. Raises a UserError if the recording cannot be read.
    """
    try:
        chosen = channels.parse(channel)
    except ValueError as problem:
        raise UserError(f"channel: {problem}") from None
    blocks: Iterator[Samples]
    if isinstance(recording, str | Path):
        name, path = str(recording), Path(recording)
        seconds = audio.properties(path).seconds
        blocks = iter(audio.stream(path, wanted_hz, channel=chosen))
    elif sample_rate_hz is None:
        raise UserError("samples need their rate: sample_rate_hz=...")
    elif not (isinstance(sample_rate_hz, int | float | np.number) and 1000 <= sample_rate_hz <= 1_000_000):
        raise UserError(f"sample_rate_hz: a number from 1000 to 1000000 wanted, got {sample_rate_hz!r}")
    else:
        samples = audio.mono(np.asarray(recording), sample_rate_hz, chosen)
        name, seconds = "", len(samples) / sample_rate_hz
        blocks = iter([audio.resample(samples, sample_rate_hz, wanted_hz)])
    what = f"reads {name or 'samples'}"
    return name, iter(progress(blocks, what, seconds, "seconds", lambda block: len(block) / wanted_hz))
