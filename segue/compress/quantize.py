"""How does a model get smaller weights? Eight bits for weights and activations of an ONNX graph, or 16 for weights.

Eight bits make it faster too, and cost some accuracy: `layer_errors` says which layers to leave out. The graph must
hold no batch normalization; ours has it inside the convolutions.
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
"""Nodes and weights of this name stay as they are: spectra span too many orders of magnitude for eight bits."""
ALONE = "alone."  # before the names of tensors that only one layer's rounding has touched
LARGE = 1024  # elements; smaller tensors (biases) are no burden

Inputs = Mapping[str, NDArray[Any]]


def quantize_int8(source: Path, target: Path, calibration: Iterable[Inputs], kept_in_float: Sequence[str] = ()) -> None:
    """Writes `source` with weights (a scale a channel) and activations (a scale a tensor) of eight bits.

    Ranges of activations are those seen on `calibration`: inputs like those to come; they are read one by one.
    `kept_in_float` names convolutions to leave as they are; their inputs still have eight bits, as their neighbors do.
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
    logging.disable(logging.WARNING)  # it asks for preparations that the exporter has made
    try:
        quantization.quantize_static(
            source,
            target,
            _Reader(chain([first], examples)),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            nodes_to_quantize=[node.name for node in nodes if node.name not in kept_in_float],
            per_channel=True,
            # Seven bits for weights: two products then fit the 16 bits in which processors without VNNI add them.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        logging.disable(disabled)


class _Reader:
    """Calibration data, as onnxruntime asks for it."""

    def __init__(self, examples: Iterable[Inputs]) -> None:
        self._examples = iter(examples)

    def get_next(self) -> Inputs | None:
        """The next example."""
        return next(self._examples, None)


def _quantizable(graph: Any) -> list[Any]:
    """Convolutions after the front end, and what is added, multiplied and cut off at zero between them."""
    found, reached = [], set[str]()
    for node in graph.node:
        is_layer = node.op_type == "Conv" and not node.name.startswith(FRONT_END)
        if is_layer or not reached.isdisjoint(node.input):
            reached.update(node.output)
            if is_layer or node.op_type in ("Add", "Mul", "Relu"):
                found.append(node)
    return found


def layer_errors(source: Path, quantized: Path, examples: Iterable[Inputs]) -> dict[str, float]:
    """Each quantized layer's error by its name, largest first: norm of the error / norm of its output.

    Each layer is quantized alone: its weights, and its inputs as the layers before it give them in full precision.
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


def float16_weights(source: Path, target: Path) -> None:
    """Writes `source` with its large weights in float16: half the size, same speed; computed in float32 as before."""
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
