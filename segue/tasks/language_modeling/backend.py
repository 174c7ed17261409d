"""How does a PyTorch language model run? Its steps for a generation, and the backend of a `LanguageModel`.

Shape letters: B rows, T tokens, N rows of a generation, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from segue.decoding.sampling import Scores, Tokens
from segue.layers.fused import fuse
from segue.models.decoder_only import DecoderOnly
from segue.models.generating import Cache
from segue.models.gpt2 import GPT2

Model = DecoderOnly | GPT2


class TorchSteps:
    """The model's steps, for `decoding/generation.py`."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._model, self._device = model, device
        self._cache: Cache | None = None

    @torch.inference_mode()
    def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> Scores:
        """Reads rows of tokens: (N, V) scores of each next token."""
        longest = max(map(len, rows))
        tokens = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        scores, self._cache = self._model.begin(tokens, lengths, capacity)
        return scores.float().cpu().numpy()

    @torch.inference_mode()
    def step(self, tokens: Tokens) -> Scores:
        """(N) newest tokens -> (N, V) scores of the next ones."""
        assert self._cache is not None
        return self._model.step(torch.from_numpy(tokens).to(self._device), self._cache).float().cpu().numpy()

    @torch.inference_mode()
    def select(self, rows: Tokens) -> None:
        """Keeps these rows, in this order."""
        assert self._cache is not None
        self._cache.select(torch.from_numpy(rows).to(self._device))


class TorchBackend:
    """The PyTorch backend of a `LanguageModel`."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model, self._device = model.eval().to(device), device
        fuse(self.model)

    def steps(self) -> TorchSteps:
        """A new generation."""
        return TorchSteps(self.model, self._device)

    @torch.inference_mode()
    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats."""
        _, each = self.model(*(torch.from_numpy(tokens).to(self._device) for tokens in (inputs, targets)))
        return each.cpu().numpy()  # type: ignore[no-any-return]
