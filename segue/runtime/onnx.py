"""How does an exported speech model run? Its graph in onnxruntime, waveforms in, log-probabilities out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from segue.data.audio import Samples, padded
from segue.decoding.ctc import greedy
from segue.errors import UserError
from segue.runtime.recognizer import Recognized, Recognizer, SpeechMetadata


def session(path: Path, threads: int | None = None) -> Any:
    """A graph, ready to run on so many threads of the CPU; None: on all its cores."""
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    # Waiting threads sleep: spinning ones cost others their time, and where all cores are busy their own.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's own types, of no common base
        raise UserError(f"{path}: onnxruntime cannot load it: {str(problem).splitlines()[0]}") from None


def open_recognizer(folder: Path, metadata: SpeechMetadata, threads: int | None = None) -> Recognizer:
    """The recognizer in an exported directory."""
    return Recognizer(metadata, OnnxBackend(folder / "model.onnx", metadata, threads))


class OnnxBackend:
    """The graph that `formats/onnx` wrote. It holds no state between calls: threads may share it."""

    def __init__(self, path: Path, metadata: SpeechMetadata, threads: int | None = None) -> None:
        """A UserError if the graph is not the one that the metadata are of."""
        self._session, self._blank = session(path, threads), len(metadata.tokens)
        said = self._session.get_modelmeta().custom_metadata_map
        for key, value in graph_metadata(metadata).items():
            if said.get(key) != value:
                raise UserError(f"{path}: its {key} is another than segue.json's: {said.get(key)}; export it again")

    def recognize(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        """(S) each."""
        log_probs, frames = self._session.run(None, inputs(waveforms))
        rows = (row[:length] for row, length in zip(log_probs, frames.tolist(), strict=True))
        return [Recognized(greedy(row, self._blank), row) for row in rows]


def graph_metadata(metadata: SpeechMetadata) -> dict[str, str]:
    """What a graph says of itself."""
    return {
        "task": metadata.task,
        "sample_rate_hz": str(metadata.sample_rate_hz),
        "samples_per_frame": str(metadata.samples_per_frame),
        # A token that is a part of a character shows its bytes as \\xNN.
        "tokens": json.dumps([piece.decode("utf-8", "backslashreplace") for piece in metadata.pieces]),
        "blank": str(len(metadata.pieces)),
    }


def inputs(waveforms: Sequence[Samples]) -> dict[str, NDArray[Any]]:
    """What the graph is given."""
    return dict(zip(("waveforms", "lengths"), padded(waveforms), strict=True))
