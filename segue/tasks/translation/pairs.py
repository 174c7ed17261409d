"""How do text pairs become micro-batches? Counted, tokenized, padded, in loader processes.

Shape letters: B batch, S source tokens, T target tokens, P real target tokens of a batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from segue.data import batching
from segue.data.examples import Pair
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.data.source import Finding, Lengths, ManifestSource, Seen
from segue.data.subwords import RandomCuts
from segue.data.text import normalize
from segue.data.vocabularies import PADDING, Vocabularies
from segue.engine.loading import holding
from segue.layers.mask import real_places
from segue.tasks.translation.settings import FEW_PAIRS, Recipe


class PairBatch(NamedTuple):
    """A micro-batch of pairs, padded."""

    ids: list[str]
    sources: list[str]
    target_languages: list[str | None]
    references: list[tuple[str, ...]]
    """Reference translations of each pair, normalized."""
    amount: float
    """Target tokens."""
    num_skipped: int
    source: Tensor
    """(B, S)"""
    source_lengths: Tensor
    """(B)"""
    target: Tensor
    """(B, T + 1): begin token, target tokens, end token"""
    target_lengths: Tensor
    """(B) number of predicted tokens: target tokens and end token"""
    places: Tensor
    """(P) indices of the predicted tokens in the flattened (B, T) targets"""


class ReadPair(NamedTuple):
    """A pair in tokens, as the model gets it."""

    pair: Pair
    texts: tuple[str, str]
    """Source and target, normalized."""
    source: list[int]
    target: list[int]


PairSource = ManifestSource[Pair, ReadPair, PairBatch]


class PairReader:
    """Reads text pairs, for a `ManifestSource` (`data/source.py`)."""

    noun = "pair"
    unit = "tokens"
    examining = "counts tokens"
    few = FEW_PAIRS

    def __init__(self, section: Recipe, vocabularies: Vocabularies) -> None:
        self.recipe, self.vocabularies = section, vocabularies
        source, target = vocabularies.source, vocabularies.target
        cuts = RandomCuts(target, section.subwords, section.seed)
        self._cuts = cuts if source is target else RandomCuts(source, section.subwords, section.seed), cuts

    def examine(self, split: Split, examples: Iterable[Pair]) -> Iterator[float | Finding]:
        """The longer side of each pair, in tokens."""
        vocabularies, longest = self.vocabularies, self.recipe.data.longest_tokens
        too_long = Finding(f"longer than data.longest_tokens ({longest})", is_mistake=False)
        pairs = iter(examples)
        while block := list(islice(pairs, 10_000)):
            texts = [self._normalized(pair) for pair in block]
            sources = vocabularies.source.num_tokens([source for source, _ in texts])
            targets = vocabularies.target.num_tokens([target for _, target in texts])
            for pair, both, source, target in zip(block, texts, sources, targets, strict=True):
                problem = vocabularies.problem(pair, *both)
                if problem is not None:
                    yield Finding(f"{pair.origin}: {problem}")
                elif split == "train" and max(source, target) > longest:
                    yield too_long
                else:
                    # One more on each side for the end token, and one for a language token before the source.
                    yield max(source + 1 + (len(vocabularies.languages) > 1), target + 1)

    def seen(self, example: Pair) -> list[Seen]:
        """Both sides."""
        source, target = self._normalized(example)
        sides = self.vocabularies
        return [
            Seen("source", example.source, source, sides.source),
            Seen("target", example.target, target, sides.target),
        ]

    def advice(self) -> Sequence[str]:
        """None: problems of pairs have no common remedy."""
        return ()

    def arrange(self, split: Split, examples: Manifest[Pair], lengths: Lengths) -> Lengths:
        """Lengths unchanged: pairs are not joined."""
        del split, examples
        return lengths

    def too_long(self, examples: Manifest[Pair], lengths: Lengths, budget: float) -> str:
        """The message for a budget that is too small for the longest pair."""
        return (
            f"batch.tokens: {budget:.0f} cannot hold the longest pair: {lengths.max():.0f} tokens "
            f"({examples[int(lengths.argmax())].origin}); raise it, or lower data.longest_tokens"
        )

    def read(self, split: Split, examples: Manifest[Pair], index: int, epoch: int) -> ReadPair:
        """Normalizes and tokenizes a pair, with random segmentation in training if the recipe has it."""
        pair = examples[index]
        holding(pair.id)
        texts, vocabularies = self._normalized(pair), self.vocabularies
        if split == "train" and self._cuts[1].is_random:
            draw = np.random.default_rng([self.recipe.seed, epoch, crc32(pair.id.encode())])
            source, target = (cuts.encode(text, draw) for cuts, text in zip(self._cuts, texts, strict=True))
        else:
            source, target = vocabularies.source.encode(texts[0]), vocabularies.target.encode(texts[1])
        return ReadPair(pair, texts, vocabularies.source_tokens(source, pair.target_language), target)

    def collate(self, read: Sequence[ReadPair], num_skipped: int) -> PairBatch:
        """Pads pairs to a batch."""
        vocabularies = self.vocabularies
        source, source_lengths = padded([each.source for each in read], vocabularies.source.special[PADDING])
        targets = [[vocabularies.begin, *each.target, vocabularies.end] for each in read]
        target, written = padded(targets, vocabularies.padding)
        target_lengths = written - 1
        return PairBatch(
            ids=[each.pair.id for each in read],
            sources=[each.texts[0] for each in read],
            target_languages=[each.pair.target_language for each in read],
            references=[
                (
                    each.texts[1],
                    *(normalize(text, self.recipe.text, pair.target_language) for text in pair.alternatives),
                )
                for each in read
                for pair in (each.pair,)
            ],
            amount=float(target_lengths.sum()),
            num_skipped=num_skipped,
            source=source,
            source_lengths=source_lengths,
            target=target,
            target_lengths=target_lengths,
            places=real_places(target_lengths, target.shape[1] - 1),
        )

    def amount(self, examples: Manifest[Pair]) -> float:
        """Number of pairs."""
        return len(examples)

    def _normalized(self, pair: Pair) -> tuple[str, str]:
        # The source language is not used: it is unknown when translating later.
        rule = self.recipe.text
        return normalize(pair.source, rule), normalize(pair.target, rule, pair.target_language)


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """(B, longest) padded tokens, (B) lengths."""
    tokens, lengths = map(torch.from_numpy, batching.padded(rows, padding))
    return tokens, lengths
