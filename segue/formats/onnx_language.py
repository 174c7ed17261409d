"""How is a language model exported to ONNX? As one graph, which reads any number of tokens, with its cache as input.

Prompts, single steps and whole texts to be scored go through the same graph; it computes scores only at the places that
are asked for. Attention and norms are operations of onnxruntime (com.microsoft): attention writes what is newest into
the cache that it is given, if the same memory is bound to input and output.

Shape letters: N rows, T newest tokens, P positions of a cache, S scored places, V vocabulary, D width, K heads of keys,
d width of a head.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue import card
from segue.compress import quantize
from segue.data.documents import END
from segue.files import replacing
from segue.formats.exporter import GRAPH, Exporter
from segue.formats.onnx import Names, write
from segue.layers.feed_forward import PLAIN
from segue.layers.layer_norm import LayerNorm
from segue.layers.rms_norm import RMSNorm
from segue.layers.vocabulary import token_scores
from segue.models.decoder_only import DecoderOnly, DecoderOnlyLayer
from segue.models.gpt2 import GPT2Layer
from segue.runtime.onnx_language import INPUTS, SCORES, OnnxLanguageBackend, cache_names
from segue.tasks.language_modeling import Trained, use
from segue.tasks.language_modeling.backend import Model
from segue.tasks.language_modeling.comparison import Continuing

_STEP = 16
"""Heads in onnxruntime are multiples of this wide; others are padded."""


class Graph(nn.Module):
    """What is exported of a model. The content of the cache is input, and what is to be kept of it output."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        section = model.section
        self.table = _rows(model.table(), model.vocabulary)
        is_tied = model.table() is model.embedding.weight
        self.embedding = self.table if is_tied else _rows(model.embedding.weight, model.vocabulary)
        self.layers = nn.ModuleList(_Layer(layer, section.size_of_head) for layer in model.layers)  # type: ignore[arg-type]
        self.norm = model.norm
        self.positions = None if isinstance(model, DecoderOnly) else model.positions
        self.cosines: Tensor | None = None
        self.sines: Tensor | None = None
        if isinstance(model, DecoderOnly):
            half = section.size_of_head // 2
            by = model.rotation(torch.arange(section.context))
            more = (0, -half % (_STEP // 2))
            self.cosines, self.sines = F.pad(by.cosines[:, 0, :half], more), F.pad(by.sines[:, 0, half:], more)
        self.train(model.training)

    def forward(self, tokens: Tensor, lengths: Tensor, places: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """(N, T), (N), (N, S), 2 L x (N, K, P, d) -> (N, S, V), 2 L x (N, K, P', d), where P' is P, or what is needed.

        `lengths` are those of the rows with the newest tokens. Several newest tokens are the beginnings of rows, padded
        at the end; `places` are those of them whose scores are wanted.
        """
        size = tokens.shape[1]
        x, more = F.embedding(tokens, self.embedding), None
        if self.positions is not None:
            at = torch.arange(size, device=tokens.device) + (lengths[:, None] - size).clamp(min=0)
            more = self.positions(at)
        known = _Known((lengths - 1).int(), lengths.max().int(), self.cosines, self.sines)
        kept = list[Tensor]()
        for number, layer in enumerate(self.layers):
            x, more, *grown = layer(x, more, cache[2 * number : 2 * number + 2], known)
            kept += grown
        x, _ = _summed(x, more, self.norm)
        x = x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
        return token_scores(x, self.table), *kept


def _rows(table: Tensor, vocabulary: int) -> nn.Parameter:
    return nn.Parameter(table.detach()[:vocabulary], requires_grad=False)


class _Known(NamedTuple):
    """What attention needs to know of the rows, the same in each layer."""

    last: Tensor
    """(N) int32: last position"""
    longest: Tensor
    """() int32: positions of the longest row"""
    cosines: Tensor | None
    """(context, d / 2) of rotary positions"""
    sines: Tensor | None


class _Layer(nn.Module):
    """A layer, with matrices of the same input in one piece."""

    def __init__(self, layer: DecoderOnlyLayer | GPT2Layer, width: int) -> None:
        """`width` is that of a head."""
        super().__init__()
        attention, network = layer.attention, layer.feed_forward
        self.heads, self.key_value_heads, self.width = attention.heads, attention.key_value_heads, width
        self.query_norm, self.key_norm = attention.query_norm, attention.key_norm
        self.attention_norm, self.feed_forward_norm = layer.attention_norm, layer.feed_forward_norm
        self.projections = _Matrix(attention.query, attention.key, attention.value)
        self.output = _Matrix(attention.output)
        self.is_gated, self.activation = network.gate is not None, network.activation
        self.up = _Matrix(network.up) if network.gate is None else _Matrix(network.gate, network.up)
        self.down = _Matrix(network.down)

    def forward(self, x: Tensor, more: Tensor | None, cache: tuple[Tensor, ...], known: _Known) -> tuple[Tensor, ...]:
        """(N, T, D) and what is still to be added to it -> the same after the layer, and the cache."""
        normalized, x = _summed(x, more, self.attention_norm)
        found, *kept = self._attended(self.projections(normalized), cache, known)
        normalized, x = _summed(x, self.output(found), self.feed_forward_norm)
        hidden = self.up(normalized)
        if self.is_gated:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        else:
            hidden = PLAIN[self.activation](hidden)
        return x, self.down(hidden), *kept

    def _attended(self, whole: Tensor, cache: tuple[Tensor, ...], known: _Known) -> list[Tensor]:
        """(N, T, (H + 2 K) d) queries, keys and values -> (N, T, H d), the cache."""
        rows, size, _ = whole.shape
        heads, own, width = self.heads, self.key_value_heads, self.width
        padding, halves = -width % _STEP, 1 if known.cosines is None else 2
        if padding or self.query_norm is not None:
            parts = whole.view(rows, size, -1, width).split_with_sizes([heads, own, own], dim=2)
            norms = (self.query_norm, self.key_norm, None)
            each = [part if norm is None else norm(part) for part, norm in zip(parts, norms, strict=True)]
            whole = torch.cat(each, dim=2)
            if padding:  # each half, since rotary positions turn one into the other
                whole = F.pad(whole.view(rows, size, -1, halves, width // halves), (0, padding // halves))
            whole = whole.reshape(rows, size, -1)
        shape = (rows, own, max(cache[0].shape[2], size), width + padding)
        found, *kept = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (whole, None, None, *cache, *known),
            {
                "num_heads": heads,
                "kv_num_heads": own,
                "scale": width**-0.5,
                "do_rotary": int(known.cosines is not None),
            },
            dtypes=[whole.dtype] * 3,
            shapes=[(rows, size, heads * (width + padding)), shape, shape],
            version=1,
        )
        if padding:
            found = found.view(rows, size, heads, halves, -1)[..., : width // halves].flatten(2)
        return [found, *kept]


class _Matrix(nn.Module):
    """Linear layers of the same input as one product."""

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        weight = torch.cat([layer.weight.detach() for layer in layers]).t().contiguous()
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D')."""
        found = x @ self.weight
        return found if self.bias is None else found + self.bias


def _summed(x: Tensor, more: Tensor | None, norm: RMSNorm | LayerNorm) -> tuple[Tensor, Tensor]:
    """2 x (N, T, D) -> the sum, normalized and as it is."""
    if more is None:
        return norm(x), x
    if isinstance(norm, RMSNorm):
        kind, weights, epsilon = "SkipSimplifiedLayerNormalization", [norm.weight], norm.epsilon
    else:
        kind, weights, epsilon = "SkipLayerNormalization", [norm.weight, norm.bias], norm.eps
    moments = (*x.shape[:2], 1)
    found, _, _, total = torch.onnx.ops.symbolic_multi_out(
        f"com.microsoft::{kind}",
        (x, more, *weights),
        {"epsilon": epsilon},
        dtypes=[x.dtype] * 4,
        shapes=[x.shape, moments, moments, x.shape],
        version=1,
    )
    return found, total


def write_language_model(model: Model, folder: Path, metadata: dict[str, str]) -> None:
    """Writes `model.onnx` to `folder`: tokens (N, T), lengths (N), places (N, S), and for each layer past_keys and
    past_values (N, K, P, d) -> scores (N, S, V), and for each layer keys and values. P is 0 at first, or room for all
    positions: if the same memory is bound to past and present, a step copies nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    section = model.section
    heads, width = (section.key_value_heads or section.heads), section.size_of_head + -section.size_of_head % _STEP
    past, present = cache_names(section.layers)
    cache = [torch.zeros(2, heads, 3, width) for _ in past]
    tokens, lengths, places = torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5, 3]), torch.tensor([[1, 3, 4]] * 2)
    dimensions: Names = {
        **dict(zip(INPUTS, (("rows", "tokens"), ("rows",), ("rows", "places")), strict=True)),
        **dict.fromkeys(past, ("rows", heads, "past", width)),
    }
    write(Graph(model), (tokens, lengths, places, *cache), dimensions, (SCORES, *present), folder / GRAPH, metadata)


def write_weights(model: Model, folder: Path, metadata: dict[str, str], weights: str) -> None:
    """The same with weights in float32, float16 or int8."""
    write_language_model(model, folder, metadata)
    if weights != "float32":
        smaller = quantize.float16_weights if weights == "float16" else quantize.int8_blocks
        with replacing(folder / GRAPH) as partial:
            smaller(folder / GRAPH, partial)


# --- Exporter ---


def _write(trained: Trained, folder: Path, weights: str) -> None:
    write_weights(trained.model, folder, {"task": trained.metadata().task}, weights)
    trained.tokenizer.save(folder / "tokenizer.json")


def _use(trained: Trained, folder: str) -> str:
    code = f"""import numpy
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("{folder}/{GRAPH}")
tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")
end = tokenizer.token_to_id("{END}")
tokens = [end, *tokenizer.encode("Once upon a time", add_special_tokens=False).ids]
caches = [each for each in session.get_inputs() if each.name.startswith("past_")]
cache = [numpy.zeros((1, each.shape[1], 0, each.shape[3]), numpy.float32) for each in caches]
newest = tokens
while newest[-1] != end or len(tokens) == len(newest):
    given = {{"tokens": numpy.array([newest]), "lengths": numpy.array([len(tokens)])}}
    given |= {{"places": numpy.array([[len(newest) - 1]])}} | dict(zip((each.name for each in caches), cache))
    scores, *cache = session.run(None, given)
    newest = [int(scores[0, -1].argmax())]
    tokens += newest
    if len(tokens) == {trained.recipe.model.context}:
        break
print(tokenizer.decode(tokens))"""
    return f"{use(folder)}\nor with onnxruntime and tokenizers, always the likeliest token:\n\n{card.python(code)}"


def _run(trained: Trained, folder: Path, threads: int) -> Continuing:
    backend = OnnxLanguageBackend(folder, len(trained.tokenizer), threads)
    return Continuing(backend, trained.end, trained.recipe.model.context)


LANGUAGE = Exporter(
    packages=("onnxruntime", "onnx", "onnxscript"),
    write=_write,
    run=_run,
    use=_use,
    quantizations=("int8", "float16"),
)
