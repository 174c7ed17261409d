"""How is a recognizer exported to Triton Inference Server? As a model repository, with the graph of `formats/onnx`.

<https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html>

Shape letters: B batch, S samples, T frames, V vocabulary.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from segue import card
from segue.data.audio import Samples
from segue.formats.exporter import GRAPH, Exporter
from segue.formats.onnx import write_recognizer
from segue.runtime.onnx import OnnxBackend, graph_metadata
from segue.runtime.recognizer import Recognizer
from segue.tasks import speech_recognition
from segue.tasks.speech_recognition.comparison import Recognize, Scores

NAME = "recognizer"
"""The model's name in the repository."""
VERSION = "1"
MOST_IN_A_BATCH = 32
QUEUE_MICROSECONDS = 5000
"""Longest wait of a batch for other requests, as in `segue serve`."""


def configuration(vocabulary: int) -> str:
    """`config.pbtxt` of a graph waveforms (B, S), lengths (B) -> log_probs (B, T, V), frames (B).

    Triton leaves out B; what has no other dimension is sent with one of size 1, and reshaped.
    """
    scalar = "dims: [ 1 ]\n    reshape: { shape: [ ] }"
    return f"""name: "{NAME}"
backend: "onnxruntime"
max_batch_size: {MOST_IN_A_BATCH}
input [
  {{
    name: "waveforms"
    data_type: TYPE_FP32
    dims: [ -1 ]
  }},
  {{
    name: "lengths"
    data_type: TYPE_INT64
    {scalar}
  }}
]
output [
  {{
    name: "log_probs"
    data_type: TYPE_FP32
    dims: [ -1, {vocabulary} ]
  }},
  {{
    name: "frames"
    data_type: TYPE_INT64
    {scalar}
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_MICROSECONDS}
}}
"""


def graph_of(folder: Path) -> Path:
    """The graph in a repository."""
    return folder / NAME / VERSION / GRAPH


def _write(trained: speech_recognition.Trained, folder: Path, weights: str) -> None:
    del weights
    metadata = trained.metadata()
    graph_of(folder).parent.mkdir(parents=True)
    write_recognizer(trained.model, graph_of(folder), graph_metadata(metadata))
    text = configuration(len(metadata.tokens) + 1)
    (folder / NAME / "config.pbtxt").write_text(text, encoding="utf-8")


def _run(trained: speech_recognition.Trained, folder: Path, threads: int) -> Recognize:
    """In onnxruntime, which is what Triton runs it with."""
    metadata = trained.metadata()
    model = Recognizer(metadata, OnnxBackend(graph_of(folder), metadata, threads))

    def recognize(waveforms: Sequence[Samples]) -> tuple[list[str], Callable[[], Scores]]:
        texts, scores = model.recognize(waveforms)
        return texts, lambda: scores

    return recognize


def _use(trained: speech_recognition.Trained, folder: str) -> str:
    rate = trained.metadata().sample_rate_hz
    code = f"""import json
import numpy
import soundfile
import tritonclient.http as triton

client = triton.InferenceServerClient("localhost:8000")
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono, {rate} Hz
sound = numpy.pad(samples, (0, -len(samples) % rate))[None]
inputs = [triton.InferInput("waveforms", sound.shape, "FP32"), triton.InferInput("lengths", [1, 1], "INT64")]
inputs[0].set_data_from_numpy(sound)
inputs[1].set_data_from_numpy(numpy.array([[len(samples)]]))
found = client.infer("{NAME}", inputs)
log_probs, frames = found.as_numpy("log_probs")[0], found.as_numpy("frames")[0, 0]
best = [len(log_probs[0]) - 1, *log_probs[:frames].argmax(axis=1)]  # the last token is the blank
tokens = [*json.load(open("{folder}/segue.json"))["tokens"], ""]
print("".join(tokens[b] for a, b in zip(best, best[1:]) if a != b))"""
    return (
        f"Serve the folder: `tritonserver --model-repository {folder}`. Triton puts only waveforms of the same size "
        "into a batch, so clients round sizes up, here to whole seconds, with zeros; `lengths` says how many samples "
        "are real.\n\n"
        f"{card.python(code)}"
    )


SPEECH = Exporter(
    packages=("onnxruntime", "onnx", "onnxscript"),
    write=_write,
    run=_run,
    use=_use,
    quantizations=(),
)
