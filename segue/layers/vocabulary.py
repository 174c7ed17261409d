"""How are tokens embedded, and vectors scored by token? By tables with a row per token, which ranks may share.

Under tensor parallelism a rank has some of the rows (Shoeybi et al. 2019, arXiv:1909.08053, section 3): it looks up
only its own tokens, and a sum over ranks gives all embeddings; it computes the scores of its own tokens, which suffice
for `layers/loss.py`. Uneven splits are as in torch.chunk: the last ranks have fewer rows.

Shape letters: D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional as F

from segue.layers.residual import Portion, own_part, own_sum
from segue.layers.sums import summed


class TokenEmbedding(nn.Embedding):
    """torch's embedding, whose rows may be split over ranks."""

    def forward(self, tokens: Tensor, portion: Portion | None = None) -> Tensor:
        """(...) -> (..., D); with a `portion` of the residual stream, (B, T) -> (p, D)."""
        table = self.weight
        if not isinstance(table, DTensor):
            if portion is not None:
                return F.embedding(portion.own(tokens.flatten()), portion.shared(table))
            return super().forward(tokens)
        mesh, own = table.device_mesh, own_part(table)
        places = tokens - mesh.get_local_rank() * -(-table.shape[0] // mesh.size())  # as torch.chunk
        is_own = (places >= 0) & (places < len(own))
        found = F.embedding(places.clamp(0, len(own) - 1), own)
        # Not by DTensor's own rule, whose gradient of the table comes whole on every rank.
        found = found.masked_fill(~is_own.unsqueeze(-1), 0.0)
        return summed(found, mesh.get_group()) if portion is None else own_sum(found, portion)


class TokenBias(nn.Module):
    """A number per token that is added to its score: (V, 1), so that its rows are split as those of a table."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary, 1))

    def reset_parameters(self) -> None:
        """Zeros."""
        nn.init.zeros_(self.weight)


def token_scores(x: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., D) vectors, (V, D) table, (V, 1) bias -> (..., V) scores; of split tables a DTensor, split by tokens."""
    if isinstance(table, DTensor):
        x = _on_all_ranks(x, table)  # its gradient is the sum over the ranks
    scores = F.linear(x, table)
    return scores if bias is None else scores + bias.squeeze(1)


def all_scores(scores: Tensor) -> Tensor:
    """(..., V) -> (..., V): gathers the scores of all tokens on every rank that has a part. Collective."""
    return scores.full_tensor() if isinstance(scores, DTensor) else scores


def _on_all_ranks(x: Tensor, table: DTensor) -> DTensor:
    return DTensor.from_local(x, table.device_mesh, [Replicate()], run_check=False)
