"""How is text encoded without a decoder? By a Transformer encoder: tokens in, a vector for each token out.

Shape letters: B batch, S tokens, D width.
"""

from torch import Tensor, nn

from segue.layers.dropout import Dropout
from segue.layers.mask import length_mask
from segue.models.transformer import EncoderLayer, EncoderSection, embedded, initialize, norm


class TextEncoder(nn.Module):
    """A Transformer encoder with bidirectional attention; padding is masked."""

    def __init__(self, section: EncoderSection, vocabulary: int) -> None:
        super().__init__()
        section = section.widened()
        self.embedding = nn.Embedding(vocabulary, section.width)
        self.layers = nn.ModuleList(EncoderLayer(section) for _ in range(section.encoder_layers))
        self.norm = norm(section) if section.norm == "pre" else nn.Identity()
        self.dropout = Dropout(section.dropout)
        self.width = section.width
        """Size of the output vectors."""
        self._is_rotary = section.positions == "rotary"

    def initialize(self) -> None:
        """Initializes the weights, after the whole model is built."""
        initialize(self)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) tokens, (B) lengths -> (B, D, S), (B) unchanged lengths."""
        mask = length_mask(lengths, tokens.shape[1]).unsqueeze(1)  # (B, 1, 1, S)
        x = self.dropout(embedded(self.embedding, tokens, is_rotary=self._is_rotary))
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x).transpose(1, 2), lengths
