"""How does a Transformer translate? Its decoder steps for the search, and the backend of a `Translator`.

Shape letters: B batch, H heads, S source tokens, T target tokens, N rows of a search, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.data.vocabularies import END, PADDING, Vocabularies
from segue.decoding.autoregressive import Steps, beam_search
from segue.decoding.search import Hypothesis, SearchSection
from segue.layers.attention import Attention
from segue.layers.vocabulary import all_scores
from segue.models.transformer import Transformer
from segue.tasks.translation.pairs import padded


def search(
    steps: Steps,
    vocabularies: Vocabularies,
    lengths: Tensor,
    section: SearchSection,
    *,
    num_best: int = 1,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """The `num_best` best outputs for each of the B sources that `steps` has encoded; `lengths` (B) are theirs.

    `prefixes` are tokens that the outputs must begin with.
    """
    longest = (lengths * section.longest_factor + section.longest_extra).long().tolist()
    if prefixes is not None:
        longest = [limit + len(prefix) for limit, prefix in zip(longest, prefixes, strict=True)]
    special = vocabularies.target.special
    with torch.inference_mode():
        return beam_search(
            steps,
            longest,
            begin=vocabularies.begin,
            end=vocabularies.end,
            beams=max(section.beams, num_best),
            alpha=section.alpha,
            num_best=num_best,
            forbidden=[number for token, number in special.items() if token != END],
            prefixes=prefixes,
            no_repeat_ngram=section.no_repeat_ngram,
            device=lengths.device,
        )


class TorchSteps:
    """The model's decoder steps, for `beam_search`."""

    def __init__(
        self, model: Transformer, source: Tensor, lengths: Tensor, any_rank: Callable[[bool], bool] | None = None
    ) -> None:
        """Encodes (B, S) source tokens of (B) lengths. `any_rank` as in `engine/task.py`."""
        self._model, self._any_rank = model, any_rank
        with self._without_gradients():
            self._cache = model.begin(source, lengths)

    def step(self, tokens: Tensor) -> Tensor:
        """(N) last tokens -> (N, V) scores of the next tokens."""
        if self._any_rank is not None:
            self._any_rank(True)
        with self._without_gradients():
            return all_scores(self._model.step(tokens, self._cache))

    def finish(self) -> None:
        """Call after the last step: if ranks share the model, takes part in the steps that other ranks still need."""
        if self._any_rank is None:
            return
        first = torch.zeros(1, dtype=torch.int64, device=self._cache.mask.device)
        self._cache.select(first, first)
        while self._any_rank(False):
            with self._without_gradients():
                all_scores(self._model.step(first, self._cache))

    @contextmanager
    def _without_gradients(self) -> Iterator[None]:
        # Weights that FSDP gathers in inference mode could not be used for training afterward.
        with torch.inference_mode(self._any_rank is None), torch.no_grad():
            yield

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        """Keeps these rows, in this order, and only these sentences (None: all)."""
        self._cache.select(rows, sentences)


class TorchBackend:
    """The PyTorch backend of a `Translator`."""

    def __init__(self, model: Transformer, vocabularies: Vocabularies, device: torch.device) -> None:
        self.model, self._vocabularies, self._device = model.eval().to(device), vocabularies, device

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `num_best` best outputs for each row of source tokens."""
        padding = self._vocabularies.source.special[PADDING]
        source, lengths = (tensor.to(self._device) for tensor in padded(rows, padding))
        steps = TorchSteps(self.model, source, lengths)
        return search(steps, self._vocabularies, lengths, section, num_best=num_best, prefixes=prefixes)

    @torch.inference_mode()
    def attention(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        """(heads of all layers, T, S): cross-attention weights, collected by a forward hook."""
        seen: list[Tensor] = []

        def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, Attention)
            del output
            seen.append(module.weights(*inputs)[0])  # (B = 1, H, T, S) -> (H, T, S)

        handles = [layer.cross_attention.register_forward_hook(watch) for layer in self.model.decoder_layers()]
        written = [self._vocabularies.begin, *target]
        try:
            last = [len(written) - 1]  # scores are not needed: one position suffices
            inputs = ([source], [len(source)], [written], last)
            self.model(*(torch.tensor(each, device=self._device) for each in inputs))
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat(seen).float().cpu().numpy()
