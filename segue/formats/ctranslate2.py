"""How is a Transformer exported to CTranslate2? Weights under its names, with tables that reproduce Segue's behavior.

<https://opennmt.net/CTranslate2/>. The result runs without Segue: `model.bin`, `config.json` and the vocabularies.
Sources must include their end token, and begin with the language token if the model has several target languages.

Shape letters: D width, V vocabulary.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue import card
from segue.data.tokenizer import UNKNOWN
from segue.data.vocabularies import BEGIN, END, Vocabularies
from segue.errors import missing_extra
from segue.formats.exporter import Exporter
from segue.layers.attention import Attention
from segue.layers.feed_forward import FeedForward
from segue.layers.positions import WAVELENGTH_BASE, sinusoids
from segue.models.transformer import Transformer, TransformerSection
from segue.runtime.ctranslate2 import POSITIONS, CTranslate2Backend
from segue.runtime.separate import SeparateBackend
from segue.tasks.translation import Trained, source_side, use

LARGEST = 63
"""Largest magnitude of an int8 weight: seven bits."""


def write(
    model: Transformer,
    section: TransformerSection,
    vocabularies: Vocabularies,
    folder: Path,
    quantization: str = "float32",
) -> None:
    """Writes the model to `folder`, with weights in float32, float16 or int8, which uses only seven bits.

    Tokens that no output may contain get a score of -infinity.
    """
    try:
        from ctranslate2 import specs
    except ImportError:
        raise missing_extra("ctranslate2", "translate") from None

    is_rotary, heads = section.positions == "rotary", section.heads
    settings: dict[str, Any] = {
        "num_heads": heads,
        "pre_norm": section.norm == "pre",
        "activation": {
            "relu": specs.Activation.RELU,
            "gelu": specs.Activation.GELU,  # exact, unlike GELUTanh
            "gelu_tanh": specs.Activation.GELUTanh,
            "swish": specs.Activation.SWISH,
            "swiglu": specs.Activation.SWISH,
        }[section.activation],
        "ffn_glu": section.activation == "swiglu",
        "num_heads_kv": section.key_value_heads,
    }
    if is_rotary:  # all dimensions, first half paired with second half
        settings |= {"rotary_dim": 0, "rotary_interleave": False, "rotary_base": WAVELENGTH_BASE}
    encoder = specs.TransformerEncoderSpec(section.encoder_layers, **settings)
    decoder = specs.TransformerDecoderSpec(section.decoder_layers, **settings)
    _set_side(encoder, model.encoder, model.encoder_norm, section)
    _set_side(decoder, model.decoder, model.decoder_norm, section)
    encoder.embeddings[0].weight = array((model.source_embedding or model.target_embedding).weight)
    decoder.embeddings.weight = array(model.target_embedding.weight)
    decoder.projection.weight = array((model.head or model.target_embedding).weight)
    decoder.projection.bias = _impossible(vocabularies)
    if model.output_bias is not None:
        decoder.projection.bias += array(model.output_bias.weight).squeeze(1)
    spec = specs.TransformerSpec(encoder, decoder)
    spec.config.layer_norm_epsilon = nn.LayerNorm(1).eps
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = UNKNOWN, BEGIN, END
    spec.config.decoder_start_token = BEGIN
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.register_source_vocabulary(vocabularies.source.tokens)
    spec.register_target_vocabulary(vocabularies.target.tokens)
    save(spec, folder, quantization)


def save(spec: Any, folder: Path, quantization: str) -> None:
    """Writes a filled specification, with weights in float32, float16 or int8."""
    spec.validate()
    exact = {name: value.numpy().copy() for name, value in spec.variables().items()} if quantization == "int8" else {}
    spec.optimize(quantization=quantization)
    if quantization == "int8":
        round_to_seven_bits(spec.variables(), exact)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def _set_side(spec: Any, layers: nn.ModuleList, norm: nn.Module, section: TransformerSection) -> None:
    """Sets the weights of the encoder or decoder."""
    if section.positions == "sinusoidal":
        spec.position_encodings.encodings = array(sinusoids(torch.arange(POSITIONS), section.width))
    if isinstance(norm, nn.LayerNorm):
        set_norm(spec.layer_norm, norm)
    for layer_spec, each in zip(spec.layer, layers, strict=True):
        layer: Any = each  # torch does not type submodules
        set_self_attention(layer_spec.self_attention, layer.attention)
        set_norm(layer_spec.self_attention.layer_norm, layer.attention_norm)
        if hasattr(layer, "cross_attention"):
            _set_cross_attention(layer_spec.attention, layer.cross_attention)
            set_norm(layer_spec.attention.layer_norm, layer.cross_attention_norm)
        set_feed_forward(layer_spec.ffn, layer.feed_forward)
        set_norm(layer_spec.ffn.layer_norm, layer.feed_forward_norm)


def set_self_attention(spec: Any, attention: Any) -> None:
    """Sets the weights of attention: queries, keys and values are one matrix in CTranslate2."""
    set_linear(spec.linear[0], attention.query, attention.key, attention.value)
    set_linear(spec.linear[1], attention.output)


def _set_cross_attention(spec: Any, attention: Attention) -> None:
    set_linear(spec.linear[0], attention.query)
    set_linear(spec.linear[1], attention.key, attention.value)
    set_linear(spec.linear[2], attention.output)


def set_feed_forward(spec: Any, feed_forward: FeedForward) -> None:
    """Sets the weights of a position-wise network."""
    if feed_forward.gate is None:
        set_linear(spec.linear_0, feed_forward.up)
    else:  # linear_0 is the one with the activation
        set_linear(spec.linear_0, feed_forward.gate)
        set_linear(spec.linear_0_noact, feed_forward.up)
    set_linear(spec.linear_1, feed_forward.down)


def set_linear(spec: Any, *fused: nn.Linear) -> None:
    """Sets the concatenation of several linear layers' outputs."""
    spec.weight = array(torch.cat([linear.weight for linear in fused]))
    spec.bias = array(torch.cat([_bias(linear) for linear in fused]))


