"""How do utterances become micro-batches? Checked, joined, augmented, padded: what loader processes do.

Shape letters: B batch, S samples.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from segue.data import audio
from segue.data.augmentation import Augmentation, FeatureAugmentation, Joining
from segue.data.examples import Utterance
from segue.data.features import LogMel
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.data.source import Finding, Lengths, ManifestSource
from segue.data.text import normalize
from segue.data.tokenizer import CharactersSection, Tokenizer
from segue.engine.loading import holding
from segue.errors import UserError, warn
from segue.layers.mask import output_frames
from segue.tasks.speech_recognition.model import FeatureTensors
from segue.tasks.speech_recognition.settings import FEW_SECONDS, Recipe

USUAL_RATE_HZ = 16000
"""There is little speech above its half."""


class SpeechBatch(NamedTuple):
    """A micro-batch of utterances, padded."""

    ids: list[str]
    texts: list[str]
    """Normalized references."""
    amount: float
    """Seconds of audio."""
    num_skipped: int
    waveforms: Tensor
    """(B, S)"""
    lengths: Tensor
    """(B) samples"""
    targets: Tensor
    """(sum of target lengths) token numbers, one utterance after the other"""
    target_lengths: Tensor
    """(B)"""
    augmentation: FeatureTensors | None


class ReadUtterance(NamedTuple):
    """An utterance, or several that are joined, as a model hears it."""

    id: str
    text: str
    samples: audio.Samples
    tokens: list[int]
    augmentation: FeatureAugmentation | None


SpeechSource = ManifestSource[Utterance, ReadUtterance, SpeechBatch]


class UtteranceReader:
    """What is special about utterances (`data/source.py`)."""

    noun = "utterances"
    unit = "seconds"
    examining = "checks the examples"
    few = FEW_SECONDS

    def __init__(self, section: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe, self.tokenizer = section, tokenizer
        self.objective = section.objective.build(len(tokenizer))
        self.front_end = LogMel(section.features)  # counts frames
        features = section.features
        self.augmentation = Augmentation(
            section.augmentation, features.sample_rate_hz, features.mel_bins, Path(section.data.root)
        )
        self.joining: Joining | None = None
        self.rates = Counter[int]()
        """How many recordings have which sample rate."""
        self._strange: dict[str, None] = {}  # characters outside the alphabet

    def examine(self, split: Split, examples: Iterable[Utterance]) -> Iterator[float | Finding]:
        """Every recording has to be there and long enough; a training text has to be one that can be learned."""
        longest = self.recipe.data.longest_seconds
        too_long = Finding(f"longer than data.longest_seconds ({longest or 0:g} s)", is_mistake=False)
        for utterance in examples:
            problem = None
            if split == "train":
                if longest is not None and utterance.seconds > longest:
                    yield too_long
                    continue
                text = normalize(utterance.text, self.recipe.text, utterance.language)
                self._strange.update(dict.fromkeys(self._unknown_characters(text)))
                problem = self._problem(utterance, text)
            try:
                if problem is not None:
                    raise UserError(f"{utterance.origin}: {problem}")
                self.rates[utterance.check_audio().sample_rate_hz] += 1
                yield utterance.seconds
            except UserError as mistake:
                yield Finding(str(mistake))

    def advice(self) -> list[str]:
        """What to write so that no training text is outside the alphabet."""
        if not self._strange:
            return []
        known, line = self.recipe.tokenizer, "tokenizer.alphabet=auto takes the characters of the training texts"
        if not isinstance(known, CharactersSection):
            return [line]
        alphabet = known.alphabet + "".join(sorted(self._strange))
        if len(alphabet) > 200 or not alphabet.isprintable():
            return [line]
        return [f"{line}; or in [tokenizer]:\nalphabet = {json.dumps(alphabet, ensure_ascii=False)}"]

    def arrange(self, split: Split, examples: Manifest[Utterance], lengths: Lengths) -> Lengths:
        """Of training utterances: joined, with pauses, at the slowest speed."""
        section = self.recipe.augmentation
        if split != "train":
            return lengths
        if section.joined_utterances > 1 or section.pause_probability:
            speakers = [utterance.speaker for utterance in examples]
            self.joining = Joining(lengths, speakers, section, self.recipe.seed)
            lengths = self.joining.seconds
        return lengths / min(section.speeds)

    def too_long(self, examples: Manifest[Utterance], lengths: Lengths, budget: float) -> str:
        """Names the longest recording."""
        longest = examples[int(examples.sizes.argmax())]
        return (
            f"batch.seconds: {budget} s cannot hold the longest utterance: {lengths.max():.2f} s "
            f"(joined, with pauses, at speed {min(self.recipe.augmentation.speeds)}, where the recipe says so; "
            f"{longest.origin}: {longest.seconds:g} s); mend that line, raise the budget, or set data.longest_seconds"
        )

    def read(self, split: Split, examples: Manifest[Utterance], index: int, epoch: int) -> ReadUtterance:
        """Reads one, or those that it is joined to in this epoch, and augments them for training."""
        is_training = split == "train"
        members, pauses = [index], ()
        if is_training and self.joining is not None:
            members, pauses = self.joining.members(index, epoch), self.joining.pauses[index]
        utterances = [examples[member] for member in members]
        name = "+".join(utterance.id for utterance in utterances) or f"noise {index}"
        holding(name)
        rate = self.recipe.features.sample_rate_hz
        pieces = [utterance.samples(rate) for utterance in utterances]
        text = " ".join(normalize(each.text, self.recipe.text, each.language) for each in utterances).strip()
        if not is_training:
            # References may hold what the model cannot write; that is an error of the model's, not of the data.
            tokens = [] if self.tokenizer.unknown_characters(text) else self.tokenizer.encode(text)
            return ReadUtterance(name, text, pieces[0], tokens, None)
        draw = np.random.default_rng([self.recipe.seed, epoch, crc32(name.encode())])
        samples = self.augmentation.waveform(self.augmentation.join(pieces, pauses, draw), draw)
        frames = self.front_end.num_frames(len(samples))
        drawn = self.augmentation.features(frames, draw)
        return ReadUtterance(name, text, samples, self.tokenizer.encode(text), drawn)

    def collate(self, read: Sequence[ReadUtterance], num_skipped: int) -> SpeechBatch:
        """Pads them."""
        waveforms, lengths = map(torch.from_numpy, audio.padded([each.samples for each in read]))
        drawn = [each.augmentation for each in read if each.augmentation is not None]
        return SpeechBatch(
            ids=[each.id for each in read],
            texts=[each.text for each in read],
            amount=int(lengths.sum()) / self.recipe.features.sample_rate_hz,
            num_skipped=num_skipped,
            waveforms=waveforms,
            lengths=lengths,
            targets=torch.tensor([token for each in read for token in each.tokens], dtype=torch.int64),
            target_lengths=torch.tensor([len(each.tokens) for each in read], dtype=torch.int64),
            augmentation=stacked(drawn) if drawn else None,
        )

    def amount(self, examples: Manifest[Utterance]) -> float:
        """Seconds."""
        return seconds_in(examples)

    def _unknown_characters(self, text: str) -> list[str]:
        """Of a training text, which others may be joined to."""
        is_joined = self.recipe.augmentation.joined_utterances > 1
        return self.tokenizer.unknown_characters(f"{text} " if is_joined else text)

    def _problem(self, utterance: Utterance, text: str) -> str | None:
        """Why CTC cannot learn from this utterance, whose normalized text is given."""
        if not text:
            return f"text: nothing is left of {utterance.text!r} after normalization"
        strange = self._unknown_characters(text)
        if strange:
            return f"text: outside the tokenizer's alphabet: {' '.join(map(repr, strange))}"
        tokens = self.tokenizer.encode(text)
        needed = self.objective.frames_needed(tokens)
        if self.recipe.augmentation.joined_utterances > 1:
            needed += 2  # a space to the next one, and a frame that rounding may take
        fastest = max(self.recipe.augmentation.speeds)
        samples = round(utterance.seconds / fastest * self.recipe.features.sample_rate_hz)
        frames = output_frames(self.front_end.num_frames(samples), self.recipe.model.subsampling)
        if frames < needed:
            return (
                f"text: CTC needs {needed} frames for {len(tokens)} tokens, but {utterance.seconds} s at speed "
                f"{fastest} give {frames}"
            )
        return None


def seconds_in(manifest: Manifest[Utterance]) -> float:
    """Of all its utterances."""
    return float(manifest.sizes.sum())


def stacked(drawn: Sequence[FeatureAugmentation]) -> FeatureTensors:
    """Of a batch."""
    return FeatureTensors(
        torch.tensor([each.warp for each in drawn], dtype=torch.float32),
        torch.from_numpy(np.stack([each.frequency_spans for each in drawn])),
        torch.from_numpy(np.stack([each.time_spans for each in drawn])),
    )


def say_rates(rates: Counter[int], wanted_hz: int) -> None:
    """Says, once, what is lost or not there because recordings have another rate than the model."""
    lower = {rate: count for rate, count in rates.items() if rate < wanted_hz}
    if lower:
        warn(
            f"{sum(lower.values())} of {rates.total()} recordings have {min(lower)} samples a second, and are "
            f"resampled to features.sample_rate_hz ({wanted_hz}): there is no sound above {max(lower) // 2} Hz in them"
        )
    higher = {rate: count for rate, count in rates.items() if rate > wanted_hz}
    if higher and wanted_hz < USUAL_RATE_HZ:
        warn(
            f"{sum(higher.values())} of {rates.total()} recordings have more than {wanted_hz} samples a second: their "
            f"sound above {wanted_hz // 2} Hz is lost; features.sample_rate_hz={min(USUAL_RATE_HZ, min(higher))} "
            "would keep it"
        )
