"""How is a language model exported to GGUF? One file for llama.cpp, and so for Ollama and LM Studio.

The tokenizer is included. Architectures llama, qwen3 and gpt2. Only byte-level BPE with a split that llama.cpp knows
can be written: others have no merges, or would be cut into other tokens there. The file begins each text with the end
token, as Segue does.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data.documents import END
from segue.data.tokenizer import Tokenizer
from segue.errors import UserError
from segue.formats import huggingface_language
from segue.formats.exporter import Exporter
from segue.models.gpt2 import GPT2Section
from segue.tasks.language_modeling import Trained
from segue.tasks.language_modeling.backend import Model

FILE = "model.gguf"
TYPES = {"float32": "F32", "float16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
"""Kinds of weights in Segue -> in GGUF."""
SPLITS = {"gpt2": "gpt-2", "llama3": "llama-bpe", "qwen2": "qwen2"}
"""Splits of the tokenizer in Segue -> in llama.cpp."""
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # types of tokens


def write(model: Model, tokenizer: Tokenizer, path: Path, weights: str = "float32") -> None:
    """Writes the file. Rows whose length is no multiple of 32 stay in float32.

    Raises a UserError for a tokenizer that llama.cpp does not know.
    """
    import gguf

    split = checked_split(tokenizer)
    section = model.section
    is_gpt2 = isinstance(section, GPT2Section)
    has_norms = not isinstance(section, GPT2Section) and section.has_query_key_norm
    architecture = gguf.MODEL_ARCH.GPT2 if is_gpt2 else gguf.MODEL_ARCH.QWEN3 if has_norms else gguf.MODEL_ARCH.LLAMA
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(section.context)
    writer.add_embedding_length(section.width)
    writer.add_block_count(section.layers)
    writer.add_head_count(section.heads)
    writer.add_vocab_size(len(tokenizer))
    if isinstance(section, GPT2Section):
        writer.add_feed_forward_length(4 * section.width)
        writer.add_layer_norm_eps(section.norm_epsilon)
    else:
        writer.add_feed_forward_length(section.feed_forward)
        writer.add_head_count_kv(section.key_value_heads or section.heads)
        writer.add_layer_norm_rms_eps(section.norm_epsilon)
        writer.add_key_length(section.size_of_head)
        writer.add_value_length(section.size_of_head)
        writer.add_rope_dimension_count(section.size_of_head)
        writer.add_rope_freq_base(section.rotary_base)
    wanted = gguf.GGMLQuantizationType[TYPES[weights]]
    writer.add_file_type(int(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(wanted.name, f"MOSTLY_{wanted.name}")]))
    _add_tokenizer(writer, tokenizer, split)
    names = gguf.get_tensor_name_map(architecture, section.layers)
    for name, tensor in huggingface_language.weights(model).items():
        values = tensor.numpy()
        if is_gpt2 and ".c_" in name and values.ndim == 2:
            values = values.T  # GPT-2 alone has matrices as (inputs, outputs)
        if architecture == gguf.MODEL_ARCH.LLAMA and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = in_pairs(values, section.size_of_head)
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        kind = _kind(values, name, wanted)
        writer.add_tensor(known, gguf.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def checked_split(tokenizer: Tokenizer) -> str:
    """The name of the tokenizer's split in llama.cpp. Raises a UserError if it has none, or the tokenizer no merges."""
    split = tokenizer.split
    if split is None or not json.loads(tokenizer.to_json())["model"].get("merges"):
        raise UserError(
            'tokenizer: llama.cpp reads byte-level BPE only (kind = "byte_bpe"), and this one has no merges of bytes; '
            "export to ctranslate2, onnx or huggingface instead"
        )
    if split not in SPLITS:
        raise UserError("tokenizer: it splits texts by a rule that llama.cpp does not know; export to another target")
    return SPLITS[split]


