"""How is a language model exported to Hugging Face's transformers? As one of three of its classes.

LlamaForCausalLM, Qwen3ForCausalLM (with QK-norm) and GPT2LMHeadModel. `AutoModelForCausalLM` and `AutoTokenizer` of
transformers 4 and 5 load the result without Segue, and so do programs that read such folders, as vLLM. The scores are
the same. The tokenizer begins each text with the end token, as Segue does, and never takes a part of a text for it.

Shape letters: B rows, T tokens, D width, V vocabulary.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segue import card
from segue.data.documents import END
from segue.data.tokenizer import Tokenizer
from segue.decoding.sampling import SamplingSection
from segue.engine.state.checkpoint import write_tensors, write_text
from segue.formats.exporter import Exporter
from segue.formats.huggingface import loaded
from segue.models.decoder_only import DecoderOnlySection
from segue.models.gpt2 import GPT2Section
from segue.tasks.language_modeling import Trained
from segue.tasks.language_modeling.backend import Model

LLAMA, QWEN3, GPT2 = "LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel"
LLAMA_NAMES = {
    "embedding": "model.embed_tokens",
    "layers": "model.layers",
    "norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "attention": "self_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward": "mlp",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
"""Part of a parameter name in Segue -> in Llama and Qwen3."""
GPT2_NAMES = {
    "embedding": "wte",
    "positions": "wpe",
    "layers": "h",
    "norm": "ln_f",
    "attention_norm": "ln_1",
    "attention": "attn",
    "output": "c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward": "mlp",
    "up": "c_fc",
    "down": "c_proj",
}
"""Part of a parameter name in Segue -> in GPT-2, but for queries, keys and values, which are one there."""
FUSED = ("query", "key", "value")
"""The parts of GPT-2's `attn.c_attn`, in order."""
PREFIX = "transformer."
"""Of names in GPT-2; files of its body alone have none."""
TOKEN_TABLES = ("embedding.weight", "head.weight")
"""Parameters with a row for each token."""
_LINEAR = re.compile(r"\.(output|up|down)\.weight$")


def llama_name(name: str) -> str:
    """Llama's name of a parameter."""
    return ".".join(LLAMA_NAMES.get(part, part) for part in name.split("."))


def gpt2_name(name: str) -> str:
    """GPT-2's name of a parameter that is no query, key or value."""
    return PREFIX + ".".join(GPT2_NAMES.get(part, part) for part in name.split("."))


def is_transposed(name: str) -> bool:
    """Whether GPT-2 has this matrix as (inputs, outputs)."""
    return _LINEAR.search(name) is not None


