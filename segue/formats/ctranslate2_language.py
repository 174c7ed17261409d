"""How is a language model exported to CTranslate2? Weights under its names, as a decoder that its Generator runs.

<https://opennmt.net/CTranslate2/>. The result runs without Segue: `model.bin`, `config.json` and the vocabulary.
Prompts must begin with the end token, as in Segue.
"""

from pathlib import Path
from typing import Any

from torch import nn

from segue import card
from segue.data.documents import END
from segue.data.tokenizer import Tokenizer
from segue.errors import missing_extra
from segue.formats.ctranslate2 import array, save, set_feed_forward, set_norm, set_self_attention
from segue.formats.exporter import Exporter
from segue.layers.rms_norm import RMSNorm
from segue.models.gpt2 import GPT2Section
from segue.runtime.ctranslate2_language import CTranslate2LanguageBackend
from segue.tasks.language_modeling import Trained, use
from segue.tasks.language_modeling.backend import Model
from segue.tasks.language_modeling.comparison import Continuing


def write(model: Model, tokenizer: Tokenizer, folder: Path, quantization: str = "float32") -> None:
    """Writes the model to `folder`, with weights in float32, float16 or int8, which uses only seven bits."""
    try:
        from ctranslate2 import specs
    except ImportError:
        raise missing_extra("ctranslate2", "translate") from None

    section = model.section
    settings: dict[str, Any] = {"num_layers": section.layers, "num_heads": section.heads, "pre_norm": True}
    if isinstance(section, GPT2Section):
        settings |= {"activation": specs.Activation.GELUTanh}
    else:
        settings |= {
            "activation": specs.Activation.SWISH,
            "ffn_glu": True,
            "rms_norm": True,
            "rotary_dim": 0,  # all dimensions, first half paired with second half
            "rotary_interleave": False,
            "rotary_base": section.rotary_base,
            "num_heads_kv": section.key_value_heads or section.heads,
            "head_dim": section.size_of_head,
            "qk_norm": section.has_query_key_norm,
        }
    spec = specs.TransformerDecoderModelSpec.from_config(**settings)
    decoder = spec.decoder
    decoder.scale_embeddings = False
    parts: Any = model
    tokens = slice(model.vocabulary)  # without rows that only pad
    decoder.embeddings.weight = array(parts.embedding.weight[tokens])
    head = parts.embedding if isinstance(section, GPT2Section) or parts.head is None else parts.head
    decoder.projection.weight = array(head.weight[tokens])
    if isinstance(section, GPT2Section):
        decoder.position_encodings.encodings = array(parts.positions.weight)
    _set_norm(decoder.layer_norm, parts.norm)
    for layer_spec, layer in zip(decoder.layer, parts.layers, strict=True):
        attention = layer.attention
        _set_norm(layer_spec.self_attention.layer_norm, layer.attention_norm)
        set_self_attention(layer_spec.self_attention, attention)
        if attention.query_norm is not None:
            _set_norm(layer_spec.self_attention.q_norm, attention.query_norm)
            _set_norm(layer_spec.self_attention.k_norm, attention.key_norm)
        _set_norm(layer_spec.ffn.layer_norm, layer.feed_forward_norm)
        set_feed_forward(layer_spec.ffn, layer.feed_forward)
    spec.config.layer_norm_epsilon = section.norm_epsilon
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = END
    spec.register_vocabulary(tokenizer.tokens)
    save(spec, folder, quantization)


def _set_norm(spec: Any, norm: nn.Module) -> None:
    if isinstance(norm, nn.LayerNorm):
        set_norm(spec, norm)
    else:
        assert isinstance(norm, RMSNorm)
        spec.gamma = array(norm.weight)


# --- Exporter ---


def _write(trained: Trained, folder: Path, weights: str) -> None:
    write(trained.model, trained.tokenizer, folder, weights)
    trained.tokenizer.save(folder / "tokenizer.json")


def _use(trained: Trained, folder: str) -> str:
    sampling = trained.recipe.sampling
    code = f"""import ctranslate2
from tokenizers import Tokenizer

generator = ctranslate2.Generator("{folder}")
tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")
tokens = ["{END}", *tokenizer.encode("Once upon a time", add_special_tokens=False).tokens]
[result] = generator.generate_batch(
    [tokens],
    max_length={min(100, trained.recipe.model.context)},  # with the prompt
    sampling_topk={1 if sampling.temperature == 0 else sampling.top_k},
    sampling_topp={sampling.top_p},
    sampling_temperature={sampling.temperature or 1},
)
print(tokenizer.decode(result.sequences_ids[0]))"""
    return f"{use(folder)}\nor with only CTranslate2 and tokenizers:\n\n{card.python(code)}"


def _run(trained: Trained, folder: Path, threads: int) -> Continuing:
    context = trained.recipe.model.context
    backend = CTranslate2LanguageBackend(folder, trained.tokenizer.tokens, context, threads)
    return Continuing(backend, trained.end, context)


LANGUAGE = Exporter(
    packages=("ctranslate2",),
    write=_write,
    run=_run,
    use=_use,
    quantizations=("int8", "float16"),
)
