"""Smaller weights for ONNX graphs: 8-bit weights and activations, or 16-bit weights.

Eight bits also make the model faster, but less accurate: `layer_errors` shows which layers to leave in float. The graph
must not contain batch normalization; Segue's export folds it into the convolutions.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError

FRONT_END = "front_end."
"""Prefix of nodes and weights that stay in float: spectra span too many orders of magnitude for eight bits."""
ALONE = "alone."  # prefix of the names of tensors that are affected by the rounding of one layer only
LARGE = 1024  # elements; smaller tensors, such as biases, are not converted

Inputs = Mapping[str, NDArray[Any]]


def quantize_int8(source: Path, target: Path, calibration: Iterable[Inputs], kept_in_float: Sequence[str] = ()) -> None:
    """Writes `source` with 8-bit weights (one scale per channel) and 8-bit activations (one scale per tensor).

    The ranges of activations come from `calibration`: representative inputs, which are read one by one.
    `kept_in_float` names convolutions that keep float weights; their inputs still have eight bits. Raises a UserError
    for unknown names, or without calibration inputs.
    """
    import onnx
    from onnxruntime import quantization

    nodes = _quantizable(onnx.load(source, load_external_data=False).graph)
    layers = [node.name for node in nodes if node.op_type == "Conv"]
    unknown = [name for name in kept_in_float if name not in layers]
    if unknown:
        raise UserError(f"{source}: no such layer: {', '.join(unknown)}; it has {', '.join(layers)}")
    examples = iter(calibration)
    first = next(examples, None)
    if first is None:
        raise UserError(f"{source}: no example to take the ranges of activations from")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends preprocessing that the exporter has done
    try:
        quantization.quantize_static(
            source,
            target,
            _Reader(chain([first], examples)),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            nodes_to_quantize=[node.name for node in nodes if node.name not in kept_in_float],
            per_channel=True,
            # Seven bits for weights: processors without VNNI add pairs of products in 16 bits, which would overflow.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        logging.disable(disabled)


class _Reader:
    """Calibration data in the form that onnxruntime expects."""

    def __init__(self, examples: Iterable[Inputs]) -> None:
        self._examples = iter(examples)

    def get_next(self) -> Inputs | None:
        """The next example."""
        return next(self._examples, None)


def _quantizable(graph: Any) -> list[Any]:
    """Convolutions after the front end, and the Add, Mul and Relu nodes that depend on them."""
    found, reached = [], set[str]()
    for node in graph.node:
        is_layer = node.op_type == "Conv" and not node.name.startswith(FRONT_END)
        if is_layer or not reached.isdisjoint(node.input):
            reached.update(node.output)
            if is_layer or node.op_type in ("Add", "Mul", "Relu"):
                found.append(node)
    return found


def layer_errors(source: Path, quantized: Path, examples: Iterable[Inputs]) -> dict[str, float]:
    """Relative error of each quantized layer, by name, largest first: norm of the error / norm of the output.

    Each layer is quantized alone: its weights, and its inputs as computed in full precision by the layers before it.
    """
    import onnx
    import onnxruntime

    model, rounded = onnx.load(source), onnx.load(quantized).graph
    graph, add = model.graph, onnx.helper.make_node
    known = {tensor.name for tensor in graph.initializer}
    outputs = {
        node.name: node.output[0] for node in graph.node
    }  # quantized layers may carry their ReLU's output's name
    graph.initializer.extend(tensor for tensor in rounded.initializer if tensor.name not in known)
    conversions = {
        node.output[0]: node for node in rounded.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }

    def alone(name: str) -> str:
        return ALONE + name if name in conversions else name

    layers = [node for node in rounded.node if node.op_type == "Conv" and node.input[1] in conversions]
    for node in [*conversions.values(), *layers]:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = ALONE + node.name
        copied.input[:] = [alone(name) for name in node.input]
        copied.output[:] = [ALONE + node.output[0]]
        graph.node.append(copied)
    del graph.output[:]
    for layer in layers:
        output, rounded_output = outputs[layer.name], ALONE + layer.output[0]
        difference, noise, signal = (f"{word} {output}" for word in ("difference", "noise", "signal"))
        graph.node.append(add("Sub", [output, rounded_output], [difference]))
        for given, result in ((difference, noise), (output, signal)):
            graph.node.append(add("ReduceSumSquare", [given], [result], keepdims=0))
            graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sums = np.zeros((len(layers), 2))
    for example in examples:
        sums += np.reshape(session.run(None, dict(example)), (-1, 2))
    errors = np.sqrt(sums[:, 0] / np.maximum(sums[:, 1], np.finfo(np.float32).tiny))
    found = {layer.name: float(error) for layer, error in zip(layers, errors, strict=True)}
    return dict(sorted(found.items(), key=lambda each: each[1], reverse=True))


def int8_matrices(source: Path, target: Path) -> None:
    """Writes `source` with 8-bit matrices (one scale per channel), whose inputs are rounded as they come.

    Activations of Transformers vary too much for ranges that are fixed in advance.
    """
    from onnxruntime import quantization

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends preprocessing that the exporter has done
    try:
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,  # seven bits, as above
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(disabled)


def float16_weights(source: Path, target: Path) -> None:
    """Writes `source` with large weights in float16: half the size, same speed, since it still computes in float32.

    Raises a UserError if a weight exceeds the range of float16.
    """
    import onnx

    model = onnx.load(source)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor)
        if weights.dtype != np.float32 or weights.size < LARGE or tensor.name.startswith(FRONT_END):
            continue
        if np.abs(weights).max() > np.finfo(np.float16).max:
            raise UserError(f"{source}: {tensor.name}: too large for float16")
        name, stored = tensor.name, f"{tensor.name}.float16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)
