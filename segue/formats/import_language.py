"""How is a language model of Hugging Face imported? LlamaForCausalLM, Qwen3ForCausalLM and GPT2LMHeadModel.

Names of weights are those of the export (`huggingface_language.py`), read in the other direction. The tokenizer has to
be byte-level BPE, split as GPT-2, Llama 3 or Qwen split. The token that ends a text is renamed: it is `<|endoftext|>`
in every language model of Segue, and also stands before the first text.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers as hf
import torch
from torch import Tensor

from segue import recipe
from segue.data.documents import END
from segue.data.tokenizer import NUM_BYTES, Tokenizer
from segue.engine.distributed.materialize import blueprint
from segue.errors import UserError, warn
from segue.formats import weights
from segue.formats.huggingface_language import (
    FUSED,
    GPT2,
    LLAMA,
    PREFIX,
    QWEN3,
    TOKEN_TABLES,
    gpt2_name,
    is_transposed,
    llama_name,
)
from segue.formats.imported import Imported, license_of
from segue.formats.settings import Settings, load_json, read_json, shown
from segue.tasks import language_modeling
from segue.tasks.language_modeling import Recipe

CONFIG = "config.json"
KINDS = {"llama": LLAMA, "qwen3": QWEN3, "gpt2": GPT2}
"""`model_type` -> class."""
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Weights, in the order in which they are preferred."""
LEARNING_RATE = 3e-4
"""Of a training of such models from nothing at a billion parameters; `segue train --from` begins with less."""
_PLAIN_ROPE = (None, {"rope_type": "default"}, {"type": "default"})


def read(folder: Path) -> Imported:
    """The model in a directory. Raises a UserError if it is not complete, or is what our models cannot be."""
    settings = read_json(folder / CONFIG)
    kind = settings.get("model_type", str)
    classes = settings.get("architectures", list, [KINDS[kind]])
    if KINDS[kind] not in classes:
        raise settings.error("architectures", f"{shown(classes)} cannot be imported, only {KINDS[kind]}")
    model = _gpt2(settings) if kind == "gpt2" else _llama(settings, kind)
    tokenizer = _tokenizer(folder, settings)
    rows = settings.get("vocab_size", int)
    if rows < len(tokenizer):
        raise settings.error("vocab_size", f"{rows}, but the tokenizer has {len(tokenizer)} tokens")
    section = _recipe(folder, settings, model, len(tokenizer))
    file, tensors = weights.of_folder(folder, FILES)
    blank = blueprint(lambda: section.model.build(len(tokenizer))).state_dict()
    wanted = {
        name: (rows, *tensor.shape[1:]) if name in TOKEN_TABLES else tuple(tensor.shape)
        for name, tensor in blank.items()
    }
    found = (_of_gpt2 if kind == "gpt2" else _of_llama)(tensors, wanted, file)
    return Imported(
        section,
        {name: tensor[: len(tokenizer)] if name in TOKEN_TABLES else tensor for name, tensor in found.items()},
        file,
        lambda out: tokenizer.save(out / "tokenizer.json"),
        title="Language model",
        kind="text-generation",
        facts=(f"A {KINDS[kind]} of Hugging Face.", f"Context of {section.model.context:,} tokens."),
        use=language_modeling.use,
    )


# --- Configuration ---


