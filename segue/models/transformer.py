"""What is the Transformer? An encoder for the source sequence, a decoder for the target (Vaswani et al. 2017).

arXiv:1706.03762; besides the paper's norm, positions and activation it has current alternatives.

Shape letters: B batch, S source tokens, T target tokens, P real target tokens of a batch, D width, H heads,
d width of a head, V vocabulary, N rows of a search: sentences times beams.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from segue.layers.attention import Attention
from segue.layers.dropout import Dropout
from segue.layers.feed_forward import Activation, FeedForward
from segue.layers.mask import length_mask
from segue.layers.positions import sinusoids
from segue.layers.splits import Split
from segue.layers.vocabulary import TokenBias, TokenEmbedding, token_scores
from segue.models.width import WidthMultiplier
from segue.recipe import Section

Size = Annotated[int, Field(gt=0, le=1 << 20)]
Count = Annotated[int, Field(gt=0, le=1000)]
Share = Annotated[float, Field(ge=0, lt=1)]


class EncoderSection(Section):
    """Transformer encoder."""

    kind: Literal["transformer"]
    """Transformer."""
    width: Size
    """Size of a token's vector between layers (d_model)."""
    feed_forward: Size
    """Hidden units of the position-wise networks (d_ff)."""
    heads: Count
    """Attention heads; must divide the width."""
    key_value_heads: Count | None = None
    """Heads of keys and values (grouped-query attention); must divide `heads`, which is the default."""
    encoder_layers: Count
    """Encoder layers."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalization before each sublayer and at the end (easier to train), or after each residual sum (paper)."""
    positions: Literal["sinusoidal", "rotary"] = "sinusoidal"
    """Positional encoding: sinusoids added to the embeddings (paper), or rotary: rotations of queries and keys."""
    activation: Activation = "relu"
    """Activation of the position-wise networks: relu (paper), gelu, swish, or swiglu, with three matrices, not two."""
    has_biases: bool = True
    """Whether linear layers and norms have a bias, as in the paper; many recent models have none."""
    dropout: Share = 0.1
    """Dropout of embeddings and of the output of each sublayer (P_drop)."""
    attention_dropout: Share = 0.0
    """Dropout of attention weights."""
    feed_forward_dropout: Share = 0.0
    """Dropout inside the position-wise networks."""
    width_multiplier: WidthMultiplier = 1
    """Multiplies width, feed_forward and heads. "auto" depends on the number of training examples: 1 below 200,000, 2
    below 2 million, else 4; the result is written into the run's recipe."""

    def widened(self) -> Self:
        """The section with `width_multiplier` applied to its sizes."""
        assert self.width_multiplier != "auto"
        names = ("width", "feed_forward", "heads", *(["key_value_heads"] if self.key_value_heads else []))
        sizes = {name: getattr(self, name) * self.width_multiplier for name in names}
        return self.model_copy(update={**sizes, "width_multiplier": 1})

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % (self.key_value_heads or self.heads):
            raise ValueError(f"heads {self.heads} is not a multiple of key_value_heads {self.key_value_heads}")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width {self.width} is odd; sines and cosines need an even one")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(f"width / heads = {self.width // self.heads} is odd; rotations need pairs")
        return self


class TransformerSection(EncoderSection):
    """Encoder-decoder Transformer."""

    decoder_layers: Count
    """Decoder layers."""
    tied: Literal["all", "target", "none"] = "all"
    """Weight tying: source embedding, target embedding and output layer (all); target embedding and output layer
    (target); none."""
    has_output_bias: bool = False
    """Whether each token has a learned number that is added to its score, as in Marian."""


class Transformer(nn.Module):
    """Source tokens and earlier target tokens to scores of the next target token."""

    splits: ClassVar[Mapping[str, Split]] = {
        "target_embedding": "vocabulary",
        "source_embedding": "vocabulary",
        "head": "vocabulary",
        "output_bias": "vocabulary",
    }
    forwards: ClassVar[tuple[str, ...]] = ("begin", "step")
    """Other methods than `forward` for which FSDP has to gather sharded parameters."""

    def __init__(self, section: TransformerSection, source_vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        section = section.widened()
        if section.tied == "all":
            assert source_vocabulary == target_vocabulary
        width = section.width
        # Tied weights are a single parameter with a single name.
        self.target_embedding = TokenEmbedding(target_vocabulary, width)
        self.source_embedding = None if section.tied == "all" else TokenEmbedding(source_vocabulary, width)
        self.encoder = nn.ModuleList(EncoderLayer(section) for _ in range(section.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(section) for _ in range(section.decoder_layers))
        is_pre = section.norm == "pre"
        self.encoder_norm = norm(section) if is_pre else nn.Identity()
        self.decoder_norm = norm(section) if is_pre else nn.Identity()
        self.head = nn.Linear(width, target_vocabulary, bias=False) if section.tied == "none" else None
        self.output_bias = TokenBias(target_vocabulary) if section.has_output_bias else None
        self.dropout = Dropout(section.dropout)
        self._is_rotary = section.positions == "rotary"
        self.initialize()

    def dealt_out(self) -> dict[str, int]:
        """Nothing: vocabularies may be split unevenly."""
        return {}

    def initialize(self) -> None:
        """Initializes the weights."""
        initialize(self)

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor, places: Tensor) -> Tensor:
        """(B, S) source tokens, (B) their lengths, (B, T) target tokens -> (P, V) scores of the next token.

        `places`, (P), are the indices of real positions in the flattened target. Indices rather than a mask, since
        indexing by a mask synchronizes with a GPU. If the vocabulary is split over ranks, the scores are a DTensor.
        """
        mask = length_mask(source_lengths, source.shape[1]).unsqueeze(1)  # (B, 1, 1, S)
        x = self.hidden(target, self.encode(source, mask), mask)
        # Only real positions: in small models the output layer is the most expensive one.
        return self._scores(x.flatten(0, 1).index_select(0, places))

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        """(B, S), (B, 1, 1, S) -> (B, S, D)."""
        x = self._embed(self.source_embedding or self.target_embedding, source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def hidden(self, target: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(B, T), (B, S, D), (B, 1, 1, S) -> (B, T, D): the decoder's output, before the output layer."""
        x = self._embed(self.target_embedding, target)
        for layer in self.decoder:
            x = layer(x, memory, mask)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def begin(self, source: Tensor, source_lengths: Tensor) -> "Cache":
        """(B, S) source tokens, (B) lengths: encodes the sources, for decoding with `step`."""
        mask = length_mask(source_lengths, source.shape[1]).unsqueeze(1)  # (B, 1, 1, S)
        memory = self.encode(source, mask)
        cross = [layer.read(memory) for layer in self.decoder_layers()]
        return Cache(mask, cross)

    def step(self, tokens: Tensor, cache: "Cache") -> Tensor:
        """(N) last tokens -> (N, V) scores of the next tokens; extends the cache. N must be a multiple of B."""
        x = self._embed(self.target_embedding, tokens.unsqueeze(1), first_position=cache.num_steps)  # (N, 1, D)
        for number, layer in enumerate(self.decoder_layers()):
            x = layer.step(x, cache, number)
        cache.num_steps += 1
        return self._scores(self.decoder_norm(x).squeeze(1))

    def _scores(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        bias = None if self.output_bias is None else self.output_bias.weight
        return token_scores(x, (self.head or self.target_embedding).weight, bias)

    def decoder_layers(self) -> "list[DecoderLayer]":
        """The decoder layers, first to last."""
        return list(self.decoder)  # type: ignore[arg-type]

    def _embed(self, embedding: nn.Module, tokens: Tensor, first_position: int = 0) -> Tensor:
        """(B, T) -> (B, T, D)."""
        x = embedded(embedding, tokens, is_rotary=self._is_rotary, first_position=first_position)
        return self.dropout(x)  # type: ignore[no-any-return]


def initialize(model: nn.Module) -> None:
    """Initializes the weights: Glorot uniform for matrices, normal with std 1 / sqrt(D) for embeddings."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)  # unit variance once scaled


def embedded(embedding: nn.Module, tokens: Tensor, *, is_rotary: bool, first_position: int = 0) -> Tensor:
    """(B, T) -> (B, T, D): embeddings of about unit variance, with sinusoids added unless positions are rotary."""
    x: Tensor = embedding(tokens)
    x = x * math.sqrt(x.shape[2])
    if is_rotary:
        return x
    positions = torch.arange(first_position, first_position + tokens.shape[1], device=tokens.device)
    return x + sinusoids(positions, x.shape[2])


class EncoderLayer(nn.Module):
    """Self-attention, then a position-wise network, each added to its input."""

    def __init__(self, section: EncoderSection) -> None:
        super().__init__()
        self.attention = _attention(section, is_rotary=section.positions == "rotary")
        self.attention_norm = norm(section)
        self.feed_forward = _feed_forward(section)
        self.feed_forward_norm = norm(section)
        self.dropout = Dropout(section.dropout)
        self.is_pre = section.norm == "pre"

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D), (B, 1, 1, S) -> (B, S, D)."""
        if self.is_pre:
            y = self.attention_norm(x)
            x = x + self.dropout(self.attention(y, y, mask))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]
        x = self.attention_norm(x + self.dropout(self.attention(x, x, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Self-attention over earlier tokens, attention over the source, then a position-wise network."""

    forwards: ClassVar[tuple[str, ...]] = ("read", "step")

    def __init__(self, section: TransformerSection) -> None:
        super().__init__()
        self.attention = _attention(section, is_rotary=section.positions == "rotary")
        self.attention_norm = norm(section)
        self.cross_attention = _attention(section, is_rotary=False)  # source and target positions are unrelated
        self.cross_attention_norm = norm(section)
        self.feed_forward = _feed_forward(section)
        self.feed_forward_norm = norm(section)
        self.dropout = Dropout(section.dropout)
        self.is_pre = section.norm == "pre"

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, S, D), (B, 1, 1, S) -> (B, T, D)."""
        if self.is_pre:
            y = self.attention_norm(x)
            x = x + self.dropout(self.attention(y, y, is_causal=True))
            x = x + self.dropout(self.cross_attention(self.cross_attention_norm(x), memory, mask))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]
        x = self.attention_norm(x + self.dropout(self.attention(x, x, is_causal=True)))
        x = self.cross_attention_norm(x + self.dropout(self.cross_attention(x, memory, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))  # type: ignore[no-any-return]

    def read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> (B, H', S, d) keys and values of the source."""
        return self.cross_attention.keys_and_values(memory)

    def step(self, x: Tensor, cache: "Cache", number: int) -> Tensor:
        """(N, 1, D) the newest position -> (N, 1, D); `number` is the index of this layer."""
        y = self.attention_norm(x) if self.is_pre else x
        keys, values = cache.extend(number, *self.attention.keys_and_values(y, cache.num_steps))
        x = x + self.attention.attend(y, keys, values, first_position=cache.num_steps)
        x = x if self.is_pre else self.attention_norm(x)
        y = self.cross_attention_norm(x) if self.is_pre else x
        # The beams of a sentence are queries on one copy of its keys: (N, 1, D) -> (B, N / B, D) and back.
        y = y.view(cache.mask.shape[0], -1, y.shape[2])
        x = x + self.cross_attention.attend(y, *cache.cross[number], cache.mask).view_as(x)
        x = x if self.is_pre else self.cross_attention_norm(x)
        x = x + self.feed_forward(self.feed_forward_norm(x) if self.is_pre else x)
        return x if self.is_pre else self.feed_forward_norm(x)


class Cache:
    """Keys and values of a decoder's attention during decoding: of the source, and of the tokens so far."""

    def __init__(self, mask: Tensor, cross: list[tuple[Tensor, Tensor]]) -> None:
        self.mask = mask
        """(B, 1, 1, S): real source tokens"""
        self.cross = cross
        """For each layer (B, H', S, d) keys and values"""
        self.num_steps = 0
        self.own: list[tuple[Tensor, Tensor]] = []
        """For each layer (N, H', steps, d) keys and values of the tokens so far"""

    def extend(self, number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends keys and values (N, H', 1, d) to layer `number`; returns all of that layer's."""
        if number == len(self.own):
            self.own.append((keys, values))
        else:
            before = self.own[number]
            self.own[number] = (torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2))
        return self.own[number]

    def select(self, rows: Tensor, sentences: Tensor | None = None) -> None:
        """Keeps these rows, in this order, and only these sentences (None: all)."""
        self.own = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.own]
        if sentences is not None:
            self.mask = self.mask.index_select(0, sentences)
            self.cross = [(k.index_select(0, sentences), v.index_select(0, sentences)) for k, v in self.cross]


def _attention(section: EncoderSection, *, is_rotary: bool) -> Attention:
    return Attention(
        section.width,
        section.heads,
        section.key_value_heads or section.heads,
        dropout=section.attention_dropout,
        is_rotary=is_rotary,
        has_biases=section.has_biases,
    )


def _feed_forward(section: EncoderSection) -> FeedForward:
    return FeedForward(
        section.width,
        section.feed_forward,
        section.activation,
        dropout=section.feed_forward_dropout,
        has_biases=section.has_biases,
    )


def norm(section: EncoderSection) -> nn.LayerNorm:
    """Layer normalization over the width."""
    return nn.LayerNorm(section.width, bias=section.has_biases)
