"""What is the language model of this house? A decoder alone, with Llama's architecture.

Touvron et al. 2023 (arXiv:2302.13971): RMSNorm before each sublayer, rotary positions, SwiGLU, no biases; with grouped
queries as in Llama 2 and 3. With QK-norm it is Qwen3. Hugging Face's LlamaForCausalLM and Qwen3ForCausalLM compute the
same with the same weights.

Shape letters: B rows, T tokens, p positions of a rank (`layers/residual.py`), D width, d width of a head, V vocabulary.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from segue.layers.causal_attention import CausalAttention, Rotation, rotation
from segue.layers.dropout import Dropout
from segue.layers.feed_forward import FeedForward
from segue.layers.fused import are_plain
from segue.layers.residual import Portion, Residual
from segue.layers.rms_norm import RMSNorm
from segue.layers.splits import Split
from segue.models.decoder import Count, Decoder, DecoderLayer, Share, Size
from segue.models.decoding import PACKED_ROWS, Layer, Shape, decoded, packed, packed_layer, product
from segue.models.generating import Cache
from segue.recipe import Section


class DecoderOnlySection(Section):
    """Decoder-only Transformer: Llama's architecture."""

    kind: Literal["decoder_only"]
    """Decoder-only Transformer."""
    context: Size
    """Longest sequence, in tokens; training windows have this length."""
    width: Size
    """Size of a token's vector between layers."""
    feed_forward: Size
    """Hidden units of the position-wise networks (SwiGLU, with three matrices)."""
    layers: Count
    """Layers."""
    heads: Count
    """Attention heads."""
    key_value_heads: Count | None = None
    """Heads of keys and values (grouped-query attention); must divide `heads`, which is the default."""
    head_width: Size | None = None
    """Size of a head; width / heads is the default."""
    has_query_key_norm: bool = False
    """Whether queries and keys are normalized (Qwen3): steadier at high learning rates."""
    rotary_base: Annotated[float, Field(gt=1)] = 10_000.0
    """Base of the wavelengths of rotary positions (rope_theta)."""
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the mean square in RMSNorm."""
    is_tied: bool = True
    """Whether the embedding is also the output layer."""
    padded_vocabulary: Annotated[int, Field(gt=0)] = 1
    """The number of rows of embedding and output layer is rounded up to a multiple of this: 64 or 128 for fast products
    on GPUs, times `engine.tensor_parallel`. Rows without a token get no probability and are not exported."""
    dropout: Share = 0.0
    """Dropout of embeddings and of the output of each sublayer."""
    attention_dropout: Share = 0.0
    """Dropout of attention weights."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> "DecoderOnlySection":
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % (self.key_value_heads or self.heads):
            raise ValueError(f"heads {self.heads} is not a multiple of key_value_heads {self.key_value_heads}")
        if self.size_of_head % 2:
            raise ValueError(f"heads of width {self.size_of_head}; rotary positions need an even one")
        return self

    @property
    def size_of_head(self) -> int:
        """`head_width`, or its default."""
        return self.head_width or self.width // self.heads

    def build(self, vocabulary: int) -> "DecoderOnly":
        """The model for so many tokens."""
        return DecoderOnly(self, vocabulary)