def _llama(settings: Settings, kind: str) -> dict[str, Any]:
    """The table `model`. The file is checked for everything that our model cannot be."""
    settings.require(
        {
            "hidden_act": ("silu",),
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "use_sliding_window": (False,),
            "pretraining_tp": (1,),
            "partial_rotary_factor": (1.0,),
            "rope_parameters.rope_type": ("default",),
            "rope_parameters.partial_rotary_factor": (1.0,),
            "rope_scaling": _PLAIN_ROPE,
            "quantization_config": (None,),
        }
    )
    layers = settings.get("num_hidden_layers", int)
    others = [each for each in settings.get("layer_types", list, []) if each != "full_attention"]
    if others:
        raise settings.error("layer_types", f"{shown(others[0])} cannot be imported, only 'full_attention'")
    if kind == "llama" and settings.has("sliding_window"):
        raise settings.error("sliding_window", "attention to a window cannot be imported")
    heads, width = settings.get("num_attention_heads", int), settings.get("hidden_size", int)
    base = settings.get("rope_parameters.rope_theta", float, settings.get("rope_theta", float, 10_000.0))
    return {
        "kind": "decoder_only",
        "context": settings.get("max_position_embeddings", int, 2048),
        "width": width,
        "feed_forward": settings.get("intermediate_size", int),
        "layers": layers,
        "heads": heads,
        "key_value_heads": settings.get("num_key_value_heads", int, heads),
        "head_width": settings.get("head_dim", int, 128 if kind == "qwen3" else width // heads),
        "has_query_key_norm": kind == "qwen3",
        "rotary_base": base,
        "norm_epsilon": settings.get("rms_norm_eps", float, 1e-6),
        "is_tied": settings.get("tie_word_embeddings", bool, False),
        "attention_dropout": settings.get("attention_dropout", float, 0.0),
    }


def _gpt2(settings: Settings) -> dict[str, Any]:
    """The table `model`. The file is checked for everything that our model cannot be."""
    width = settings.get("n_embd", int)
    settings.require(
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "n_inner": (4 * width,),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
            "quantization_config": (None,),
        }
    )
    dropout = settings.get("resid_pdrop", float, 0.1)
    if settings.get("embd_pdrop", float, dropout) != dropout:
        warn(f"{settings.origin}: embd_pdrop: another dropout than resid_pdrop, which is imported for both")
    return {
        "kind": "gpt2",
        "context": settings.get("n_positions", int, 1024),
        "width": width,
        "layers": settings.get("n_layer", int),
        "heads": settings.get("n_head", int),
        "dropout": dropout,
        "attention_dropout": settings.get("attn_pdrop", float, 0.1),
        "norm_epsilon": settings.get("layer_norm_epsilon", float, 1e-5),
    }


def _recipe(folder: Path, settings: Settings, model: Mapping[str, Any], size: int) -> Recipe:
    """The recipe of the model; what concerns its training are common values for fine-tuning."""
    values = {
        "task": "language_modeling",
        "license": license_of(folder),
        "tokenizer": {"kind": "byte_bpe", "size": size},
        "model": dict(model),
        "batch": {"tokens": max(4096, model["context"])},
        "optimizer": {"kind": "adamw", "learning_rate": LEARNING_RATE, "betas": [0.9, 0.95], "weight_decay": 0.1},
        "schedule": {"kind": "polynomial", "power": 1.0, "warmup_steps": 50},
        "engine": {"steps": 1000, "evaluate_every": 100, "save_every": 100, "log_every": 10, "clip_norm": 1.0},
    }
    return recipe.validate(recipe.Draft(values, {}, settings.origin), Recipe)


# --- Tokenizer ---


