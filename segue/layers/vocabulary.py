"""How are tokens embedded, and vectors scored by token? By tables with a row per token, which ranks may share.

Under tensor parallelism a rank has some of the rows (Shoeybi et al. 2019, arXiv:1909.08053, section 3): it looks up
only its own tokens, and a sum over ranks gives all embeddings; it computes the scores of its own tokens, which suffice
for `layers/loss.py`. Uneven splits are as in torch.chunk: the last ranks have fewer rows.

Shape letters: D width, V vocabulary.
"""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional as F


class TokenEmbedding(nn.Embedding):
    """torch's embedding, whose rows may be split over ranks."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        table = self.weight
        if not isinstance(table, DTensor):
            return super().forward(tokens)
        found = F.embedding(_on_all_ranks(tokens, table), table)
        assert isinstance(found, DTensor)  # a pending sum over ranks (Partial)
        return found.redistribute(placements=[Replicate()]).to_local()


def token_scores(x: Tensor, table: Tensor) -> Tensor:
    """(..., D) vectors, (V, D) table -> (..., V) scores; for a split table a DTensor that is split by tokens."""
    if isinstance(table, DTensor):
        x = _on_all_ranks(x, table)  # its gradient is the sum over the ranks
    return F.linear(x, table)


def all_scores(scores: Tensor) -> Tensor:
    """(..., V) -> (..., V): gathers the scores of all tokens on every rank that has a part. Collective."""
    return scores.full_tensor() if isinstance(scores, DTensor) else scores


def _on_all_ranks(x: Tensor, table: DTensor) -> DTensor:
    return DTensor.from_local(x, table.device_mesh, [Replicate()], run_check=False)