class DecoderOnly(Decoder):
    """Tokens to the loss of each next token, or to its scores."""

    splits: ClassVar[Mapping[str, Split]] = {
        "embedding": "vocabulary",
        "head": "vocabulary",
        "residual": "positions",
    }
    section: DecoderOnlySection
    norm: RMSNorm

    def __init__(self, section: DecoderOnlySection, vocabulary: int) -> None:
        super().__init__(section, vocabulary)
        self.layers = nn.ModuleList(DecoderOnlyLayer(section) for _ in range(section.layers))
        self.norm = RMSNorm(section.width, section.norm_epsilon)
        self.head = None if section.is_tied else nn.Linear(section.width, self.num_rows, bias=False)
        self.dropout = Dropout(section.dropout)
        self.residual = Residual()
        self._layers: list[Layer] | None = None
        self._packed: tuple[list[Layer], Tensor] | None = None
        """For several rows: layers, table."""

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """(B) newest tokens -> (B, V) scores of the next ones; extends the cache."""
        if self._layers is None:
            return super().step(tokens, cache)
        cache.make_room()
        assert cache.rotation is not None
        first, by = cache.num_positions, cache.rotation.of(cache.newest(1))
        by = Rotation(*(each.squeeze(-3) for each in by))  # (..., 1, 1, d) -> (..., 1, d)
        shape = Shape(self.section.heads, self.section.key_value_heads or self.section.heads, self.section.norm_epsilon)
        layers, table = self._layers, self.table().t()
        if len(tokens) >= PACKED_ROWS:
            if self._packed is None:
                self._packed = list(map(packed_layer, layers)), packed(table)
            layers, table = self._packed
        x = self.embedding(tokens)
        x = decoded(x, layers, self.norm.weight, cache.memories, first, by, cache.mask(1), shape)
        cache.num_positions += 1
        return product(x, table)[:, : self.vocabulary]

    def fuse(self) -> None:
        """After the layers: collects their tensors for `step`, for inference on a CPU.

        Matrices may be copied: if weights change afterwards, it has to be called again.
        """
        layers = [layer.collected() for layer in self.layers if isinstance(layer, DecoderOnlyLayer)]
        found = [layer for layer in layers if layer is not None]
        is_whole = len(found) == len(self.layers) and self.norm.weight.device.type == "cpu"
        self._layers, self._packed = found if is_whole else None, None

    def embedded(
        self, tokens: Tensor, documents: Tensor | None, portion: Portion | None
    ) -> tuple[Tensor, Rotation | None]:
        """(B, T) -> (B, T, D), or (p, D) of a portion, and the rotation of the positions."""
        del documents  # only differences of positions count
        by = self.rotation(torch.arange(tokens.shape[1], device=tokens.device))
        return self.embedding(tokens, portion), by

    def embedded_newest(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Rotation | None]:
        """The same for the newest tokens of a generation."""
        if cache.rotation is None:
            cache.rotation = self.rotation(torch.arange(cache.capacity, device=tokens.device))
        return self.embedding(tokens), cache.rotation.of(cache.newest(tokens.shape[1]))

    def rotation(self, positions: Tensor) -> Rotation:
        """(..., T) positions -> their rotation."""
        device = positions.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.norm.weight.dtype
        return rotation(positions, self.section.size_of_head, self.section.rotary_base, dtype)

    def table(self) -> Tensor:
        """The weights of the output layer."""
        return (self.embedding if self.head is None else self.head).weight


class DecoderOnlyLayer(DecoderLayer):
    """Attention to earlier tokens, then a position-wise network, each added to its input."""

    def __init__(self, section: DecoderOnlySection) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(section.width, section.norm_epsilon)
        self.attention = CausalAttention(
            section.width,
            section.heads,
            section.key_value_heads or section.heads,
            section.size_of_head,
            dropout=section.attention_dropout,
            norm_epsilon=section.norm_epsilon if section.has_query_key_norm else None,
        )
        self.feed_forward_norm = RMSNorm(section.width, section.norm_epsilon)
        self.feed_forward = FeedForward(section.width, section.feed_forward, "swiglu", dropout=0.0, has_biases=False)
        self.dropout = Dropout(section.dropout)

    def collected(self) -> Layer | None:
        """The tensors of the layer once it is fused; None if it has adapters."""
        attention, network = self.attention, self.feed_forward
        if attention.fused is None or network.fused is None or not are_plain([attention.output, network.down]):
            return None
        norms = None
        if attention.query_norm is not None and attention.key_norm is not None:
            norms = attention.query_norm.weight, attention.key_norm.weight
        return Layer(
            self.attention_norm.weight,
            attention.fused[0].t(),
            norms,
            attention.output.weight.t(),
            self.feed_forward_norm.weight,
            network.fused[0].t(),
            network.down.weight.t(),
        )
