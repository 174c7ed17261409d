"""How is a classifier exported to ONNX? As one graph: waveforms or tokens in, scores of classes out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from segue import card
from segue.data.audio import padded
from segue.data.examples import Labeled
from segue.data.manifest import Manifest
from segue.errors import UserError
from segue.formats.exporter import GRAPH, Exporter
from segue.formats.onnx import write
from segue.runtime.onnx_classifier import OnnxClassifierBackend, class_metadata
from segue.tasks import classification


def _write(trained: classification.Trained, folder: Path, weights: str) -> None:
    """Writes the graph inputs (B, S), lengths (B) -> scores (B, C)."""
    if weights == "int8" and not trained.recipe.is_of_sounds:
        raise UserError("--quantize int8: onnx has no such weights for classifiers of texts (it has: float16)")
    size = 4000 if trained.recipe.is_of_sounds else 7
    inputs = torch.zeros(2, size, dtype=torch.float32 if trained.recipe.is_of_sounds else torch.int64)
    dimensions = {"inputs": ("batch", "length"), "lengths": ("batch",)}
    example = (inputs, torch.tensor([size, size - 2]))
    write(trained.model, example, dimensions, ("scores",), folder / GRAPH, class_metadata(trained.metadata()))
    if trained.tokenizer is not None:
        trained.tokenizer.save(folder / "tokenizer.json")


def _use(trained: classification.Trained, folder: str) -> str:
    is_of_sounds = trained.recipe.is_of_sounds
    rate = 0 if trained.recipe.features is None else trained.recipe.features.sample_rate_hz
    read = (
        f'samples, _ = soundfile.read("sound.wav", dtype="float32")  # mono, {rate} Hz\ninputs = samples[None]'
        if is_of_sounds
        else f'tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")\n'
        'inputs = numpy.array([tokenizer.encode("a line of text", add_special_tokens=False).ids])'
    )
    code = f"""import json
import numpy
import onnxruntime
{"import soundfile" if is_of_sounds else "from tokenizers import Tokenizer"}

session = onnxruntime.InferenceSession("{folder}/model.onnx")
{read}
[scores] = session.run(None, {{"inputs": inputs, "lengths": numpy.array([inputs.shape[1]])}})
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
print(classes[int(scores[0].argmax())])"""
    return f"{classification.use(folder, is_of_sounds=is_of_sounds)}\nor with only onnxruntime:\n\n{card.python(code)}"


def _inputs(trained: classification.Trained, examples: Manifest[Labeled]) -> Iterator[dict[str, NDArray[Any]]]:
    for waveform in classification.waveforms(trained, examples):
        yield dict(zip(("inputs", "lengths"), padded([waveform]), strict=True))


CLASSES = Exporter(
    packages=("onnxruntime", "onnx", "onnxscript"),
    write=_write,
    run=lambda trained, folder, threads: OnnxClassifierBackend(folder / GRAPH, trained.metadata(), threads),
    use=_use,
    quantizations=("int8", "float16"),
    inputs=_inputs,
)
