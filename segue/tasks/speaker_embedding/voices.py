"""How do recordings of known speakers become micro-batches? Random parts, sped up, augmented, in loader processes.

Shape letters: B batch, S samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segue.data import audio, sounds
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.data.sounds import ReadSound, SoundBatch, Sounds
from segue.data.source import Finding, Lengths, ManifestSource, Seen
from segue.engine.loading import holding
from segue.errors import UserError
from segue.tasks.speaker_embedding.settings import FEW_SECONDS, Recipe


class VoiceBatch(NamedTuple):
    """A micro-batch of recordings, padded."""

    ids: list[str]
    amount: float
    """Seconds."""
    num_skipped: int
    speakers: list[str]
    sounds: SoundBatch
    targets: Tensor
    """(B) class indices; -1 for speakers that are not in the training data"""


class ReadVoice(NamedTuple):
    """A recording as the model gets it."""

    id: str
    speaker: str
    target: int
    sound: ReadSound


VoiceSource = ManifestSource[Utterance, ReadVoice, VoiceBatch]


class VoiceReader:
    """Reads recordings of speakers, for a `ManifestSource` (`data/source.py`)."""

    noun = "recording"
    unit = "seconds"
    examining = "checks the examples"
    few = FEW_SECONDS

    def __init__(self, section: Recipe) -> None:
        assert section.speakers != "auto"
        self.recipe = section
        self.sounds = Sounds(
            section.features, section.augmentation, Path(section.data.root), section.seed, has_noise_alone=False
        )
        self._number_of = {speaker: number for number, speaker in enumerate(section.speakers)}

    def examine(self, split: Split, examples: Iterable[Utterance]) -> Iterator[float | Finding]:
        """Checks that each recording exists, is long enough and has a speaker, in training a known one."""
        longest = self.recipe.data.longest_seconds
        too_long = Finding(f"longer than data.longest_seconds ({longest or 0:g} s)", is_mistake=False)
        for each in examples:
            if each.speaker is None:
                yield Finding(f"{each.origin}: speaker: missing; it is what this task learns from")
            elif split == "train" and each.speaker not in self._number_of:
                yield Finding(f"{each.origin}: speaker: {each.speaker!r} is not among the recipe's speakers")
            elif split == "train" and longest is not None and each.seconds > longest:
                yield too_long
            else:
                try:
                    self.sounds.check(each)
                    yield each.seconds if split == "train" else min(each.seconds, self.recipe.crop_seconds[0])
                except UserError as error:
                    yield Finding(str(error))

    def seen(self, example: Utterance) -> Sequence[Seen]:
        """None: the model reads no text."""
        del example
        return ()

    def advice(self) -> Sequence[str]:
        """None: problems of recordings have no common remedy."""
        return ()

    def arrange(self, split: Split, examples: Manifest[Utterance], lengths: Lengths) -> Lengths:
        """Lengths of the longest parts of training recordings, joined, with pauses, at the slowest speed."""
        if split != "train":
            return lengths
        lengths = self.sounds.arrange((each.speaker for each in examples), lengths) / min(self.recipe.speaker_speeds)
        return np.minimum(lengths, self.recipe.crop_seconds[1])

    def too_long(self, examples: Manifest[Utterance], lengths: Lengths, budget: float) -> str:
        """The message for a budget that is too small for the longest part."""
        del examples
        return f"batch.seconds: {budget:g} s cannot hold the longest part: {lengths.max():.2f} s (crop_seconds)"

    def read(self, split: Split, examples: Manifest[Utterance], index: int, epoch: int) -> ReadVoice:
        """Reads a random part of a recording, or of several of one speaker, and augments it; else the middle part."""
        members, pauses = self.sounds.members(index, epoch) if split == "train" else ([index], ())
        utterances = [examples[member] for member in members]
        name, speaker = "+".join(each.id for each in utterances), utterances[0].speaker
        assert speaker is not None
        holding(name)
        rate, (shortest, longest) = self.sounds.sample_rate_hz, self.recipe.crop_seconds
        if split != "train":
            samples = utterances[0].samples(rate)
            size = round(shortest * rate)
            start = max(0, (len(samples) - size) // 2)
            return ReadVoice(name, speaker, -1, ReadSound(samples[start : start + size]))
        samples, draw = self.sounds.joined(utterances, pauses, name, epoch)
        speeds = self.recipe.speaker_speeds
        number = int(draw.integers(len(speeds)))
        size = round(draw.uniform(shortest, longest) * rate)
        # What augmentation.speeds may shorten is read, too.
        wanted = round(size * speeds[number] * max(self.sounds.augmentation.section.speeds))
        start = int(draw.integers(max(0, len(samples) - wanted) + 1))
        samples = audio.resample(samples[start : start + wanted], rate * speeds[number], rate)
        sound = self.sounds.augmented(self.sounds.augmentation.waveform(samples, draw)[:size], draw)
        return ReadVoice(name, speaker, self._number_of[speaker] * len(speeds) + number, sound)

    def collate(self, read: Sequence[ReadVoice], num_skipped: int) -> VoiceBatch:
        """Pads recordings to a batch."""
        batch = sounds.padded([each.sound for each in read])
        return VoiceBatch(
            ids=[each.id for each in read],
            amount=int(batch.lengths.sum()) / self.sounds.sample_rate_hz,
            num_skipped=num_skipped,
            speakers=[each.speaker for each in read],
            sounds=batch,
            targets=torch.tensor([each.target for each in read], dtype=torch.int64),
        )

    def amount(self, examples: Manifest[Utterance]) -> float:
        """Total duration in seconds."""
        return seconds_in(examples)


def seconds_in(manifest: Manifest[Utterance]) -> float:
    """Total duration of a manifest's recordings, in seconds."""
    return float(manifest.sizes.sum())
