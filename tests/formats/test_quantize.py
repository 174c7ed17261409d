"""Graphs with smaller weights, against the graphs that they were made from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from segue.compress import quantize
from segue.compress.quantize import float16_weights, layer_errors, quantize_int8
from segue.errors import UserError
from segue.formats.onnx import write_recognizer
from segue.tasks.speech_recognition.model import AcousticModel

LAYERS = 2 + (4 + 1) + (2 + 1) + 1  # of quartznet: depthwise and pointwise each, the residuals, the head


def examples(count: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    for _ in range(count):
        length = int(draw.integers(2000, 9000))
        yield {
            "waveforms": (draw.standard_normal((1, length)) * 0.1).astype(np.float32),
            "lengths": np.array([length]),
        }


@pytest.fixture(scope="module")
def source(quartznet: AcousticModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "model.onnx"
    write_recognizer(quartznet, path, {"task": "speech_recognition"})
    return path


@pytest.fixture(scope="module")
def quantized(source: Path) -> Path:
    target = source.parent / "int8.onnx"
    quantize_int8(source, target, examples(8))
    return target


def log_probs(path: Path, inputs: dict[str, Any]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(None, inputs)[0]
    return scores


def in_float(path: Path) -> set[str]:
    """The convolutions, and products with matrices, whose weights no eight bits hold."""
    graph = onnx.load(path).graph
    whole = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return {node.name for node in graph.node if node.op_type in ("Conv", "MatMul") and whole & {*node.input[:2]}}


def test_int8_outputs_are_near_float(source: Path, quantized: Path) -> None:
    for inputs in examples(3, seed=1):
        expected, found = log_probs(source, inputs), log_probs(quantized, inputs)
        assert not np.array_equal(expected, found)
        assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99


def test_int8_takes_any_batch_and_keeps_metadata(quantized: Path) -> None:
    inputs = {"waveforms": np.zeros((3, 4000), np.float32), "lengths": np.array([4000, 1, 300])}
    assert log_probs(quantized, inputs).shape[:2] == (3, 25)
    model = onnx.load(quantized)
    assert model.ir_version <= 10
    assert ("task", "speech_recognition") in {(each.key, each.value) for each in model.metadata_props}


def test_only_the_front_end_stays_in_float(quantized: Path) -> None:
    assert in_float(quantized) == {"front_end.spectrum", "front_end.filters"}
    graph = onnx.load(quantized).graph
    eight = [tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(name.endswith("weight_quantized") for name in eight) == LAYERS


def test_nothing_is_rounded_before_the_first_layer(source: Path, quantized: Path) -> None:
    first = next(node for node in onnx.load(source).graph.node if node.name.startswith("encoder."))
    before = ancestors(quantized, first.input[0])
    assert {"front_end.spectrum", "front_end.filters"} <= {node.name for node in before}
    assert not any("QuantizeLinear" in node.op_type or "DequantizeLinear" in node.op_type for node in before)


def ancestors(path: Path, tensor: str) -> list[onnx.NodeProto]:
    """The nodes that a tensor is computed by."""
    found, wanted = [], {tensor}
    for node in reversed(onnx.load(path).graph.node):
        if wanted & {*node.output}:
            found.append(node)
            wanted |= {*node.input}
    return found


def test_what_is_kept_in_float_is_in_float(source: Path, tmp_path: Path) -> None:
    kept = ["head.output", "encoder.blocks.1.layers.0.1"]
    quantize_int8(source, tmp_path / "int8.onnx", examples(2), kept_in_float=kept)
    assert in_float(tmp_path / "int8.onnx") == {"front_end.spectrum", "front_end.filters", *kept}
    errors = layer_errors(source, tmp_path / "int8.onnx", examples(1))
    assert len(errors) == LAYERS - 2
    assert not errors.keys() & {*kept}


def test_an_unknown_layer_and_no_example_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such layer: head; it has encoder\.blocks\.0\.layers\.0\.0, "):
        quantize_int8(source, tmp_path / "int8.onnx", examples(1), kept_in_float=["head"])
    with pytest.raises(UserError, match="no example"):
        quantize_int8(source, tmp_path / "int8.onnx", [])


def test_the_layer_that_int8_hurts_most_is_first(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def change(name: str, change_array: Callable[[np.ndarray], None]) -> None:
        values = onnx.numpy_helper.to_array(weights[name]).copy()
        change_array(values)
        weights[name].CopyFrom(onnx.numpy_helper.from_array(values, name))

    # A channel that is always silent has huge weights in the next layer: beside them the others round to 0.
    change("encoder.blocks.1.layers.1.0.weight", lambda values: values[0].fill(0))
    change("encoder.blocks.1.layers.1.1.weight", lambda values: values[:, 0].fill(400))
    onnx.save(model, tmp_path / "model.onnx")
    quantize_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", examples(4))
    errors = layer_errors(tmp_path / "model.onnx", tmp_path / "int8.onnx", examples(2, seed=1))
    assert len(errors) == LAYERS
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    names = list(errors)
    assert names[0] == "encoder.blocks.1.layers.1.1"
    assert errors[names[0]] > 0.1
    assert 0 < errors[names[1]] < 0.1


def test_float16_halves_weights_and_changes_little(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "float16.onnx"
    float16_weights(source, target)
    before, after = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        for path in (source, target)
    )
    halved = {name.removesuffix(".float16") for name in after if name.endswith(".float16")}
    assert halved == {name for name, array in before.items() if name.endswith(".weight") and array.size >= 1024}
    assert after["front_end.spectrum"].dtype == np.float32
    for inputs in examples(2):
        np.testing.assert_allclose(log_probs(target, inputs), log_probs(source, inputs), atol=0.05)


@pytest.mark.parametrize(("size", "block"), [(1, 32), (64, 64), (256, 128), (3 * 128 + 5, 32)])
def test_blocks_are_rounded_to_half_a_step(size: int, block: int) -> None:
    """Each block of an output by its own largest number; zeros stay zeros."""
    matrix = np.random.default_rng(size).standard_normal((7, size)).astype(np.float32)
    matrix[3] = 0
    matrix[:, :block] *= 100
    blocks, scales = quantize._in_blocks(matrix)
    assert scales.shape == (7, -(-size // block))
    restored = ((blocks.astype(np.float32) - 128) * scales[:, :, None]).reshape(7, -1)[:, :size]
    step = np.repeat(scales, block, axis=1)[:, :size]
    assert (np.abs(restored - matrix) <= step * 0.501).all()
    assert not restored[3].any()
