"""Language models in other runtimes against the PyTorch models that they were written from."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segue
from segue import formats, recipe, tasks
from segue.data import tokenizer as tokenizers
from segue.data.documents import END
from segue.decoding.sampling import SamplingSection
from segue.engine.state.checkpoint import write_tensors, write_text
from segue.errors import UserError
from segue.formats import gguf, importing
from segue.runtime.table import TASKS
from segue.tasks.language_modeling import Recipe, Trained

SIZES: dict[str, Any] = {"context": 32, "width": 32, "layers": 2, "heads": 4}
LLAMA: dict[str, Any] = {"kind": "decoder_only", **SIZES, "feed_forward": 64}
BYTE_BPE: dict[str, Any] = {"kind": "byte_bpe", "size": 300}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": ({**LLAMA, "key_value_heads": 2, "padded_vocabulary": 64}, BYTE_BPE),
    "qwen3": ({**LLAMA, "has_query_key_norm": True, "key_value_heads": 2, "rotary_base": 5e4}, BYTE_BPE),
    "gpt2": ({"kind": "gpt2", **SIZES, "padded_vocabulary": 64}, BYTE_BPE),
    "characters": ({**LLAMA, "is_tied": False, "head_width": 16}, {"kind": "characters", "alphabet": "auto"}),
}
PROMPTS = ["The dog", "", "A cat sees my"]


def lines(count: int, seed: int) -> str:
    draw = random.Random(seed)
    parts = (("A cat", "The dog", "My bird"), ("sees", "hears"), ("all", "near"), ("door", "tree", "mat"))
    return "".join(" ".join(draw.choice(part) for part in parts) + ".\n" for _ in range(count))


def taught(name: str, folder: Path) -> Path:
    """A model directory: a model that is taught a little, so that its likeliest tokens are no matter of chance."""
    folder.mkdir()
    train = lines(1000, 0)
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(lines(60, 1))
    model, kind = MODELS[name]
    values = {
        "task": "language_modeling",
        "data": {"root": str(folder), "train": ["train.txt"]},
        "tokenizer": kind,
        "model": model,
        "batch": {"tokens": 256},
        "optimizer": {"kind": "adamw", "learning_rate": 3e-3},
        "schedule": {"kind": "polynomial", "warmup_steps": 5},
        "engine": {"steps": 20, "evaluate_every": 20, "save_every": 20, "log_every": 10, "threads": 1},
    }
    section = recipe.validate(recipe.Draft(values, {}, "test"), Recipe)
    section = section.model_copy(update={"tokenizer": tokenizers.resolved(section.tokenizer, [train], 1)})
    tokenizer = tokenizers.build(section.tokenizer, [train], (END,))
    torch.manual_seed(0)
    built = section.model.build(len(tokenizer))
    built.initialize()
    stream = torch.tensor(tokenizer.encode(train))
    optimizer = torch.optim.AdamW(built.parameters(), lr=5e-3)
    for step in range(40):
        at = torch.randint(0, len(stream) - 33, (8, 1), generator=torch.Generator().manual_seed(step))
        windows = stream[at + torch.arange(33)]
        windows[:, 0] = tokenizer.special[END]
        loss, _ = built(windows[:, :-1], windows[:, 1:])
        optimizer.zero_grad()
        (loss / 256).backward()
        optimizer.step()
    out = folder / "model"
    out.mkdir()
    write_text(out / "recipe.toml", recipe.dump(section))
    tokenizer.save(out / "tokenizer.json")
    write_tensors(out / "model.safetensors", built.state_dict())
    return folder


# Writing graphs takes long: one model in make test, the others among the slow proofs.
@pytest.fixture(
    scope="module",
    params=["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "llama")],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize(
    ("model", "target"),
    [
        pytest.param(
            *(model, target),
            # Tracing takes ten seconds.
            marks=pytest.mark.slow if model != "llama" else (),
        )
        for model in MODELS
        for target in TASKS["language_modeling"].targets
    ],
    indirect=["model"],
)
def test_exports_predict_and_continue_the_same(model: Path, target: str, tmp_path: Path) -> None:
    if (model.name, target) == ("characters", "gguf"):
        with pytest.raises(UserError, match=r"llama\.cpp reads byte-level BPE only"):
            formats.export(model, target, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    found = formats.export(model, target, tmp_path / "out")
    assert found.worst_difference < (1e-3 if target == "gguf" else 2e-5)  # GELU is a table in llama.cpp
    assert found.identical == 1
    assert found.metric == "loss"
    assert 0.2 < found.before < 2  # taught
    assert found.after == pytest.approx(found.before, abs=1e-4)
    assert found.examples == [str(model / "test.txt")]
    assert json.loads((tmp_path / "out" / "segue.json").read_text())["context"] == 32
    if TASKS["language_modeling"].targets[target].opens is None:
        with pytest.raises(UserError, match="Segue does not run itself"):
            segue.load(tmp_path / "out")
        return
    ours, theirs = segue.load(model), segue.load(tmp_path / "out", threads=1)
    assert theirs.evaluate(model / "test.txt")["loss"] == pytest.approx(ours.evaluate(model / "test.txt")["loss"])
    settings: list[dict[str, Any]] = [{}, {"temperature": 0}, {"top_k": 5, "repetition_penalty": 1.3}]
    for settled in settings:
        for more in ({"tokens": 15, "stop": ["door"]}, {"tokens": 45, "is_sliding": True}):
            sampling = SamplingSection(seed=3, **settled)
            texts = [each.generate(PROMPTS, samples=2, sampling=sampling, **more) for each in (ours, theirs)]
            assert texts[0] == texts[1]
    assert "".join(theirs.stream("The", tokens=9)) == theirs.generate("The", tokens=9)[0][0].text


@pytest.mark.parametrize(
    ("target", "weights"),
    [
        *(("ctranslate2", "int8"), ("gguf", "q8_0")),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("onnx", "float16"), ("gguf", "float16"))),
        ("onnx", "int8"),
    ],
)
def test_smaller_weights_are_guarded_by_perplexity(llama: Path, target: str, weights: str, tmp_path: Path) -> None:
    found = formats.export(llama, target, tmp_path / "out", weights=weights, max_metric_loss=3)
    assert found.bytes_after < found.bytes_before
    assert 0 < found.worst_difference < 0.5
    assert found.loss == pytest.approx(100 * (found.after - found.before))  # a hundredth of a nat is a point
    with pytest.raises(UserError, match="points lost"):
        formats.export(llama, target, tmp_path / "strict", weights=weights, max_metric_loss=-50)


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(each, marks=pytest.mark.slow) for each in ("gpt2", "characters"))]
)
def test_all_matrices_of_a_graph_have_8_bits(name: str, tmp_path: Path) -> None:
    """Also the embedding, which is stored once if it is the output layer, too."""
    import onnx

    formats.export(taught(name, tmp_path / name), "onnx", tmp_path / "out", weights="int8", max_metric_loss=3)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    section = MODELS[name][0]
    of_layer = 4  # queries, keys and values; output; gate and up; down
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "MatMulNBits")]
    assert [node.op_type for node in products] == ["MatMulNBits"] * (of_layer * section["layers"] + 1)
    stored = [each.name for each in graph.initializer if each.data_type == onnx.TensorProto.UINT8]
    others = {"gpt2": 1, "characters": 1}.get(name, 0)  # positions; the embedding
    assert len(stored) == len(products) + others
    large = [each.name for each in graph.initializer if len(each.dims) > 1 and each.name not in stored]
    assert all(each.endswith(".scales") or each in ("cosines", "sines") for each in large), large


def test_unknown_weights_and_targets_are_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--quantize q8_0: onnx has no such weights .*int8, float16"):
        formats.export(llama, "onnx", tmp_path / "out", weights="q8_0")
    with pytest.raises(UserError, match=r"sherpa-onnx: not for language_modeling \(targets"):
        formats.export(llama, "sherpa-onnx", tmp_path / "out")
    with pytest.raises(UserError, match="no such file; --examples names a file of texts"):
        formats.export(llama, "huggingface", tmp_path / "out", examples=tmp_path / "missing.txt")


def test_examples_are_held_out_texts_where_there_are_no_others(tmp_path: Path) -> None:
    folder = taught("characters", tmp_path / "characters")
    (folder / "test.txt").rename(folder / "other.txt")
    trained = tasks.restore(folder)
    found = tasks.module("language_modeling").examples(trained.recipe.data, None, False)
    assert found.paths == [folder / "train.txt"]
    assert (folder / "train.txt").read_text().endswith("".join(found.texts))
    (folder / "train.txt").unlink()
    with pytest.raises(UserError, match=r"no texts to compare on: neither test\*.*give --examples FILE"):
        tasks.module("language_modeling").examples(trained.recipe.data, None, False)


@pytest.mark.parametrize("target", ["ctranslate2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_tokenizer_of_another_model_is_one_line(llama: Path, target: str, tmp_path: Path) -> None:
    formats.export(llama, target, tmp_path / "out")
    other = tokenizers.build(tokenizers.BytesSection(kind="bytes"), (), (END,))
    other.save(tmp_path / "out" / "tokenizer.json")
    with pytest.raises(UserError, match="export it again"):
        segue.load(tmp_path / "out")


def test_transformers_cuts_texts_as_we_do(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    formats.export(model, "huggingface", tmp_path / "out")
    theirs, trained = AutoTokenizer.from_pretrained(tmp_path / "out"), tasks.restore(model)
    for text in ("The dog  sees", " my tree.\n\nA"):
        tokens = theirs(text)["input_ids"]
        assert tokens == [trained.end, *trained.tokenizer.encode(text)]
        assert theirs.decode(tokens, skip_special_tokens=True) == text
    if model.name != "characters":
        assert trained.end not in theirs(f"a {END} b")["input_ids"][1:]


def test_rows_that_pad_are_not_exported(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    formats.export(llama, "huggingface", tmp_path / "out")
    trained: Trained = tasks.restore(llama)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert trained.model.embedding.num_embeddings > len(trained.tokenizer)
    assert config["vocab_size"] == len(tensors["model.embed_tokens.weight"]) == len(trained.tokenizer)
    assert "lm_head.weight" not in tensors
    assert (config["rope_theta"], config["torch_dtype"], config["dtype"]) == (10_000.0, "float32", "float32")


def test_queries_are_permuted_for_llama_cpp() -> None:
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)  # two heads of width 4
    assert gguf.in_pairs(rows, 4)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]


def test_exports_to_hugging_face_come_back(model: Path, tmp_path: Path) -> None:
    formats.export(model, "huggingface", tmp_path / "out")
    if model.name == "characters":
        with pytest.raises(UserError, match="no byte-level BPE that Segue knows"):
            importing.import_model(tmp_path / "out", tmp_path / "back")
        return
    importing.import_model(tmp_path / "out", tmp_path / "back")
    before, after = tasks.restore(model), tasks.restore(tmp_path / "back")
    tokens = torch.tensor([[before.end, *before.tokenizer.encode("The dog sees")]])
    assert after.tokenizer.tokens == before.tokenizer.tokens
    torch.testing.assert_close(after.model.scores(tokens), before.model.scores(tokens))
