"""How is a model exported to ONNX? As standard graphs, of operations that are fast in onnxruntime.

A speech model is one graph, including the front end; a translator is two: the encoder, and a step of the decoder.
Batch size, lengths and number of beams are dynamic in all of them.

Shape letters: B batch, S samples or source tokens, T frames, F mel bins, V vocabulary, L decoder layers, N rows of a
search, P tokens so far, H' heads of keys, d width of a head.
"""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue import card
from segue.compress import quantize
from segue.data.audio import Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.vocabularies import BEGIN, END, PADDING, Vocabularies
from segue.decoding.search import Hypothesis, SearchSection
from segue.errors import missing_extra
from segue.files import replacing
from segue.formats.exporter import GRAPH, Exporter
from segue.layers.mask import length_mask
from segue.models.transformer import Cache, Transformer
from segue.runtime.onnx import graph_metadata, inputs, open_recognizer, session
from segue.tasks import speech_recognition, translation
from segue.tasks.speech_recognition.comparison import Recognize, Scores
from segue.tasks.translation.pairs import padded
from segue.tasks.translation.search import search

if TYPE_CHECKING:  # onnx_ir comes with onnxscript, an extra
    from onnx_ir import Model, Node, Value

OPSET = 18  # with IR version 10, supported since onnxruntime 1.18

Names = Mapping[str, Sequence[str | int]]
"""Name of a tensor -> its dimensions: a number, or a name for a dynamic size."""


