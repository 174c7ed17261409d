"""Triton's model repository. The server itself is not run here: its schema and the graph are what is checked."""

from pathlib import Path
from typing import Any

import onnx
import pytest

from segue import formats
from segue.errors import UserError
from segue.formats import triton


@pytest.fixture(scope="module")
def repository(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "repository"
    formats.export(trained, "triton", out)
    return out


def parsed(text: str) -> Any:
    """By Triton's own schema."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(text, schema.ModelConfig())


def test_the_configuration_describes_the_graph(repository: Path) -> None:
    folder = repository / "recognizer"
    config = parsed((folder / "config.pbtxt").read_text())
    assert config.name == folder.name
    assert config.backend == "onnxruntime"
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000
    graph = onnx.load(folder / "1" / "model.onnx").graph
    types = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.INT64: "TYPE_INT64"}
    for said, real in ((config.input, graph.input), (config.output, graph.output)):
        assert [each.name for each in said] == [each.name for each in real]
        for tensor, known in zip(said, real, strict=True):
            kind = known.type.tensor_type
            assert (
                tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
                == (types[kind.elem_type])
            )
            batch, *sizes = [each.dim_value or -1 for each in kind.shape.dim]
            assert batch == -1
            dims = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
            assert dims == sizes


def test_the_schema_finds_a_wrong_configuration() -> None:
    error = pytest.importorskip("google.protobuf.text_format").ParseError
    for wrong in (("max_batch_size", "largest_batch"), ("TYPE_FP32", "TYPE_FLOAT"), ("dims: [ -1 ]", "dims: [ -1")):
        with pytest.raises(error):
            parsed(triton.configuration(5).replace(*wrong, 1))


def test_eight_bits_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--quantize int8: triton has no such weights"):
        formats.export(trained, "triton", tmp_path / "out", weights="int8")
