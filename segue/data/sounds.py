"""How is training sound loaded? Checked, joined, augmented, padded in loader processes, for all tasks.

Shape letters: B batch, S samples.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from zlib import crc32

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from segue.data import audio
from segue.data.audio import USUAL_RATE_HZ
from segue.data.augmentation import Augmentation, AugmentationSection, FeatureAugmentation, Joining
from segue.data.examples import Utterance
from segue.data.features import FeatureTensors, stacked
from segue.data.front_ends import FeaturesSection
from segue.data.manifest import ManifestsSection
from segue.data.source import Lengths
from segue.errors import count_of, warn
from segue.recipe import Section

Seconds = Annotated[float, Field(gt=0)]


class RecordingsSection(ManifestsSection):
    """Manifests of recordings."""

    longest_seconds: Seconds | None = None
    """Longer training utterances are left out and counted."""


class SecondsSection(Section):
    """Batch size."""

    seconds: Seconds | Literal["auto"]
    """Size limit of a micro-batch: number of utterances times the longest one, at the slowest speed. "auto" determines
    once what fits in memory, and writes the number into the run's recipe."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches per step, divided among the devices."""
    buckets: Annotated[int, Field(gt=0)] = 8
    """Number of length buckets from which micro-batches are drawn."""


class ReadSound(NamedTuple):
    """Samples (S) with the augmentation of their features."""

    samples: audio.Samples
    augmentation: FeatureAugmentation | None = None


class SoundBatch(NamedTuple):
    """Padded sounds."""

    waveforms: Tensor
    """(B, S)"""
    lengths: Tensor
    """(B) samples"""
    augmentation: FeatureTensors | None = None


class Sounds:
    """Reads and augments sound according to a recipe."""

    def __init__(
        self,
        features: FeaturesSection,
        augmentation: AugmentationSection,
        root: Path,
        seed: int,
        *,
        has_noise_alone: bool = True,
    ) -> None:
        """`root` is the folder of the noise manifest; `has_noise_alone` is passed to `Joining`."""
        self.front_end = features.build()  # only to count frames
        self.augmentation = Augmentation(augmentation, features.sample_rate_hz, features.mel_bins, root)
        self.joining: Joining | None = None
        self.rates = Counter[int]()
        """Number of recordings by sample rate."""
        self.sample_rate_hz, self._seed, self._has_noise_alone = features.sample_rate_hz, seed, has_noise_alone

    def check(self, utterance: Utterance) -> None:
        """Raises a UserError if the audio is missing or too short; counts its sample rate."""
        self.rates[utterance.check_audio().sample_rate_hz] += 1

    def arrange(self, speakers: Iterable[str | None], lengths: Lengths) -> Lengths:
        """Lengths of training examples -> upper bounds of augmented ones: joined, with pauses, at the slowest speed."""
        section = self.augmentation.section
        if section.joined_utterances > 1 or section.pause_probability:
            self.joining = Joining(lengths, list(speakers), section, self._seed, has_noise_alone=self._has_noise_alone)
            lengths = self.joining.seconds
        return lengths / min(section.speeds)

    def too_long(self, longest: Utterance, seconds: float, budget: float) -> str:
        """The message for `seconds`, which include the `longest` recording, that do not fit into a micro-batch."""
        return (
            f"batch.seconds: {budget} s cannot hold the longest utterance: {seconds:.2f} s "
            f"(joined, with pauses, at speed {min(self.augmentation.section.speeds)}, as far as the recipe has these; "
            f"{longest.origin}: {longest.seconds:g} s); fix that line, raise the budget, or set data.longest_seconds"
        )

    def members(self, index: int, epoch: int) -> tuple[list[int], Sequence[float]]:
        """Indices of the examples that arranged item `index` consists of, and the pauses around them in seconds."""
        if self.joining is None:
            return [index], ()
        return self.joining.members(index, epoch), self.joining.pauses[index]

    def varied(self, utterances: Sequence[Utterance], pauses: Sequence[float], name: str, epoch: int) -> ReadSound:
        """Joins and augments utterances; random numbers depend only on seed, epoch and `name`."""
        samples, draw = self.joined(utterances, pauses, name, epoch)
        return self.augmented(self.augmentation.waveform(samples, draw), draw)

    def joined(
        self, utterances: Sequence[Utterance], pauses: Sequence[float], name: str, epoch: int
    ) -> tuple[audio.Samples, np.random.Generator]:
        """(S) joined utterances, and the random numbers of their augmentation."""
        pieces = [utterance.samples(self.sample_rate_hz) for utterance in utterances]
        draw = np.random.default_rng([self._seed, epoch, crc32(name.encode())])
        return self.augmentation.join(pieces, pauses, draw), draw

    def augmented(self, samples: audio.Samples, draw: np.random.Generator) -> ReadSound:
        """(S) samples with the augmentation of their features."""
        return ReadSound(samples, self.augmentation.features(self.front_end.num_frames(len(samples)), draw))


def padded(read: Sequence[ReadSound]) -> SoundBatch:
    """Pads sounds to a batch."""
    waveforms, lengths = map(torch.from_numpy, audio.padded([each.samples for each in read]))
    drawn = [each.augmentation for each in read if each.augmentation is not None]
    return SoundBatch(waveforms, lengths, stacked(drawn) if drawn else None)


def largest(budget: float, longest: float | None, section: AugmentationSection) -> tuple[int, float]:
    """(number, seconds) of the longest sounds that fill a budget; `longest` limits them before augmentation."""
    if longest is None:
        return 1, budget
    pauses = (section.joined_utterances + 1) * section.longest_pause_seconds
    longest = longest * section.joined_utterances + pauses * (section.pause_probability > 0)
    rows = math.ceil(budget * min(section.speeds) / longest)
    return rows, budget / rows


def say_rates(rates: Counter[int], wanted_hz: int) -> None:
    """Warns once if recordings have a lower or higher sample rate than the model, and what is missing or lost by it."""
    lower = Counter({rate: count for rate, count in rates.items() if rate < wanted_hz})
    if lower:
        warn(
            f"{min(lower)} samples a second in {lower.total():,} of {count_of(rates.total(), 'recording')}; after "
            f"resampling to features.sample_rate_hz ({wanted_hz}), there is no sound above {max(lower) // 2} Hz"
            + f"; a new model would save time with features.sample_rate_hz={max(lower)}"
            * (lower.total() == rates.total())
        )
    higher = Counter({rate: count for rate, count in rates.items() if rate > wanted_hz})
    if higher and wanted_hz < USUAL_RATE_HZ:
        warn(
            f"more than {wanted_hz} samples a second in {higher.total():,} of {count_of(rates.total(), 'recording')}; "
            f"sound above {wanted_hz // 2} Hz is lost; a new model with "
            f"features.sample_rate_hz={min(USUAL_RATE_HZ, min(higher))} would keep it"
        )
