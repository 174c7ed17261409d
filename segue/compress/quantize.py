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
BLOCKS = 128, 64, 32
"""Numbers with a scale of their own: the first that divides the inputs of a matrix, since others are filled up with
zeros, or the last. With 32 a product of one row takes a fifth longer than with 128."""

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


def int8_blocks(source: Path, target: Path) -> None:
    """Writes `source` with 8-bit matrices and embeddings: one scale for each block of BLOCKS numbers of an output.

    The inputs of products are rounded in blocks as they come: activations of Transformers vary too much for ranges that
    are fixed in advance. Needs onnxruntime 1.22 (MatMulNBits with 8 bits).
    """
    import onnx

    model = onnx.load(source)
    graph, make = model.graph, onnx.helper.make_node
    weights = {each.name: each for each in graph.initializer}
    turned = {
        each.output[0]: each.input[0] for each in graph.node if each.op_type == "Transpose" and each.input[0] in weights
    }
    rounded, nodes = dict[str, tuple[str, str, int, int]](), list[Any]()

    def stored(name: str, is_turned: bool) -> tuple[str, str, int, int] | None:
        """The names of blocks (N, K / block, block) and scales, N outputs and K inputs of a matrix of this name."""
        if name not in weights or len(weights[name].dims) != 2 or weights[name].data_type != onnx.TensorProto.FLOAT:
            return None
        if name not in rounded:
            matrix = onnx.numpy_helper.to_array(weights[name])
            matrix = matrix if is_turned else matrix.T
            blocks, scales = _in_blocks(matrix)
            names = f"{name}.int8", f"{name}.scales"
            for stored_as, values in zip(names, (blocks, scales), strict=True):
                graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), stored_as))
            rounded[name] = (*names, *matrix.shape)
        return rounded[name]

    for node in graph.node:
        found = None
        if node.op_type == "MatMul":
            name = node.input[1]
            found = stored(turned.get(name, name), name in turned)
            if found is not None:
                blocks, scales, outputs, inputs = found
                product = make("MatMulNBits", [node.input[0], blocks, scales], node.output, node.name)
                product.domain = "com.microsoft"
                sizes = {"N": outputs, "K": inputs, "bits": 8, "block_size": _block(inputs), "accuracy_level": 4}
                product.attribute.extend(onnx.helper.make_attribute(*each) for each in sizes.items())
                nodes.append(product)
        elif node.op_type == "Gather":
            found = stored(node.input[0], is_turned=True)
            if found is not None:
                blocks, scales, _, inputs = found
                nodes += _gathered(node, blocks, scales, inputs, make)
        if found is None:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if node.op_type != "Transpose" or node.output[0] in used]
    used = {name for node in nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    for field, values in ((graph.node, nodes), (graph.initializer, kept)):
        copies = [type(each).FromString(each.SerializeToString()) for each in values]
        del field[:]
        field.extend(copies)
    onnx.save(model, target)


def _block(inputs: int) -> int:
    return next((block for block in BLOCKS if inputs % block == 0), BLOCKS[-1])


def _in_blocks(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(N, K) -> (N, K / block, block) from 1 to 255, with 128 for 0; (N, K / block) scales."""
    block = _block(matrix.shape[1])
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % block))).reshape(len(matrix), -1, block)
    scales = np.maximum(np.abs(padded).max(axis=2), np.finfo(np.float32).tiny) / 127
    return (np.rint(padded / scales[:, :, None]) + 128).astype(np.uint8), scales.astype(np.float32)


def _gathered(node: Any, blocks: str, scales: str, inputs: int, make: Any) -> list[Any]:
    """Rows of a table of blocks in float, as the node has them."""
    tokens, output = node.input[1], node.output[0]
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Gather", [blocks, tokens], "blocks", {}),  # (..., K / block, block)
        ("Cast", [f"{output}.blocks"], "float", {"to": 1}),
        ("Constant", [], "zero", {"value_float": 128.0}),
        ("Sub", [f"{output}.float", f"{output}.zero"], "centered", {}),
        ("Gather", [scales, tokens], "scales", {}),  # (..., K / block)
        ("Constant", [], "last", {"value_ints": [-1]}),
        ("Unsqueeze", [f"{output}.scales", f"{output}.last"], "scale", {}),
        ("Mul", [f"{output}.centered", f"{output}.scale"], "scaled", {}),
        ("Constant", [], "shape", {"value_ints": [0, 0, -1]}),
        ("Reshape", [f"{output}.scaled", f"{output}.shape"], "padded", {}),
        ("Constant", [], "first", {"value_ints": [0]}),
        ("Constant", [], "size", {"value_ints": [inputs]}),
        ("Slice", [f"{output}.padded", f"{output}.first", f"{output}.size", f"{output}.last"], "", {}),
    ]
    return [make(kind, given, [f"{output}.{name}".rstrip(".")], **more) for kind, given, name, more in steps]


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