def set_norm(spec: Any, norm: nn.LayerNorm) -> None:
    """Sets the weights of LayerNorm."""
    spec.gamma, spec.beta = array(norm.weight), array(_bias(norm))


def _bias(layer: nn.Linear | nn.LayerNorm) -> Tensor:
    """The layer's bias, or zeros if it has none: CTranslate2's norms need one."""
    bias: Tensor | None = layer.bias
    return layer.weight.new_zeros(len(layer.weight)) if bias is None else bias


def _impossible(vocabularies: Vocabularies) -> NDArray[np.float32]:
    """(V) bias of the scores: -infinity for special tokens except the end token."""
    special = vocabularies.target.special
    bias = np.zeros(len(vocabularies.target), np.float32)
    bias[[number for token, number in special.items() if token != END]] = -np.inf
    return bias


def round_to_seven_bits(variables: dict[str, Any], exact: dict[str, NDArray[Any]]) -> None:
    """Halves CTranslate2's eight-bit weights in place, rounding them again from their `exact` values.

    The sum of two products of a weight and an activation then fits into the 16 bits of processors without VNNI. Full
    eight-bit weights overflow silently there, and the model's outputs would differ from those measured elsewhere.
    """
    for name, weight in variables.items():
        scale = variables.get(f"{name}_scale")
        if isinstance(weight, str) or isinstance(scale, str) or scale is None:  # an alias, or unused
            continue
        scale.numpy()[...] *= LARGEST / 127
        weight.numpy()[...] = np.rint(exact[name] * scale.numpy()[:, None])


def array(tensor: Tensor) -> NDArray[np.float32]:
    """The values of a tensor, as CTranslate2 takes them."""
    return tensor.detach().float().cpu().numpy().copy()  # CTranslate2 quantizes in place


# --- Exporter ---


def _write(trained: Trained, folder: Path, weights: str) -> None:
    write(trained.model, trained.recipe.model, trained.vocabularies, folder, weights)
    trained.vocabularies.save(folder)


def _use(trained: Trained, folder: str) -> str:
    source, language = source_side(trained)
    code = f"""import ctranslate2
from tokenizers import Tokenizer

translator = ctranslate2.Translator("{folder}")
source, target = (Tokenizer.from_file(f"{folder}/{{name}}.json") for name in ("{source}", "tokenizer"))
tokens = [{language}*source.encode("a line of text", add_special_tokens=False).tokens, "{END}"]
[result] = translator.translate_batch([tokens], beam_size={trained.recipe.search.beams})
print(target.decode([target.token_to_id(token) for token in result.hypotheses[0]]))"""
    mine = use(folder, trained.vocabularies.languages)
    return f"{mine}\nor with only CTranslate2 and tokenizers:\n\n{card.python(code)}"


def _least(folder: Path, threads: int) -> tuple[str, SeparateBackend]:
    return "CT2_FORCE_CPU_ISA=GENERIC", SeparateBackend(folder, threads, {"CT2_FORCE_CPU_ISA": "GENERIC"})


TEXT = Exporter(
    packages=("ctranslate2",),
    write=_write,
    run=lambda trained, folder, threads: CTranslate2Backend(folder, threads),  # noqa: ARG005
    use=_use,
    quantizations=("int8", "float16"),
    least=_least,
)
