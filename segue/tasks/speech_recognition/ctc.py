"""How does CTC train a recognizer and decode its output? Head, loss, alignability, greedy search.

Graves et al. 2006, "Connectionist Temporal Classification". Shape letters: B batch, T frames, D width, V vocabulary
(the blank included, last), U target tokens.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segue.decoding.ctc import greedy
from segue.decoding.emissions import Emission
from segue.recipe import Section


class CTCSection(Section):
    """Connectionist temporal classification: a token or a blank per frame."""

    kind: Literal["ctc"]
    """Connectionist temporal classification."""

    def build(self, num_tokens: int) -> "CTC":
        """The objective for a vocabulary of `num_tokens` tokens, without blank."""
        return CTC(num_tokens)


class CTCHead(nn.Module):
    """One linear layer over frames."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.output = nn.Conv1d(width, vocabulary, kernel_size=1)

    def initialize(self) -> None:
        """Initializes the weights as OpenSeq2Seq did."""
        nn.init.xavier_normal_(self.output.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, D, T) -> (B, T, V) log-probabilities in float32."""
        scores: Tensor = self.output(encoded)  # (B, D, T) -> (B, V, T)
        return scores.transpose(1, 2).float().log_softmax(dim=-1)


class CTC:
    """The CTC objective: its head, its loss, which targets it can align, and decoding."""

    def __init__(self, num_tokens: int) -> None:
        self.blank = num_tokens

    def build_head(self, width: int) -> CTCHead:
        """The layer that scores an encoder's frames."""
        return CTCHead(width, self.blank + 1)

    @staticmethod
    def frames_needed(tokens: Sequence[int]) -> int:
        """The smallest number of frames that these tokens can be aligned to: equal neighbors need a blank between."""
        return len(tokens) + sum(a == b for a, b in pairwise(tokens))

    def recognize(self, log_probs: NDArray[np.float32]) -> list[Emission]:
        """(T, V) of one utterance -> its tokens, by greedy search."""
        return greedy(log_probs, self.blank)

    def loss(
        self, log_probs: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor, *, zero_infinity: bool = False
    ) -> Tensor:
        """(B, T, V), (B), (sum of U), (B) -> (B) negative log-likelihoods (Graves et al. 2006, equation 8).

        With `zero_infinity` the loss of a target that cannot be aligned is 0 instead of infinite.
        """
        # torch does not implement CTC on MPS.
        device = torch.device("cpu") if log_probs.device.type == "mps" else log_probs.device
        return F.ctc_loss(
            log_probs.transpose(0, 1).to(device),  # (B, T, V) -> (T, B, V)
            targets.to(device),
            frames.to(device),
            target_lengths.to(device),
            blank=self.blank,
            reduction="none",
            zero_infinity=zero_infinity,
        ).to(log_probs.device)
