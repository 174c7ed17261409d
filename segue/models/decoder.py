"""What do all decoder-only language models have in common? From tokens to losses and scores, at once or step by step.

The modules, their names and the order in which they are made are those of each architecture (`decoder_only.py`,
`gpt2.py`).

Shape letters: B rows, T tokens, p positions of a rank (`layers/residual.py`), D width, V vocabulary.
"""

from typing import Annotated, ClassVar, Protocol

from pydantic import Field
from torch import Tensor, nn

from segue.layers.causal_attention import CausalAttention, Documents, Memory, Rotation, separated
from segue.layers.dropout import Dropout
from segue.layers.feed_forward import FeedForward
from segue.layers.layer_norm import LayerNorm
from segue.layers.loss import total_cross_entropy
from segue.layers.residual import Portion, Residual, all_positions
from segue.layers.rms_norm import RMSNorm
from segue.layers.vocabulary import TokenEmbedding, token_scores
from segue.models.generating import Cache, Prompts

Size = Annotated[int, Field(gt=0, le=1 << 20)]
Count = Annotated[int, Field(gt=0, le=1000)]
Share = Annotated[float, Field(ge=0, lt=1)]

INITIAL = 0.02
"""Standard deviation of initial weights (GPT-2)."""


class Sizes(Protocol):
    """What a decoder needs to know of its section."""

    @property
    def width(self) -> int:
        """D."""
        ...

    @property
    def layers(self) -> int:
        """Their number."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads."""
        ...

    @property
    def key_value_heads(self) -> int | None:
        """Heads of keys and values; None: as many."""
        ...

    @property
    def size_of_head(self) -> int:
        """Width of a head."""
        ...

    @property
    def padded_vocabulary(self) -> int:
        """The number of rows of the embedding is a multiple of it."""
        ...


class Decoder(nn.Module):
    """Tokens to the loss of each next token, or to its scores."""

    forwards: ClassVar[tuple[str, ...]] = ("scores", "begin", "step")

    section: Sizes
    layers: nn.ModuleList
    norm: RMSNorm | LayerNorm
    dropout: Dropout
    residual: Residual

    def __init__(self, section: Sizes, vocabulary: int) -> None:
        """Makes the embedding; the other modules are those of the architecture."""
        super().__init__()
        self.section, self.vocabulary = section, vocabulary
        self.embedding = TokenEmbedding(self.num_rows, section.width)

    @property
    def num_rows(self) -> int:
        """Rows of embedding and output layer: one for each token, and those that pad them."""
        return -(-self.vocabulary // self.section.padded_vocabulary) * self.section.padded_vocabulary

    def dealt_out(self) -> dict[str, int]:
        """Nothing: vocabularies and positions may be split unevenly."""
        return {}

    def initialize(self) -> None:
        """Normal with std 0.02; what is added to the residual stream is less by sqrt(2 * layers) (GPT-2); biases 0."""
        into_residual = INITIAL / (2 * self.section.layers) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                is_last = name.endswith((".output", ".down"))
                nn.init.normal_(module.weight, std=into_residual if is_last else INITIAL)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T) tokens, (B, T) next tokens -> the sum of the losses, scalar float32; (B, T) losses, without gradient.

        `documents`, (B, T), are numbers that change where a document begins: attention does not cross it. None: each
        row is of one document.
        """
        portion = self.residual.portion(tokens)
        x = self._hidden(tokens, documents, portion).flatten(0, -2)
        total, each = total_cross_entropy(x, self.table(), targets.flatten(), self.vocabulary, portion)
        return total, each.view_as(targets)

    def scores(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """(B, T) tokens -> (B, T, V) scores of the next tokens; of a split vocabulary a DTensor."""
        portion = self.residual.portion(tokens)
        x = self._hidden(tokens, documents, portion)
        return self._scores(x if portion is None else all_positions(x, portion))

    def begin(self, tokens: Tensor, lengths: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        """(B, T) prompts, padded on the left, and their (B) lengths -> (B, V) scores of the next tokens, cache.

        The cache has room for `capacity` positions, those of the longest prompt included.
        """
        section = self.section
        shape = (section.layers, section.key_value_heads or section.heads, section.size_of_head)
        cache = Cache(Prompts(tokens.shape[1], lengths), capacity, *shape, self.embedding.weight)
        return self._extended(tokens, cache), cache

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """(B) newest tokens -> (B, V) scores of the next ones; extends the cache."""
        cache.make_room()
        return self._extended(tokens.unsqueeze(1), cache)

    def table(self) -> Tensor:
        """The weights of the output layer."""
        return self.embedding.weight

    def embedded(
        self, tokens: Tensor, documents: Tensor | None, portion: Portion | None
    ) -> tuple[Tensor, Rotation | None]:
        """(B, T) -> (B, T, D), or (p, D) of a portion: vectors with their positions, or how to rotate for them."""
        raise NotImplementedError

    def embedded_newest(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Rotation | None]:
        """The same for the newest tokens of a generation."""
        raise NotImplementedError

    def _extended(self, tokens: Tensor, cache: Cache) -> Tensor:
        """(B, T) newest tokens -> (B, V)."""
        mask = cache.mask(tokens.shape[1])
        x, by = self.embedded_newest(tokens, cache)
        for layer, memory in zip(self.layers, cache.memories, strict=True):
            assert isinstance(layer, DecoderLayer)
            x = layer.step(x, by, memory, cache.num_positions, mask)
        cache.num_positions += tokens.shape[1]
        return self._scores(self.norm(x[:, -1]))

    def _hidden(self, tokens: Tensor, documents: Tensor | None, portion: Portion | None) -> Tensor:
        """(B, T) -> (B, T, D), or (p, D) of a portion."""
        x, by = self.embedded(tokens, documents, portion)
        found = None if documents is None else separated(documents)
        x = self.dropout(x, portion)
        for layer in self.layers:
            x = layer(x, by, found, portion)
        return self.norm(x, portion)  # type: ignore[no-any-return]

    def _scores(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return token_scores(x, self.table())[..., : self.vocabulary]


class DecoderLayer(nn.Module):
    """Attention to earlier tokens, then a position-wise network, each added to its input."""

    forwards: ClassVar[tuple[str, ...]] = ("step",)

    attention_norm: RMSNorm | LayerNorm
    attention: CausalAttention
    feed_forward_norm: RMSNorm | LayerNorm
    feed_forward: FeedForward
    dropout: Dropout

    def forward(
        self, x: Tensor, by: Rotation | None, documents: Documents | None, portion: Portion | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); of a portion, (p, D) -> (p, D)."""
        found = self.attention(self.attention_norm(x, portion), by, documents, portion=portion)
        x = x + self.dropout(found, portion)
        found = self.feed_forward(self.feed_forward_norm(x, portion), portion)
        return x + self.dropout(found, portion)  # type: ignore[no-any-return]

    def step(self, x: Tensor, by: Rotation | None, memory: Memory, first: int, mask: Tensor | None) -> Tensor:
        """(B, T, D) newest positions -> (B, T, D); writes into the memory from position `first` on."""
        x = x + self.attention(self.attention_norm(x), by, None, memory, first, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))  # type: ignore[no-any-return]