def write_recognizer(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the graph waveforms (B, S), lengths (B) -> log_probs (B, T, V), frames (B).

    `model` must be in evaluation mode.
    """
    dimensions = {"waveforms": ("batch", "samples"), "lengths": ("batch",)}
    example = (torch.zeros(2, 4000), torch.tensor([4000, 3000]))
    write(model, example, dimensions, ("log_probs", "frames"), path, metadata)


def write_translator(model: Transformer, folder: Path, metadata: Mapping[str, str]) -> None:
    """Writes two graphs to `folder`.

    `encoder.onnx`: source (B, S), lengths (B) -> cross_keys and cross_values (L, B, H', S, d).
    `decoder.onnx`: tokens (N), cross_keys, cross_values, lengths (B), past_keys and past_values (L, N, H', P, d) ->
    scores (N, V), keys and values (L, N, H', P + 1, d). P is 0 in the first step; N is a multiple of B, with the rows
    of a sentence next to each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reader, writer = _Reader(model), _Writer(model)
    source, lengths = torch.zeros(2, 7, dtype=torch.int64), torch.tensor([7, 5])
    dimensions: dict[str, Sequence[str | int]] = {"source": ("sentences", "source_tokens"), "lengths": ("sentences",)}
    write(reader, (source, lengths), dimensions, CROSS, folder / "encoder.onnx", metadata)
    with torch.no_grad():
        cross_keys, cross_values = reader(source, lengths)
    layers, _, heads, _, width = cross_keys.shape
    past = torch.zeros(layers, 6, heads, 3, width)
    dimensions = {
        "tokens": ("rows",),
        **dict.fromkeys(CROSS, (layers, "sentences", heads, "source_tokens", width)),
        "lengths": ("sentences",),
        **dict.fromkeys(("past_keys", "past_values"), (layers, "rows", heads, "past", width)),
    }
    example = (torch.zeros(6, dtype=torch.int64), cross_keys, cross_values, lengths, past, past.clone())
    write(writer, example, dimensions, ("scores", "keys", "values"), folder / "decoder.onnx", metadata)


class OnnxSteps:
    """A translator's two graphs in onnxruntime, as `decoding.autoregressive.Steps` for a search of `beams` rows."""

    def __init__(self, encoder: Any, decoder: Any, source: Tensor, lengths: Tensor, beams: int) -> None:
        """Encodes (B, S) source tokens of (B) lengths; `encoder` and `decoder` are sessions."""
        self._decoder, self._lengths = decoder, lengths.numpy()
        self._cross: list[NDArray[Any]] = encoder.run(None, {"source": source.numpy(), "lengths": self._lengths})
        layers, sentences, heads, _, width = self._cross[0].shape
        empty = np.zeros((layers, sentences * beams, heads, 0, width), np.float32)
        self._past: list[NDArray[Any]] = [empty, empty]

    def step(self, tokens: Tensor) -> Tensor:
        """(N) last tokens -> (N, V) scores of the next tokens."""
        given = {"tokens": tokens.numpy(), "lengths": self._lengths}
        given |= dict(zip((*CROSS, "past_keys", "past_values"), (*self._cross, *self._past), strict=True))
        scores, *self._past = self._decoder.run(None, given)
        return torch.from_numpy(scores)

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        """Keeps these rows, in this order, and only these sentences (None: all)."""
        self._past = [each[:, rows.numpy()] for each in self._past]
        if sentences is not None:
            self._cross = [each[:, sentences.numpy()] for each in self._cross]
            self._lengths = self._lengths[sentences.numpy()]


class OnnxTranslationBackend:
    """Runs the two graphs with Segue's search, which needs PyTorch, for the comparison."""

    def __init__(self, folder: Path, vocabularies: Vocabularies, threads: int | None = None) -> None:
        self._vocabularies = vocabularies
        self._encoder, self._decoder = (session(folder / name, threads) for name in ("encoder.onnx", "decoder.onnx"))

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs for each row of source tokens."""
        source, lengths = padded(rows, self._vocabularies.source.special[PADDING])
        steps = OnnxSteps(self._encoder, self._decoder, source, lengths, max(section.beams, num_best))
        return search(steps, self._vocabularies, lengths, section, num_best=num_best, prefixes=prefixes)

    def attention(self, source: Sequence[int], target: Sequence[int]) -> None:
        """None: the graphs do not output it."""
        del source, target


CROSS = ("cross_keys", "cross_values")


class _Reader(nn.Module):
    """The part of a translator that runs once per source."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) tokens, (B) lengths -> keys and values, (L, B, H', S, d) each."""
        keys, values = zip(*self.model.begin(source, lengths).cross, strict=True)
        return torch.stack(keys), torch.stack(values)


class _Writer(nn.Module):
    """The part that runs once per token. The content of the cache is input and output."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(
        self, tokens: Tensor, cross_keys: Tensor, cross_values: Tensor, lengths: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N), 2 x (L, B, H', S, d), (B), 2 x (L, N, H', P, d) -> (N, V), 2 x (L, N, H', P + 1, d)."""
        mask = length_mask(lengths, cross_keys.shape[3]).unsqueeze(1)  # (B, 1, 1, S)
        cache = Cache(mask, list(zip(cross_keys.unbind(), cross_values.unbind(), strict=True)))
        cache.own = list(zip(keys.unbind(), values.unbind(), strict=True))
        cache.num_steps = keys.shape[3]
        scores = self.model.step(tokens, cache)
        keys_now, values_now = zip(*cache.own, strict=True)
        return scores, torch.stack(keys_now), torch.stack(values_now)


def write(
    model: nn.Module,
    example: tuple[Tensor, ...],
    dimensions: Names,
    outputs: Sequence[str],
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Writes one graph. `dimensions` lists the inputs in order; `example` determines their types and fixed sizes."""
    program = traced(model, example, dimensions, outputs)
    program.model.metadata_props.update(metadata)
    program.save(path)  # weights are inside, or in a separate file above protobuf's limit of 2 GB


def traced(
    model: nn.Module, example: tuple[Tensor, ...], dimensions: Names, outputs: Sequence[str]
) -> "torch.onnx.ONNXProgram":
    """The graph of a model, without metadata."""
    assert not model.training
    try:
        import onnxscript  # noqa: F401  # required by torch's exporter
        from onnx_ir.passes import common
    except ImportError:
        raise missing_extra("onnxscript", "export") from None
    device = next(model.parameters()).device
    shapes: list[Any] = [{n: name for n, name in enumerate(d) if isinstance(name, str)} for d in dimensions.values()]
    named = inspect.getfullargspec(model.forward)
    if named.varargs is not None:  # further inputs are its
        fixed = len(named.args) - 1
        shapes = [*shapes[:fixed], tuple(shapes[fixed:])]
    with _quietly():
        program = torch.onnx.export(
            model,
            tuple(tensor.to(device) for tensor in example),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=list(dimensions),
            output_names=list(outputs),
            dynamic_shapes=tuple(shapes),
        )
    assert program is not None
    common.ClearMetadataAndDocStringPass()(program.model)  # the exporter's metadata contain local paths
    _mask_after_activation(program.model)
    _in_two_dimensions(program.model)
    _name_nodes(program.model)
    return program


def _mask_after_activation(model: "Model") -> None:
    """Replaces ReLU(where(padding, 0, x)) by the equivalent ReLU(x) times a mask of 0 and 1.

    onnxruntime can then fuse convolution and ReLU, and an 8-bit product takes half the time of an 8-bit `where`.
    """
    import onnx_ir as ir

    masks: dict[Value, Value] = {}  # True in the padding -> 1.0 elsewhere
    for relu in [node for node in model.graph if node.op_type == "Relu"]:
        where = _producer(relu.inputs[0])
        if where is None or where.op_type != "Where" or len(where.outputs[0].uses()) > 1:
            continue
        padding, zero, x = where.inputs
        if padding is None or zero is None or zero.const_value is None or zero.const_value.numpy().any():
            continue
        if padding not in masks:
            real = ir.node("Not", [padding])
            mask = ir.node("Cast", real.outputs, {"to": ir.DataType.FLOAT})
            model.graph.insert_before(where, [real, mask])
            masks[padding] = mask.outputs[0]
        activated = ir.node("Relu", [x])
        product = ir.node("Mul", [activated.outputs[0], masks[padding]])
        ir.convenience.replace_nodes_and_values(
            model.graph, relu, [where, relu], [activated, product], relu.outputs, product.outputs
        )


def _in_two_dimensions(model: "Model") -> None:
    """Replaces convolutions over (B, C, T), and operations between them, by equivalent ones over (B, C, 1, T).

    onnxruntime's kernels for two-dimensional convolutions are two to three times as fast.
    """
    import onnx_ir as ir

    graph = model.graph
    axis = ir.tensor([2], name="height")
    height = ir.Value(name="height", const_value=axis, shape=ir.Shape([1]), type=ir.TensorType(axis.dtype))
    lifted: dict[Value, Value] = {}  # three-dimensional -> four-dimensional
    replaced: list[Node] = []

    def lift(value: "Value", before: "Node") -> "Value":
        """The value in four dimensions; a single number is returned unchanged."""
        if value.const_value is not None and value.const_value.size == 1:
            return value
        if value not in lifted:
            unsqueeze = ir.node("Unsqueeze", [value, height])
            graph.insert_before(before, unsqueeze)
            lifted[value] = unsqueeze.outputs[0]
        return lifted[value]

    for node in list(graph):
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "Conv" and not str(inputs[1].name).startswith(quantize.FRONT_END):
            x, weight, *bias = inputs
            assert weight.const_value is not None
            weight.const_value = ir.tensor(weight.const_value.numpy()[:, :, None], name=weight.name)
            weight.shape = ir.Shape(weight.const_value.numpy().shape)
            attributes: dict[str, Any] = {"group": node.attributes["group"].as_int()}
            for name, neutral in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)):
                sides = iter(node.attributes[name].as_ints())
                attributes[name] = [number for side in sides for number in (neutral, side)]
            new = ir.node("Conv", [lift(x, node), weight, *bias], attributes)
        elif node.op_type in ("Relu", "Add", "Mul") and not lifted.keys().isdisjoint(inputs):
            new = ir.node(node.op_type, [lift(value, node) for value in inputs])
        else:
            continue
        graph.insert_before(node, new)
        lifted[node.outputs[0]] = new.outputs[0]
        replaced.append(node)
    if replaced:
        graph.register_initializer(height)
    for node in replaced:
        output = node.outputs[0]
        if any(user not in replaced for user in output.consumers()):
            squeeze = ir.node("Squeeze", [lifted[output], height])
            graph.insert_before(node, squeeze)
            output.replace_all_uses_with(squeeze.outputs[0])
    graph.remove(replaced, safe=True)


def _producer(value: "Value | None") -> "Node | None":
    return None if value is None else value.producer()


def _name_nodes(model: "Model") -> None:
    """Names nodes with weights after the weight in the model, for reports about layers."""
    taken: set[str | None] = set()
    for node in model.graph:
        weights = [value.name for value in node.inputs if value is not None and value.is_initializer()]
        name = next((w.removesuffix(".weight") for w in weights if w is not None and "." in w), None)
        if node.op_type in ("Conv", "MatMul", "Gemm") and name is not None and name not in taken:
            node.name = name
            taken.add(name)


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppresses the exporter's warnings about its internals, such as deprecated calls and packages not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- Exporters ---


def _write_speech(trained: speech_recognition.Trained, folder: Path, weights: str) -> None:
    del weights
    write_recognizer(trained.model, folder / GRAPH, graph_metadata(trained.metadata()))


def _speech_use(trained: speech_recognition.Trained, folder: str) -> str:
    code = f"""import json
import numpy
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession("{folder}/model.onnx")
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono, {trained.metadata().sample_rate_hz} Hz
log_probs, frames = session.run(None, {{"waveforms": samples[None], "lengths": numpy.array([len(samples)])}})
best = [len(log_probs[0, 0]) - 1, *log_probs[0].argmax(axis=1)]  # the last token is the blank
tokens = [*json.loads(session.get_modelmeta().custom_metadata_map["tokens"]), ""]
print("".join(tokens[b] for a, b in zip(best, best[1:]) if a != b))"""
    return f"{speech_recognition.use(folder)}\nor with only onnxruntime:\n\n{card.python(code)}"


def _hear(trained: speech_recognition.Trained, folder: Path, threads: int) -> Recognize:
    model = open_recognizer(folder, trained.metadata(), threads)

    def recognize(waveforms: Sequence[Samples]) -> tuple[list[str], Callable[[], Scores]]:
        texts, scores = model.recognize(waveforms)
        return texts, lambda: scores

    return recognize


def _write_text(trained: translation.Trained, folder: Path, weights: str) -> None:
    write_translator(trained.model, folder, {"task": trained.metadata().task})
    trained.vocabularies.save(folder)
    if weights == "float16":
        for name in ("encoder.onnx", "decoder.onnx"):
            with replacing(folder / name) as partial:
                quantize.float16_weights(folder / name, partial)


def _text_use(trained: translation.Trained, folder: str) -> str:
    source, language = translation.source_side(trained)
    code = f"""import numpy
import onnxruntime
from tokenizers import Tokenizer

encoder, decoder = (onnxruntime.InferenceSession(f"{folder}/{{name}}.onnx") for name in ("encoder", "decoder"))
tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")
reader = Tokenizer.from_file("{folder}/{source}.json")
tokens = [{language}*reader.encode("a line of text", add_special_tokens=False).tokens, "{END}"]
source = numpy.array([[reader.token_to_id(token) for token in tokens]])
lengths = numpy.array([len(tokens)])
keys, values = encoder.run(None, {{"source": source, "lengths": lengths}})
past = numpy.zeros((keys.shape[0], 1, keys.shape[2], 0, keys.shape[4]), numpy.float32)
state, written = {{"past_keys": past, "past_values": past}}, [tokenizer.token_to_id("{BEGIN}")]
while written[-1] != tokenizer.token_to_id("{END}") and len(written) < 2 * len(tokens) + 10:
    given = {{"tokens": numpy.array(written[-1:]), "cross_keys": keys, "cross_values": values, "lengths": lengths}}
    scores, past_keys, past_values = decoder.run(None, given | state)
    state = {{"past_keys": past_keys, "past_values": past_values}}
    written.append(int(scores.argmax()))
print(tokenizer.decode(written))"""
    return f"With onnxruntime and tokenizers, greedy search:\n\n{card.python(code)}"


def _speech_inputs(
    trained: speech_recognition.Trained, utterances: Manifest[Utterance]
) -> Iterator[dict[str, NDArray[Any]]]:
    return (inputs([waveform]) for waveform in speech_recognition.waveforms(trained, utterances))


SPEECH = Exporter(
    packages=("onnxruntime", "onnx", "onnxscript"),
    write=_write_speech,
    run=_hear,
    use=_speech_use,
    quantizations=("int8", "float16"),
    inputs=_speech_inputs,
)
TEXT = Exporter(
    packages=("onnxruntime", "onnx", "onnxscript"),
    write=_write_text,
    run=lambda trained, folder, threads: OnnxTranslationBackend(folder, trained.vocabularies, threads),
    use=_text_use,
    quantizations=("float16",),
)
