"""How do tokens become vectors, and vectors scores of tokens? By tables with a row a token, which ranks may share out.

Under tensor parallelism a rank has some of the rows (Shoeybi et al. 2019, arXiv:1909.08053, section 3): it looks up
the tokens that are its own, and the sum over ranks has all; it scores its own tokens, and `layers/loss.py` needs no
more. Rows that do not divide evenly are dealt out as torch.chunk does: the last ranks have fewer.

Shape letters: D width, V vocabulary.
"""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional as F


class TokenEmbedding(nn.Embedding):
    """torch's embedding; its rows may be split."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        table = self.weight
        if not isinstance(table, DTensor):
            return super().forward(tokens)
        found = F.embedding(_on_all_ranks(tokens, table), table)
        assert isinstance(found, DTensor)  # a sum that nobody took yet
        return found.redistribute(placements=[Replicate()]).to_local()


def token_scores(x: Tensor, table: Tensor) -> Tensor:
    """(..., D) vectors, (V, D) rows -> (..., V): of a split table a DTensor, of which each rank has its tokens'."""
    if isinstance(table, DTensor):
        x = _on_all_ranks(x, table)  # its gradient is the sum over the ranks
    return F.linear(x, table)


def all_scores(scores: Tensor) -> Tensor:
    """(..., V) -> the same, of all tokens on every rank that has some: they must all call this."""
    return scores.full_tensor() if isinstance(scores, DTensor) else scores


def _on_all_ranks(x: Tensor, table: DTensor) -> DTensor:
    return DTensor.from_local(x, table.device_mesh, [Replicate()], run_check=False)