def weights(model: Model) -> dict[str, Tensor]:
    """The model's parameters under the names of its class in transformers, without rows that only pad."""
    tensors = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    tensors |= {name: tensors[name][: model.vocabulary] for name in TOKEN_TABLES if name in tensors}
    if isinstance(model.section, DecoderOnlySection):
        return {llama_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    found = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if ".attention." in name and name.split(".")[-2] in FUSED:
            continue
        found[gpt2_name(name)] = tensor.T if is_transposed(name) else tensor
    for layer in range(model.section.layers):
        attention = f"layers.{layer}.attention"
        for kind in ("weight", "bias"):
            whole = torch.cat([tensors[f"{attention}.{part}.{kind}"] for part in FUSED])
            found[gpt2_name(f"{attention}.c_attn.{kind}")] = whole.T if kind == "weight" else whole
    return {name: tensor.contiguous() for name, tensor in found.items()}


def config(section: DecoderOnlySection | GPT2Section, vocabulary: int, end: int) -> dict[str, Any]:
    """The content of `config.json`, for transformers 4 and 5."""
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    kinds = {"torch_dtype": "float32", "dtype": "float32"}  # transformers 4, and 5
    if isinstance(section, GPT2Section):
        return {
            "architectures": [GPT2],
            "model_type": "gpt2",
            "vocab_size": vocabulary,
            "n_positions": section.context,
            "n_embd": section.width,
            "n_layer": section.layers,
            "n_head": section.heads,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": section.norm_epsilon,
            "embd_pdrop": section.dropout,
            "resid_pdrop": section.dropout,
            "attn_pdrop": section.attention_dropout,
            "tie_word_embeddings": True,
            **ends,
            **kinds,
        }
    return {
        "architectures": [QWEN3 if section.has_query_key_norm else LLAMA],
        "model_type": "qwen3" if section.has_query_key_norm else "llama",
        "vocab_size": vocabulary,
        "hidden_size": section.width,
        "intermediate_size": section.feed_forward,
        "num_hidden_layers": section.layers,
        "num_attention_heads": section.heads,
        "num_key_value_heads": section.key_value_heads or section.heads,
        "head_dim": section.size_of_head,
        "hidden_act": "silu",
        "max_position_embeddings": section.context,
        "rms_norm_eps": section.norm_epsilon,
        "tie_word_embeddings": section.is_tied,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": section.attention_dropout,
        "rope_theta": section.rotary_base,  # transformers 4, and 5
        "rope_parameters": {"rope_theta": section.rotary_base, "rope_type": "default"},
        "rope_scaling": None,
        **ends,
        **kinds,
    }


def write(model: Model, tokenizer: Tokenizer, sampling: SamplingSection, folder: Path) -> None:
    """Writes the model, and its tokenizer, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    end, context = tokenizer.special[END], model.section.context
    write_tensors(folder / "model.safetensors", weights(model), {"format": "pt"})
    _write_json(folder / "config.json", config(model.section, len(tokenizer), end))
    _write_json(folder / "generation_config.json", _generation(sampling, end))
    named = {"bos_token": END, "eos_token": END, "pad_token": END}
    settings = {
        # Not TokenizersBackend, the name in transformers 5, which version 4 and other programs do not know.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "split_special_tokens": True,  # "<|endoftext|>" in a text is ordinary text
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "padding_side": "left",
    }
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", named)
    write_text(folder / "tokenizer.json", beginning_with_end(tokenizer))


def beginning_with_end(tokenizer: Tokenizer) -> str:
    """The content of `tokenizer.json`, with texts that begin with the end token."""
    state = json.loads(tokenizer.to_json())
    number = tokenizer.special[END]
    special = {"SpecialToken": {"id": END, "type_id": 0}}
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [special, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {END: {"id": END, "ids": [number], "tokens": [END]}},
    }
    return json.dumps(state, ensure_ascii=False, indent=2) + "\n"


def _generation(sampling: SamplingSection, end: int) -> dict[str, Any]:
    """The content of `generation_config.json`: how tokens are drawn."""
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    penalty = {"repetition_penalty": sampling.repetition_penalty}
    if sampling.temperature == 0:
        return {**ends, "do_sample": False, **penalty}
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    least = {"min_p": sampling.min_p} if sampling.min_p else {}
    return {**ends, "do_sample": True, **drawn, **least, **penalty}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


# --- Exporter ---


class TransformersRuntime:
    """Runs an export with transformers, for the comparison."""

    def __init__(self, folder: Path, end: int, longest: int) -> None:
        self.model = loaded("AutoModelForCausalLM", folder)
        self._end, self.longest = end, longest

    @torch.inference_mode()
    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats."""
        logits = self.model(input_ids=torch.from_numpy(inputs)).logits
        return F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(targets), reduction="none").numpy()

    @torch.inference_mode()
    def continued(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
        """The likeliest tokens after each prompt."""
        longest = max(map(len, prompts))
        padded = torch.tensor([[self._end] * (longest - len(row)) + list(row) for row in prompts])
        is_real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
        found = self.model.generate(
            input_ids=padded,
            attention_mask=is_real,
            max_new_tokens=num_tokens,
            do_sample=False,
            temperature=None,
            top_k=None,
            top_p=None,
            min_p=None,
            repetition_penalty=1.0,
        )
        rows = found[:, longest:].tolist()
        return [row[: row.index(self._end)] if self._end in row else row for row in rows]


def _write(trained: Trained, folder: Path, kind: str) -> None:
    del kind
    write(trained.model, trained.tokenizer, trained.recipe.sampling, folder)


def _run(trained: Trained, folder: Path, threads: int) -> TransformersRuntime:
    del threads
    return TransformersRuntime(folder, trained.end, trained.recipe.model.context)


def _use(trained: Trained, folder: str) -> str:
    del trained
    code = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
batch = tokenizer(["Once upon a time"], return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**batch, max_new_tokens=100)[0], skip_special_tokens=True))"""
    return f"With transformers, version 4 or 5:\n\n{card.python(code)}"


LANGUAGE = Exporter(
    packages=("transformers",),
    write=_write,
    run=_run,
    use=_use,
    quantizations=(),
)
