"""What is GPT-2? A decoder with learned positions, LayerNorm and biases (Radford et al. 2019).

Hugging Face's GPT2LMHeadModel computes the same with the same weights; Megatron-LM's models of 2019 have this shape.

Shape letters: B rows, T tokens, p positions of a rank (`layers/residual.py`), D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from segue.layers.causal_attention import CausalAttention, Documents, Memory, separated
from segue.layers.dropout import Dropout
from segue.layers.feed_forward import FeedForward
from segue.layers.layer_norm import LayerNorm
from segue.layers.loss import total_cross_entropy
from segue.layers.residual import Portion, Residual, all_positions
from segue.layers.splits import Split
from segue.layers.vocabulary import TokenEmbedding, token_scores
from segue.models.decoder_only import Count, Share, Size
from segue.models.generating import Cache, Prompts
from segue.recipe import Section


class GPT2Section(Section):
    """GPT-2's architecture."""

    kind: Literal["gpt2"]
    """GPT-2."""
    context: Size
    """Longest sequence, in tokens; training windows have this length."""
    width: Size
    """Size of a token's vector between layers; the position-wise networks have four times as many hidden units."""
    layers: Count
    """Layers."""
    heads: Count
    """Attention heads."""
    padded_vocabulary: Annotated[int, Field(gt=0)] = 1
    """The number of rows of the embedding, which is also the output layer, is rounded up to a multiple of this: 64 or
    128 for fast products on GPUs, times `engine.tensor_parallel`. Rows without a token get no probability."""
    dropout: Share = 0.1
    """Dropout of embeddings and of the output of each sublayer."""
    attention_dropout: Share = 0.1
    """Dropout of attention weights."""
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the variance in LayerNorm."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> "GPT2Section":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @property
    def key_value_heads(self) -> int:
        """Each head has its own keys and values."""
        return self.heads

    @property
    def size_of_head(self) -> int:
        """The heads divide the width."""
        return self.width // self.heads

    def build(self, vocabulary: int) -> "GPT2":
        """The model for so many tokens."""
        return GPT2(self, vocabulary)


class GPT2(nn.Module):
    """Tokens to the loss of each next token, or to its scores."""

    splits: ClassVar[Mapping[str, Split]] = {"embedding": "vocabulary", "residual": "positions"}
    forwards: ClassVar[tuple[str, ...]] = ("scores", "begin", "step")

    def __init__(self, section: GPT2Section, vocabulary: int) -> None:
        super().__init__()
        self.section, self.vocabulary = section, vocabulary
        rows = -(-vocabulary // section.padded_vocabulary) * section.padded_vocabulary
        self.embedding = TokenEmbedding(rows, section.width)
        self.positions = nn.Embedding(section.context, section.width)
        self.layers = nn.ModuleList(GPT2Layer(section) for _ in range(section.layers))
        self.norm = LayerNorm(section.width, section.norm_epsilon)
        self.dropout = Dropout(section.dropout)
        self.residual = Residual()

    def dealt_out(self) -> dict[str, int]:
        """Nothing: vocabularies and positions may be split unevenly."""
        return {}

    def initialize(self) -> None:
        """Normal with std 0.02; what is added to the residual stream is less by sqrt(2 * layers); biases 0."""
        into_residual = 0.02 / (2 * self.section.layers) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                is_last = name.endswith((".output", ".down"))
                nn.init.normal_(module.weight, std=into_residual if is_last else 0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T) tokens, (B, T) next tokens -> the sum of the losses, scalar float32; (B, T) losses, without gradient.

        `documents`, (B, T), are numbers that change where a document begins: attention does not cross it, and positions
        begin anew. None: each row is of one document.
        """
        portion = self.residual.portion(tokens)
        x = self._hidden(tokens, documents, portion).flatten(0, -2)
        total, each = total_cross_entropy(x, self.embedding.weight, targets.flatten(), self.vocabulary, portion)
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
        shape = (section.layers, section.heads, section.width // section.heads)
        cache = Cache(Prompts(tokens.shape[1], lengths), capacity, *shape, self.embedding.weight)
        return self._extended(tokens, cache), cache

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """(B) newest tokens -> (B, V) scores of the next ones; extends the cache."""
        return self._extended(tokens.unsqueeze(1), cache)

    def _extended(self, tokens: Tensor, cache: Cache) -> Tensor:
        mask = cache.mask(tokens.shape[1])
        x = self.embedding(tokens) + self.positions(cache.positions(tokens.shape[1]))
        for layer, memory in zip(self.layers, cache.memories, strict=True):
            assert isinstance(layer, GPT2Layer)
            x = layer.step(x, memory, cache.num_positions, mask)
        cache.num_positions += tokens.shape[1]
        return self._scores(self.norm(x[:, -1]))

    def _hidden(self, tokens: Tensor, documents: Tensor | None, portion: Portion | None) -> Tensor:
        """(B, T) -> (B, T, D), or (p, D) of a portion."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        if documents is not None:
            begins = torch.cat([torch.ones_like(documents[:, :1]), documents.diff(dim=1)], dim=1) != 0
            places = places - (places * begins).cummax(dim=1).values  # (B, T)
        found = None if documents is None else separated(documents)
        if portion is None:
            of_places = self.positions(places)
        else:
            own = portion.own(places.expand(tokens.shape).flatten())
            of_places = F.embedding(own, portion.shared(self.positions.weight))
        x = self.dropout(self.embedding(tokens, portion) + of_places, portion)
        for layer in self.layers:
            x = layer(x, found, portion)
        return self.norm(x, portion)  # type: ignore[no-any-return]

    def table(self) -> Tensor:
        """The weights of the output layer."""
        return self.embedding.weight

    def _scores(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return token_scores(x, self.embedding.weight)[..., : self.vocabulary]


class GPT2Layer(nn.Module):
    """Attention to earlier tokens, then a position-wise network, each added to its input."""

    forwards: ClassVar[tuple[str, ...]] = ("step",)

    def __init__(self, section: GPT2Section) -> None:
        super().__init__()
        width, heads = section.width, section.heads
        self.attention_norm = LayerNorm(width, section.norm_epsilon)
        self.attention = CausalAttention(
            width, heads, heads, width // heads, dropout=section.attention_dropout, has_biases=True
        )
        self.feed_forward_norm = LayerNorm(width, section.norm_epsilon)
        self.feed_forward = FeedForward(width, 4 * width, "gelu_tanh", dropout=0.0)
        self.dropout = Dropout(section.dropout)

    def forward(self, x: Tensor, documents: Documents | None, portion: Portion | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); of a portion, (p, D) -> (p, D)."""
        found = self.attention(self.attention_norm(x, portion), None, documents, portion=portion)
        x = x + self.dropout(found, portion)
        found = self.feed_forward(self.feed_forward_norm(x, portion), portion)
        return x + self.dropout(found, portion)  # type: ignore[no-any-return]

    def step(self, x: Tensor, memory: Memory, first: int, mask: Tensor | None) -> Tensor:
        """(B, T, D) newest positions -> (B, T, D); writes into the memory from position `first` on."""
        x = x + self.attention(self.attention_norm(x), None, None, memory, first, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))  # type: ignore[no-any-return]