def _tokenizer(folder: Path, settings: Settings) -> Tokenizer:
    """The tokenizer, whose end token is that of Segue. Raises a UserError if it is of another kind than ours."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{path}: missing; Segue reads byte-level BPE in this file, and not sentencepiece's tokenizer.model: with "
            "transformers, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it for GPT-2"
        )
    state = load_json(path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: a table of keys and values is wanted")
    model, normalizer = state.get("model") or {}, state.get("normalizer")
    if model.get("type", "BPE") != "BPE" or (normalizer is not None and normalizer.get("type") != "NFC"):
        raise _foreign(path)
    end = _end(state, settings, path)
    for added in state["added_tokens"]:
        if added["id"] == end:
            _rename(model["vocab"], added["content"])
            added |= {"content": END, "special": True, "lstrip": False, "rstrip": False}
    # Segue adds the end token itself, and cuts texts itself.
    state |= {"post_processor": None, "truncation": None, "padding": None}
    try:
        found = Tokenizer(hf.Tokenizer.from_str(json.dumps(state)))
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None
    except Exception as problem:  # the package raises nothing narrower
        raise UserError(f"{path}: not a tokenizer: {problem}") from None
    if found.split is None or len({piece for piece in found.pieces if len(piece) == 1}) < NUM_BYTES:
        raise _foreign(path)
    return found


def _foreign(path: Path) -> UserError:
    return UserError(
        f"{path}: no byte-level BPE that Segue knows (as those of GPT-2, Llama 3, Qwen): sentencepiece, as in Llama 2, "
        "and other ways to split texts cannot be imported"
    )


def _end(state: Mapping[str, Any], settings: Settings, path: Path) -> int:
    """The number of the token that ends a text."""
    names = {added["id"]: added["content"] for added in state.get("added_tokens", [])}
    ends = settings.get("eos_token_id", object, 50256 if settings.get("model_type", str) == "gpt2" else None)
    end = ends[0] if isinstance(ends, list) and ends else ends
    if not isinstance(end, int) or isinstance(end, bool):
        raise settings.error("eos_token_id", "missing: a model needs a token that ends texts")
    known = next((number for number, name in names.items() if name == END), end)
    if known != end:
        warn(f"{settings.origin}: eos_token_id: {names.get(end, end)} ends a turn; texts end with {END} in Segue")
    if known not in names:
        raise settings.error("eos_token_id", f"{known} is none of the special tokens in {path.name}")
    begin = settings.get("bos_token_id", int, known)
    if begin != known and begin in names:
        warn(
            f"{settings.origin}: bos_token_id: {names[begin]} began the texts that the model has learned from; Segue "
            f"begins them with {names[known]}, so it predicts them less well until it is trained"
        )
    return known


def _rename(vocabulary: dict[str, int], name: str) -> None:
    if name in vocabulary:
        vocabulary[END] = vocabulary.pop(name)


# --- Weights ---


def _of_llama(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], file: Path) -> dict[str, Tensor]:
    """The weights by our names."""
    names = {name: llama_name(name) for name in wanted}
    weights.check(tensors, {names[name]: shape for name, shape in wanted.items()}, str(file), CONFIG)
    copied = {"lm_head.weight": names["embedding.weight"]}
    _check_others(tensors, set(names.values()), copied, ("rotary_emb.inv_freq",), file)
    return {name: tensors[theirs].float() for name, theirs in names.items()}


def _of_gpt2(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], file: Path) -> dict[str, Tensor]:
    """The weights by our names."""
    tensors = {name if name.startswith((PREFIX, "lm_head.")) else PREFIX + name: each for name, each in tensors.items()}
    shapes, found = dict[str, tuple[int, ...]](), dict[str, Tensor]()
    for name, shape in wanted.items():
        if _is_fused(name):
            shapes[_fused(name)] = (shape[0], 3 * shape[0]) if len(shape) == 2 else (3 * shape[0],)
        else:
            shapes[gpt2_name(name)] = shape[::-1] if is_transposed(name) else shape
    weights.check(tensors, shapes, str(file), CONFIG)
    copied = {"lm_head.weight": gpt2_name("embedding.weight")}
    _check_others(tensors, set(shapes), copied, (".attn.bias", ".attn.masked_bias"), file)
    for name in wanted:
        if _is_fused(name):
            part = tensors[_fused(name)].float().chunk(3, dim=-1)[FUSED.index(name.split(".")[-2])]
            found[name] = part.T.contiguous() if part.ndim == 2 else part.clone()
        else:
            value = tensors[gpt2_name(name)].float()
            found[name] = value.T.contiguous() if is_transposed(name) else value
    return found


def _is_fused(name: str) -> bool:
    return name.split(".")[-2] in FUSED


def _fused(name: str) -> str:
    layer, kind = name.rsplit(".", 2)[0], name.rpartition(".")[2]
    return gpt2_name(f"{layer}.c_attn.{kind}")


def _check_others(
    tensors: Mapping[str, Tensor], used: set[str], copied: Mapping[str, str], left_out: tuple[str, ...], file: Path
) -> None:
    """Raises a UserError if the file has weights that our model has not: only copies and constants are left out."""
    for name, tensor in tensors.items():
        if name in used or name.endswith(left_out):
            continue
        if name not in copied:
            raise UserError(f"{file}: {name}: Segue's model has no such weights")
        if not torch.equal(tensor, tensors[copied[name]]):
            raise UserError(f"{file}: {name}: differs from {copied[name]}, but tie_word_embeddings is true")
