"""How is LayerNorm computed of a part of the residual stream? As torch's, with gradients summed over ranks.

Ba et al. 2016 (arXiv:1607.06450).

Shape letters: p positions of a rank, D width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from segue.layers.residual import Portion


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm."""

    def forward(self, x: Tensor, portion: Portion | None = None) -> Tensor:
        """(..., D) -> (..., D); of a `portion`, (p, D) -> (p, D)."""
        if portion is None:
            return super().forward(x)
        weight, bias = portion.shared(self.weight), portion.shared(self.bias)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
