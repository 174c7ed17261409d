"""How do labeled sounds and texts become micro-batches? Checked, augmented or tokenized, padded, in loader processes.

Shape letters: B batch, S samples or tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segue.data import batching, sounds
from segue.data.augmentation import AugmentationSection
from segue.data.examples import Labeled
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.data.sounds import ReadSound, SoundBatch, Sounds
from segue.data.source import Finding, Lengths, ManifestSource, Seen
from segue.data.text import normalize
from segue.data.tokenizer import Tokenizer
from segue.engine.loading import holding
from segue.errors import UserError
from segue.runtime.classifier import PADDING, problem
from segue.tasks.classification.settings import FEW_SECONDS, FEW_TEXTS, Recipe


class TextBatch(NamedTuple):
    """Padded texts."""

    tokens: Tensor
    """(B, S)"""
    lengths: Tensor
    """(B) tokens"""


class LabeledBatch(NamedTuple):
    """A micro-batch of labeled examples, padded."""

    ids: list[str]
    amount: float
    """Seconds or tokens."""
    num_skipped: int
    inputs: SoundBatch | TextBatch
    """Arguments of the model."""
    targets: Tensor
    """(B) class indices"""


class ReadExample(NamedTuple):
    """An example as the model gets it."""

    id: str
    label: str
    given: ReadSound | list[int]
    """Sound, or tokens."""


LabeledSource = ManifestSource[Labeled, ReadExample, LabeledBatch]


class SoundReader:
    """Reads labeled sounds, for a `ManifestSource` (`data/source.py`)."""

    noun = "sound"
    unit = "seconds"
    examining = "checks the examples"
    few = FEW_SECONDS

    def __init__(self, section: Recipe, classes: Sequence[str]) -> None:
        assert section.features is not None
        self.recipe, self.classes = section, classes
        augmentation = section.augmentation or AugmentationSection()
        root = Path(section.data.root)
        self.sounds = Sounds(section.features, augmentation, root, section.seed, has_noise_alone=False)

    def examine(self, split: Split, examples: Iterable[Labeled]) -> Iterator[float | Finding]:
        """Checks that each recording exists, is long enough and has a known class."""
        longest = self.recipe.data.longest_seconds
        too_long = Finding(f"longer than data.longest_seconds ({longest or 0:g} s)", is_mistake=False)
        for each in examples:
            mistake = problem(each, self.classes, is_of_sounds=True)
            if mistake is not None:
                yield Finding(mistake)
            elif split == "train" and longest is not None and each.size > longest:
                yield too_long
            else:
                assert each.sound is not None
                try:
                    self.sounds.check(each.sound)
                    yield each.size
                except UserError as error:
                    yield Finding(str(error))

    def seen(self, example: Labeled) -> Sequence[Seen]:
        """None: sounds have no texts."""
        del example
        return ()

    def advice(self) -> Sequence[str]:
        """None: problems of sounds have no common remedy."""
        return ()

    def arrange(self, split: Split, examples: Manifest[Labeled], lengths: Lengths) -> Lengths:
        """Lengths of training sounds with pauses, at the slowest speed."""
        return self.sounds.arrange((each.speaker for each in examples), lengths) if split == "train" else lengths

    def too_long(self, examples: Manifest[Labeled], lengths: Lengths, budget: float) -> str:
        """The message for a budget that is too small for the longest recording."""
        longest = examples[int(examples.sizes.argmax())].sound
        return self.sounds.too_long(longest, float(lengths.max()), budget)

    def read(self, split: Split, examples: Manifest[Labeled], index: int, epoch: int) -> ReadExample:
        """Reads a sound, and augments it for training."""
        [member], pauses = self.sounds.members(index, epoch) if split == "train" else ([index], ())
        example = examples[member]
        holding(example.id)
        if split == "train":
            return ReadExample(
                example.id, example.label, self.sounds.varied([example.sound], pauses, example.id, epoch)
            )
        return ReadExample(example.id, example.label, ReadSound(example.samples(self.sounds.sample_rate_hz)))

    def collate(self, read: Sequence[ReadExample], num_skipped: int) -> LabeledBatch:
        """Pads sounds to a batch."""
        batch = sounds.padded([each.given for each in read if isinstance(each.given, ReadSound)])
        seconds = int(batch.lengths.sum()) / self.sounds.sample_rate_hz
        return LabeledBatch([each.id for each in read], seconds, num_skipped, batch, _targets(read, self.classes))

    def amount(self, examples: Manifest[Labeled]) -> float:
        """Total duration in seconds."""
        return seconds_in(examples)


class TextReader:
    """Reads labeled texts, for a `ManifestSource` (`data/source.py`)."""

    noun = "text"
    unit = "tokens"
    examining = "counts tokens"
    few = FEW_TEXTS

    def __init__(self, section: Recipe, classes: Sequence[str], tokenizer: Tokenizer) -> None:
        self.recipe, self.classes, self.tokenizer = section, classes, tokenizer

    def examine(self, split: Split, examples: Iterable[Labeled]) -> Iterator[float | Finding]:
        """Counts the tokens of each text; checks that it is not empty and has a known class."""
        longest = self.recipe.data.longest_tokens
        too_long = Finding(f"longer than data.longest_tokens ({longest})", is_mistake=False)
        remaining = iter(examples)
        while block := list(islice(remaining, 10_000)):
            counts = self.tokenizer.num_tokens([normalize(each.text, self.recipe.rule) for each in block])
            for each, count in zip(block, counts, strict=True):
                mistake = problem(each, self.classes, is_of_sounds=False)
                if mistake is None and not count:
                    mistake = f"{each.origin}: text: nothing is left of {each.text!r} after normalization"
                if mistake is not None:
                    yield Finding(mistake)
                else:
                    yield too_long if split == "train" and count > longest else count

    def seen(self, example: Labeled) -> list[Seen]:
        """The text."""
        return [Seen("text", example.text, normalize(example.text, self.recipe.rule), self.tokenizer)]

    def advice(self) -> Sequence[str]:
        """None: problems of texts have no common remedy."""
        return ()

    def arrange(self, split: Split, examples: Manifest[Labeled], lengths: Lengths) -> Lengths:
        """Lengths unchanged: texts are not joined."""
        del split, examples
        return lengths

    def too_long(self, examples: Manifest[Labeled], lengths: Lengths, budget: float) -> str:
        """The message for a budget that is too small for the longest text."""
        return (
            f"batch.tokens: {budget:.0f} cannot hold the longest text: {lengths.max():.0f} tokens "
            f"({examples[int(lengths.argmax())].origin}); raise it, or lower data.longest_tokens"
        )

    def read(self, split: Split, examples: Manifest[Labeled], index: int, epoch: int) -> ReadExample:
        """Normalizes and tokenizes a text."""
        del split, epoch
        example = examples[index]
        holding(example.id)
        return ReadExample(example.id, example.label, self.tokenizer.encode(normalize(example.text, self.recipe.rule)))

    def collate(self, read: Sequence[ReadExample], num_skipped: int) -> LabeledBatch:
        """Pads texts to a batch."""
        rows = [each.given for each in read if isinstance(each.given, list)]
        batch = TextBatch(*map(torch.from_numpy, batching.padded(rows, PADDING)))
        return LabeledBatch(
            [each.id for each in read], float(batch.lengths.sum()), num_skipped, batch, _targets(read, self.classes)
        )

    def amount(self, examples: Manifest[Labeled]) -> float:
        """Number of texts."""
        return len(examples)


def _targets(read: Sequence[ReadExample], classes: Sequence[str]) -> Tensor:
    number_of = {label: number for number, label in enumerate(classes)}
    return torch.tensor([number_of[each.label] for each in read], dtype=torch.int64)


def seconds_in(manifest: Manifest[Labeled]) -> float:
    """Total duration of a manifest's sounds, in seconds."""
    return float(manifest.sizes.sum())