def in_pairs(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Rows of queries or keys in the order of llama.cpp, which rotates neighbors, not the halves of a head."""
    halves = rows.reshape(-1, 2, width // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _kind(values: NDArray[np.float32], name: str, wanted: Any) -> Any:
    """The type in which a tensor is stored."""
    import gguf

    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    is_matrix = values.ndim == 2 and "wpe" not in name and values.shape[1] % block == 0
    return wanted if is_matrix else gguf.GGMLQuantizationType.F32


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, split: str) -> None:
    state = json.loads(tokenizer.to_json())
    added = {each["content"] for each in state["added_tokens"]}
    types = [
        _CONTROL if token in tokenizer.special else _USER_DEFINED if token in added else _NORMAL
        for token in tokenizer.tokens
    ]
    merges = [each if isinstance(each, str) else " ".join(each) for each in state["model"]["merges"]]
    end = tokenizer.special[END]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(True)


# --- Exporter ---


class LlamaCppRuntime:
    """Runs a file with llama.cpp, for the comparison."""

    def __init__(self, path: Path, context: int, end: int, vocabulary: int, threads: int) -> None:
        import xllamacpp

        wanted = xllamacpp.CommonParams()
        wanted.model.path = str(path)
        wanted.n_ctx, wanted.n_parallel, wanted.n_gpu_layers = context, 1, 0
        # Its cache would be float16, and fast attention rounds to it: scores would differ a thousand times as much.
        wanted.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        wanted.cache_type_k = wanted.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
        wanted.warmup, wanted.verbosity = False, -1
        self._server: Any = xllamacpp.Server(wanted)
        self._end, self._vocabulary = end, vocabulary
        self.longest = context - 1
        """Its server does not answer if a prompt fills the context."""

    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats.

        One token at a time: llama.cpp tells the probability of a token that it has generated, so each is made to be.
        """
        found = np.zeros(inputs.shape, np.float32)
        for row, (tokens, wanted) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
            for place, target in enumerate(wanted):
                found[row, place] = -self._log_probability(tokens[: place + 1], target)
        return found

    def continued(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
        """The likeliest tokens after each prompt."""
        found = []
        for prompt in prompts:
            tokens: list[int] = self._complete(prompt, num_tokens)["__verbose"]["tokens"]
            found.append(tokens[: tokens.index(self._end)] if self._end in tokens else tokens)
        return found

    def _log_probability(self, prompt: Sequence[int], token: int) -> float:
        said = self._complete(prompt, 1, logit_bias=[[token, 1e9]], n_probs=1)["choices"][0]["logprobs"]
        if said is None:  # of a part of a character, nothing is told, except among all tokens beside another one
            beside = self._complete(prompt, 1, logit_bias=[[self._end, 1e9]], n_probs=self._vocabulary)
            [only] = beside["choices"][0]["logprobs"]["content"]
            return float(next(each["logprob"] for each in only["top_logprobs"] if each["id"] == token))
        [only] = said["content"]
        assert only["id"] == token
        return float(only["logprob"])

    def _complete(self, prompt: Sequence[int], num_tokens: int, **more: Any) -> dict[str, Any]:
        """The answer for a prompt; log-probabilities in it are those before biases."""
        asked = {"prompt": list(prompt), "n_predict": num_tokens, "temperature": 0, "cache_prompt": True}
        found: dict[str, Any] = self._server.handle_completions(
            {**asked, "return_tokens": True, "verbose": True, **more}
        )
        if "choices" not in found:
            raise RuntimeError(f"llama.cpp: {found}")
        return found


def _write(trained: Trained, folder: Path, weights: str) -> None:
    write(trained.model, trained.tokenizer, folder / FILE, weights)


def _use(trained: Trained, folder: str) -> str:
    del trained
    return f"""With [llama.cpp](https://github.com/ggml-org/llama.cpp):

```
llama-completion --model {folder}/{FILE} --prompt "Once upon a time" --predict 100
```

or with [Ollama](https://ollama.com), from a `Modelfile` with the line `FROM ./{folder}/{FILE}`.
"""


def _run(trained: Trained, folder: Path, threads: int) -> LlamaCppRuntime:
    return LlamaCppRuntime(folder / FILE, trained.recipe.model.context, trained.end, len(trained.tokenizer), threads)


LANGUAGE = Exporter(
    packages=("xllamacpp", "gguf"),
    write=_write,
    run=_run,
    use=_use,
    quantizations=("q8_0", "q4_0", "float16"),
)
