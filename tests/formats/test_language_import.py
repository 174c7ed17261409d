"""Language models that transformers itself made and saved, against the models that they become here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

import segue
from segue import formats, tasks
from segue.data.documents import END
from segue.data.tokenizer import SPLITS
from segue.decoding.sampling import SamplingSection
from segue.errors import UserError
from segue.formats.importing import import_model

TEXT = "The dog likes the fox's door, 123456 times!\n\n  Isn't it \t grün? 東京 " + END
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}


def tokenizer_of(split: str, special: list[str]) -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel
    if split == "gpt2":
        tokenizer.pre_tokenizer = level(add_prefix_space=False)
    else:
        pattern = next(pattern for pattern, name in SPLITS.items() if name == split)
        cut = pre_tokenizers.Split(hf.Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, level(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=level.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([TEXT.replace(END, "") * 3], trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer


def saved(kind: str, folder: Path) -> Path:
    """A random model of transformers in a folder, as `save_pretrained` writes it."""
    import transformers as untyped

    transformers: Any = untyped
    special = {"llama": ["<|begin_of_text|>", "<|end_of_text|>"], "gpt2": [END], "qwen3": [END, "<|im_start|>"]}[kind]
    inner = tokenizer_of({"llama": "llama3", "qwen3": "qwen2"}.get(kind, kind), special)
    size = inner.get_vocab_size()
    ends = {"eos_token_id": size - 2 if kind == "qwen3" else size - 1}
    model: Any
    more: dict[str, Any]
    torch.manual_seed(0)
    if kind == "gpt2":
        section = transformers.GPT2Config(vocab_size=size, n_positions=48, n_embd=32, n_layer=2, n_head=4, **ends)
        model = transformers.GPT2LMHeadModel(section)
    elif kind == "llama":
        more = {"num_key_value_heads": 2, "max_position_embeddings": 48, "rope_theta": 5e5, "bos_token_id": size - 2}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=size, **SIZES, **more, **ends))
    else:  # rows without a token, as Qwen has them
        more = {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 48, "tie_word_embeddings": True}
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=size + 5, **SIZES, **more, **ends))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms, too
    model.save_pretrained(folder, max_shard_size="30KB" if kind == "llama" else "5GB")
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=special[-1]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp("theirs") / request.param)


@pytest.fixture
def llama(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path / "llama")


def changed(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_imported_models_score_as_in_transformers(theirs: Path, tmp_path: Path) -> None:
    import transformers as untyped

    transformers: Any = untyped
    import_model(theirs, tmp_path / "out")
    trained = tasks.restore(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(theirs).eval()
    inner = hf.Tokenizer.from_file(str(theirs / "tokenizer.json"))
    text = TEXT.replace(END, "")
    tokens = trained.tokenizer.encode(text)
    assert tokens == inner.encode(text, add_special_tokens=False).ids
    assert trained.tokenizer.decode_exactly(trained.tokenizer.encode(TEXT)) == TEXT  # no text is the end token
    assert trained.end == model.config.eos_token_id
    given = torch.tensor([[trained.end, *tokens][:48]])
    with torch.inference_mode():
        expected = model(given).logits[..., : len(trained.tokenizer)]
        torch.testing.assert_close(trained.model.scores(given), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_imported_models_go_all_roads(theirs: Path, tmp_path: Path) -> None:
    """Except training, for which `segue train --from` is tested by itself."""
    import_model(theirs, tmp_path / "out")
    text = tmp_path / "text.txt"
    text.write_text("The dog likes the fox's door.\n" * 30)
    model = segue.load(tmp_path / "out")
    assert model.evaluate(text)["bits_per_byte"] > 0
    found = formats.export(tmp_path / "out", "onnx", tmp_path / "onnx", examples=text)
    assert (found.identical, found.worst_difference < 1e-4) == (1, True)
    sampling = SamplingSection(seed=1)
    texts = [each.generate("The", tokens=9, sampling=sampling) for each in (model, segue.load(tmp_path / "onnx"))]
    assert texts[0] == texts[1]
    found = formats.export(tmp_path / "out", "gguf", tmp_path / "gguf", examples=text)
    assert (found.identical, found.worst_difference < 1e-3) == (1, True)


def test_llama_cpp_cuts_texts_as_we_do(theirs: Path, tmp_path: Path) -> None:
    import xllamacpp

    from segue.formats import gguf

    import_model(theirs, tmp_path / "out")
    trained = tasks.restore(tmp_path / "out")
    gguf.write(trained.model, trained.tokenizer, tmp_path / "model.gguf")
    wanted = xllamacpp.CommonParams()
    wanted.model.path, wanted.n_ctx, wanted.verbosity, wanted.warmup = str(tmp_path / "model.gguf"), 48, -1, False
    server = xllamacpp.Server(wanted)
    for text in ("The dog's 12345", "  two\n\n  lines\t", "grün 東京"):
        answer = server.handle_completions({"prompt": text, "n_predict": 1, "temperature": 0})
        assert answer["usage"]["prompt_tokens"] == 1 + len(trained.tokenizer.encode(text))  # with the end token


def test_a_training_goes_on_from_an_imported_model(llama: Path, tmp_path: Path) -> None:
    from segue.cli import main

    (tmp_path / "train.txt").write_text("The dog likes the fox's door.\n" * 200)
    import_model(llama, tmp_path / "base")
    steps = ("engine.steps=2", "engine.evaluate_every=2", "engine.save_every=2", "batch.tokens=96", "engine.threads=1")
    data = (f"data.root={tmp_path}", 'data.train=["train.txt"]')
    assert main(["train", "--from", str(tmp_path / "base"), "--out", str(tmp_path / "run"), *data, *steps]) == 0
    assert segue.load(tmp_path / "run").tokenizer.tokens == segue.load(tmp_path / "base").tokenizer.tokens


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters.rope_type: 'llama3' cannot be"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: .* cannot be imported"),
        ({"attention_bias": True}, "attention_bias: true cannot be imported, only false"),
        ({"mlp_bias": True}, "mlp_bias: true cannot be imported"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' cannot be imported, only 'silu'"),
        ({"sliding_window": 512}, "sliding_window: attention to a window cannot be imported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: 'sliding_attention' cannot be"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor: 0.5 cannot be imported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: .* cannot be imported"),
        ({"model_type": "gemma2"}, "model_type: 'gemma2' cannot be imported, only marian, llama, qwen3, gpt2"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures: .*only LlamaForCausalLM"),
        ({"eos_token_id": None}, "eos_token_id: missing"),
        ({"eos_token_id": 5}, "eos_token_id: 5 is none of the special tokens"),
        ({"vocab_size": 100}, r"vocab_size: 100, but the tokenizer has \d+ tokens"),
        ({"vocab_size": 400}, r"has shape \(\d+, 32\), config.json says \(400, 32\)"),
        ({"num_hidden_layers": 1}, "model.layers.1.*: Segue's model has no such weights"),
        ({"hidden_size": 34}, "not a multiple of heads|has shape"),
    ],
)
def test_what_our_models_cannot_be_is_refused_by_its_key(
    llama: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        import_model(changed(llama, **values), tmp_path / "out")
    assert len(str(raised.value).splitlines()) < 3
    assert not (tmp_path / "out").exists()


def test_gpt2_is_checked_by_its_keys(tmp_path: Path) -> None:
    folder = saved("gpt2", tmp_path / "gpt2")
    for values, message in (
        ({"activation_function": "relu"}, "activation_function: 'relu' cannot be imported, only 'gelu_new'"),
        ({"n_inner": 100}, "n_inner: 100 cannot be imported, only 128"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: true cannot"),
    ):
        copied = shutil.copytree(folder, tmp_path / "changed")
        with pytest.raises(UserError, match=message):
            import_model(changed(copied, **values), tmp_path / "out")
        shutil.rmtree(copied)


def test_other_tokenizers_are_refused(llama: Path, tmp_path: Path) -> None:
    path = llama / "tokenizer.json"
    state = json.loads(path.read_text())
    for change in (
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": state["model"] | {"vocab": {}, "merges": []}},
    ):
        path.write_text(json.dumps(state | change))
        with pytest.raises(UserError, match=r"no byte-level BPE that Segue knows|tokenizer.json"):
            import_model(llama, tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"missing; Segue reads byte-level BPE.*sentencepiece"):
        import_model(llama, tmp_path / "out")


def test_a_shard_that_is_missing_is_named(llama: Path, tmp_path: Path) -> None:
    [first, *_] = sorted(llama.glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(UserError, match=f"{first}: missing; model.safetensors.index.json lists it"):
        import_model(llama, tmp_path / "out")
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(UserError, match="is no safetensors file beside it"):
        import_model(llama, tmp_path / "out")
