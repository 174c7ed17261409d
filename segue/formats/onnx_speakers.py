"""How is a model of voices exported to ONNX? As one graph: waveforms in, unit vectors out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from segue import card
from segue.data.audio import padded
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.formats.exporter import GRAPH, Exporter
from segue.formats.onnx import write
from segue.runtime.onnx_embedder import OnnxEmbedderBackend, graph_metadata
from segue.tasks import speaker_embedding


def _write(trained: speaker_embedding.Trained, folder: Path, weights: str) -> None:
    """Writes the graph waveforms (B, S), lengths (B) -> vectors (B, D)."""
    del weights
    example = (torch.zeros(2, 4000), torch.tensor([4000, 3998]))
    dimensions = {"waveforms": ("batch", "length"), "lengths": ("batch",)}
    write(trained.model, example, dimensions, ("vectors",), folder / GRAPH, graph_metadata(trained.metadata()))


def _use(trained: speaker_embedding.Trained, folder: str) -> str:
    code = f"""import numpy
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession("{folder}/model.onnx")
vectors = []
for name in ("one.wav", "other.wav"):  # mono, {trained.metadata().sample_rate_hz} Hz
    samples, _ = soundfile.read(name, dtype="float32")
    [found] = session.run(None, {{"waveforms": samples[None], "lengths": numpy.array([len(samples)])}})
    vectors.append(found[0])
print("one voice" if 1 - vectors[0] @ vectors[1] <= {trained.threshold:.3f} else "two voices")"""
    return f"{speaker_embedding.use(folder)}\nor with only onnxruntime:\n\n{card.python(code)}"


def _inputs(trained: speaker_embedding.Trained, recordings: Manifest[Utterance]) -> Iterator[dict[str, NDArray[Any]]]:
    for waveform in speaker_embedding.waveforms(trained, recordings):
        yield dict(zip(("waveforms", "lengths"), padded([waveform]), strict=True))


VOICES = Exporter(
    packages=("onnxruntime", "onnx", "onnxscript"),
    write=_write,
    run=lambda trained, folder, threads: OnnxEmbedderBackend(folder / GRAPH, trained.metadata(), threads),
    use=_use,
    quantizations=("int8", "float16"),
    inputs=_inputs,
)
