"""How do utterances become micro-batches? Checked, joined, augmented, padded, in loader processes.

Shape letters: B batch, S samples.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segue.data.examples import Utterance
from segue.data.features import FeatureTensors
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.data.sounds import ReadSound, Sounds, padded
from segue.data.source import Finding, Lengths, ManifestSource, Seen
from segue.data.text import normalize
from segue.data.tokenizer import CharactersSection, Tokenizer
from segue.engine.loading import holding
from segue.errors import UserError, count_of
from segue.layers.mask import output_frames
from segue.tasks.speech_recognition.settings import FEW_SECONDS, Recipe


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
    """(sum of target lengths) tokens of all utterances, concatenated"""
    target_lengths: Tensor
    """(B)"""
    augmentation: FeatureTensors | None


class ReadUtterance(NamedTuple):
    """An utterance, or several joined ones, as the model gets it."""

    id: str
    text: str
    sound: ReadSound
    tokens: list[int]


SpeechSource = ManifestSource[Utterance, ReadUtterance, SpeechBatch]


class UtteranceReader:
    """Reads utterances, for a `ManifestSource` (`data/source.py`)."""

    noun = "utterance"
    unit = "seconds"
    examining = "checks the examples"
    few = FEW_SECONDS

    def __init__(self, section: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe, self.tokenizer = section, tokenizer
        self.objective = section.objective.build(len(tokenizer))
        self.sounds = Sounds(section.features, section.augmentation, Path(section.data.root), section.seed)
        self._strange: dict[str, None] = {}  # characters outside the alphabet

    def examine(self, split: Split, examples: Iterable[Utterance]) -> Iterator[float | Finding]:
        """Checks that each recording exists and is long enough, and that CTC can learn each training text."""
        longest = self.recipe.data.longest_seconds
        too_long = Finding(f"longer than data.longest_seconds ({longest or 0:g} s)", is_mistake=False)
        for utterance in examples:
            problem = None
            if split == "train":
                if longest is not None and utterance.seconds > longest:
                    yield too_long
                    continue
                [(_, _, text, _)] = self.seen(utterance)
                self._strange.update(dict.fromkeys(self._unknown_characters(text)))
                problem = self._problem(utterance, text)
            try:
                if problem is not None:
                    raise UserError(f"{utterance.origin}: {problem}")
                self.sounds.check(utterance)
                yield utterance.seconds
            except UserError as mistake:
                yield Finding(str(mistake))

    def seen(self, example: Utterance) -> list[Seen]:
        """The transcript."""
        text = normalize(example.text, self.recipe.text, example.language)
        return [Seen("text", example.text, text, self.tokenizer)]

    def advice(self) -> list[str]:
        """Recipe lines that include the characters of all training texts in the alphabet."""
        if not self._strange:
            return []
        known, line = self.recipe.tokenizer, "tokenizer.alphabet=auto takes the characters of the training texts"
        if self.recipe.start.model is not None and self.recipe.start.tokenizer == "keep":  # whatever the recipe says
            return [f"the base's tokenizer is kept; start.tokenizer=recipe {line}"]
        if not isinstance(known, CharactersSection):
            return [line]
        alphabet = known.alphabet + "".join(sorted(self._strange))
        if len(alphabet) > 200 or not alphabet.isprintable():
            return [line]
        return [f"{line}; or in [tokenizer]:\nalphabet = {json.dumps(alphabet, ensure_ascii=False)}"]

    def arrange(self, split: Split, examples: Manifest[Utterance], lengths: Lengths) -> Lengths:
        """Lengths of training utterances as joined, with pauses, at the slowest speed."""
        return self.sounds.arrange((each.speaker for each in examples), lengths) if split == "train" else lengths

    def too_long(self, examples: Manifest[Utterance], lengths: Lengths, budget: float) -> str:
        """The message for a budget that is too small for the longest recording."""
        return self.sounds.too_long(examples[int(examples.sizes.argmax())], float(lengths.max()), budget)

    def read(self, split: Split, examples: Manifest[Utterance], index: int, epoch: int) -> ReadUtterance:
        """Reads an utterance, or all those joined in this epoch, and augments them for training."""
        members, pauses = self.sounds.members(index, epoch) if split == "train" else ([index], ())
        utterances = [examples[member] for member in members]
        name = "+".join(utterance.id for utterance in utterances) or f"noise {index}"
        holding(name)
        text = " ".join(normalize(each.text, self.recipe.text, each.language) for each in utterances).strip()
        if split == "train":
            sound = self.sounds.varied(utterances, pauses, name, epoch)
            return ReadUtterance(name, text, sound, self.tokenizer.encode(text))
        # References may contain characters that the model cannot output; these count as errors of the model.
        tokens = [] if self.tokenizer.unknown_characters(text) else self.tokenizer.encode(text)
        return ReadUtterance(name, text, ReadSound(utterances[0].samples(self.sounds.sample_rate_hz)), tokens)

    def collate(self, read: Sequence[ReadUtterance], num_skipped: int) -> SpeechBatch:
        """Pads utterances to a batch."""
        sounds = padded([each.sound for each in read])
        return SpeechBatch(
            ids=[each.id for each in read],
            texts=[each.text for each in read],
            amount=int(sounds.lengths.sum()) / self.sounds.sample_rate_hz,
            num_skipped=num_skipped,
            waveforms=sounds.waveforms,
            lengths=sounds.lengths,
            targets=torch.tensor([token for each in read for token in each.tokens], dtype=torch.int64),
            target_lengths=torch.tensor([len(each.tokens) for each in read], dtype=torch.int64),
            augmentation=sounds.augmentation,
        )

    def amount(self, examples: Manifest[Utterance]) -> float:
        """Total duration in seconds."""
        return seconds_in(examples)

    def _unknown_characters(self, text: str) -> list[str]:
        """Unknown characters of a training text, including the space if utterances are joined."""
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
            needed += 2  # a space before the next utterance, and a frame that may be lost by rounding
        fastest = max(self.recipe.augmentation.speeds)
        samples = round(utterance.seconds / fastest * self.recipe.features.sample_rate_hz)
        frames = output_frames(self.sounds.front_end.num_frames(samples), self.recipe.model.subsampling)
        if frames < needed:
            return (
                f"text: CTC needs {count_of(needed, 'frame')} for {count_of(len(tokens), 'token')}, but "
                f"{utterance.seconds} s at speed {fastest} give {frames}"
            )
        return None


def seconds_in(manifest: Manifest[Utterance]) -> float:
    """Total duration of a manifest's utterances, in seconds."""
    return float(manifest.sizes.sum())
