"""Graphs against the models that they were written from, in onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from segue.decoding.autoregressive import beam_search
from segue.formats.onnx import OnnxSteps, write_recognizer, write_translator
from segue.models.transformer import Cache, Transformer, TransformerSection
from segue.runtime.onnx import session
from segue.tasks.speech_recognition.model import AcousticModel

BEGIN, END = 1, 2


@pytest.fixture(scope="module", params=[pytest.param("jasper", marks=pytest.mark.slow), "quartznet"])
def recognizer(request: pytest.FixtureRequest) -> AcousticModel:
    model: AcousticModel = request.getfixturevalue(request.param)
    return model


@pytest.fixture(scope="module")
def recognizer_path(recognizer: AcousticModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recognizer") / "model.onnx"
    write_recognizer(recognizer, path, {"task": "speech_recognition"})
    return path


def run(path: Path, **inputs: Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return outputs


@pytest.mark.parametrize(
    "lengths", [[1], [39], [40], [200], [12345], [8000, 5000, 1], [41, 41, 41], [4000, 16001, 800]], ids=str
)
def test_the_graph_has_the_models_outputs(recognizer: AcousticModel, recognizer_path: Path, lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    waveforms = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1
    with torch.inference_mode():
        expected, expected_frames = recognizer(waveforms, torch.tensor(lengths))
    log_probs, frames = run(recognizer_path, waveforms=waveforms, lengths=torch.tensor(lengths))
    assert log_probs.dtype == np.float32
    assert frames.tolist() == expected_frames.tolist()
    for row, expected_row, size in zip(log_probs, expected.numpy(), frames, strict=True):
        np.testing.assert_allclose(row[:size], expected_row[:size], atol=2e-4)


def test_batching_changes_no_graph_output(recognizer_path: Path) -> None:
    waveforms, lengths = torch.randn(3, 6000, generator=torch.Generator().manual_seed(0)), [6000, 2500, 300]
    together, frames = run(recognizer_path, waveforms=waveforms, lengths=torch.tensor(lengths))
    for row, size, waveform, length in zip(together, frames, waveforms, lengths, strict=True):
        alone, _ = run(recognizer_path, waveforms=waveform[None, :length], lengths=torch.tensor([length]))
        np.testing.assert_allclose(row[:size], alone[0], atol=2e-4)


def test_one_file_for_old_runtimes_holds_it_all(recognizer: AcousticModel, recognizer_path: Path) -> None:
    assert [path.name for path in recognizer_path.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(recognizer_path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    assert {each.key: each.value for each in model.metadata_props} == {"task": "speech_recognition"}
    assert str(Path(__file__).parent.parent.parent).encode() not in recognizer_path.read_bytes()
    assert [each.name for each in model.graph.input] == ["waveforms", "lengths"]
    assert [each.name for each in model.graph.output] == ["log_probs", "frames"]


def test_batch_norm_and_masks_add_no_nodes(recognizer: AcousticModel, recognizer_path: Path) -> None:
    nodes = onnx.load(recognizer_path).graph.node
    kinds = [node.op_type for node in nodes]
    convolutions = sum(isinstance(module, nn.Conv1d) for module in recognizer.modules())
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == convolutions + 1  # the front end's
    assert kinds.count("Where") == 3  # those of the normalization
    convolution_outputs = {node.output[0] for node in nodes if node.op_type in ("Conv", "Add")}
    assert all(node.input[0] in convolution_outputs for node in nodes if node.op_type == "Relu")
    names = {node.name for node in nodes if node.op_type == "Conv"}
    assert {"front_end.spectrum", "encoder.blocks.1.layers.1.0", "head.output"} <= names


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "the paper's": {"norm": "post"},
    "today's": {
        "decoder_layers": 1,
        "positions": "rotary",
        "activation": "swiglu",
        "key_value_heads": 2,
        "tied": "none",
        "has_biases": False,
    },
    "mixed": {"activation": "swish", "tied": "target", "key_value_heads": 1, "has_output_bias": True},
}


class TorchSteps:
    def __init__(self, model: Transformer, cache: Cache) -> None:
        self.model, self.cache = model, cache

    def step(self, tokens: Tensor) -> Tensor:
        return self.model.step(tokens, self.cache)

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        self.cache.select(rows, sentences)


@pytest.mark.slow  # in make test, an exported translator is compared with its model (test_export.py)
@pytest.mark.parametrize("architecture", [pytest.param(each, id=name) for name, each in ARCHITECTURES.items()])
def test_search_over_graphs_matches_the_model(architecture: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    sizes = {"width": 16, "feed_forward": 24, "heads": 4, "encoder_layers": 1, "decoder_layers": 2}
    section = TransformerSection.model_validate({"kind": "transformer", **sizes, **architecture})
    model = Transformer(section, 12, 12).eval()
    for parameter in model.parameters():  # spread, so that no two outputs are nearly alike
        parameter.data.mul_(2.5)
    write_translator(model, tmp_path, {"task": "translation"})
    encoder, decoder = (session(tmp_path / name) for name in ("encoder.onnx", "decoder.onnx"))
    for beams, lengths in ((1, [5]), (3, [1, 6, 4]), (4, [7, 2])):
        source = torch.randint(3, 12, (len(lengths), max(lengths)))
        counts = torch.tensor(lengths)
        longest = [2 * length + 3 for length in lengths]
        with torch.inference_mode():
            reference = TorchSteps(model, model.begin(source, counts))
        steps = OnnxSteps(encoder, decoder, source, counts, beams)
        expected, found = (
            beam_search(each, longest, begin=BEGIN, end=END, beams=beams, alpha=1.0, num_best=beams)
            for each in (reference, steps)
        )
        for expected_of_sentence, found_of_sentence in zip(expected, found, strict=True):
            assert [each.tokens for each in found_of_sentence] == [each.tokens for each in expected_of_sentence]
            scores = [each.score for each in found_of_sentence]
            assert scores == pytest.approx([each.score for each in expected_of_sentence], abs=1e-4)
    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(tmp_path / name)
        assert graph.ir_version <= 10
        assert {each.key: each.value for each in graph.metadata_props} == {"task": "translation"}
