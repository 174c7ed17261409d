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

from segue.layers.causal_attention import CausalAttention, Rotation
from segue.layers.dropout import Dropout
from segue.layers.feed_forward import FeedForward
from segue.layers.layer_norm import LayerNorm
from segue.layers.residual import Portion, Residual
from segue.layers.splits import Split
from segue.models.decoder import Count, Decoder, DecoderLayer, Share, Size
from segue.models.generating import Cache
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


class GPT2(Decoder):
    """Tokens to the loss of each next token, or to its scores."""

    splits: ClassVar[Mapping[str, Split]] = {"embedding": "vocabulary", "residual": "positions"}

    section: GPT2Section
    norm: LayerNorm

    def __init__(self, section: GPT2Section, vocabulary: int) -> None:
        super().__init__(section, vocabulary)
        self.positions = nn.Embedding(section.context, section.width)
        self.layers = nn.ModuleList(GPT2Layer(section) for _ in range(section.layers))
        self.norm = LayerNorm(section.width, section.norm_epsilon)
        self.dropout = Dropout(section.dropout)
        self.residual = Residual()

    def embedded(
        self, tokens: Tensor, documents: Tensor | None, portion: Portion | None
    ) -> tuple[Tensor, Rotation | None]:
        """(B, T) -> (B, T, D), or (p, D) of a portion; positions begin anew with each document."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        if documents is not None:
            begins = torch.cat([torch.ones_like(documents[:, :1]), documents.diff(dim=1)], dim=1) != 0
            places = places - (places * begins).cummax(dim=1).values  # (B, T)
        if portion is None:
            of_places = self.positions(places)
        else:
            own = portion.own(places.expand(tokens.shape).flatten())
            of_places = F.embedding(own, portion.shared(self.positions.weight))
        return self.embedding(tokens, portion) + of_places, None

    def embedded_newest(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Rotation | None]:
        """The same for the newest tokens of a generation."""
        return self.embedding(tokens) + self.positions(cache.positions(tokens.shape[1])), None


class GPT2Layer(DecoderLayer):
    """Attention to earlier tokens, then a position-wise network, each added to its input."""

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
