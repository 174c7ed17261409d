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
from segue.runtime import calibration, speech_search
from segue.runtime.recognizer import Recognized, Recognizer, SpeechMetadata


def session(path: Path, threads: int | None = None) -> Any:
    """An onnxruntime session for a graph on `threads` CPU threads (None: all cores). Raises a UserError."""
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    # Waiting threads sleep: spinning takes time from other processes, and slows down itself if all cores are busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if not path.is_file():
        raise UserError(f"{path}: no such file; copy the whole folder")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's exceptions have no common base class
        why = str(problem).splitlines()[0]
        if "INVALID_PROTOBUF" in why:
            raise UserError(f"{path}: not an ONNX file, or one that is cut off; copy or export it again") from None
        raise UserError(f"{path}: onnxruntime cannot load it: {why}") from None


def open_recognizer(folder: Path, metadata: SpeechMetadata, threads: int | None = None) -> Recognizer:
    """Opens the recognizer in an exported directory, with the search and the calibration that lie there."""
    search = speech_search.load(folder, metadata.pieces, metadata.text)
    model = Recognizer(metadata, OnnxBackend(folder / "model.onnx", metadata, threads), search)
    model.calibration = calibration.load(folder, search.deciding)
    return model


class OnnxBackend:
    """Runs a graph written by `formats/onnx`. It has no state between calls and is thread-safe."""

    def __init__(self, path: Path, metadata: SpeechMetadata, threads: int | None = None) -> None:
        """Raises a UserError if the graph does not belong to the metadata."""
        self._session, self._blank = session(path, threads), len(metadata.tokens)
        said = self._session.get_modelmeta().custom_metadata_map
        for key, value in graph_metadata(metadata).items():
            if said.get(key) != value:
                raise UserError(f"{path}: its metadata {key} differs from segue.json: {said.get(key)}; export it again")

    def recognize(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        """Recognizes waveforms of shape (S) each, as one batch."""
        log_probs, frames = self._session.run(None, inputs(waveforms))
        rows = (row[:length] for row, length in zip(log_probs, frames.tolist(), strict=True))
        return [Recognized(greedy(row, self._blank), row) for row in rows]


def graph_metadata(metadata: SpeechMetadata) -> dict[str, str]:
    """The metadata stored in a graph."""
    return {
        "task": metadata.task,
        "sample_rate_hz": str(metadata.sample_rate_hz),
        "samples_per_frame": str(metadata.samples_per_frame),
        # Bytes of tokens that are parts of characters are written as \\xNN.
        "tokens": json.dumps([piece.decode("utf-8", "backslashreplace") for piece in metadata.pieces]),
        "blank": str(len(metadata.pieces)),
    }


def inputs(waveforms: Sequence[Samples]) -> dict[str, NDArray[Any]]:
    """The inputs of the graph for these waveforms, (S) each."""
    return dict(zip(("waveforms", "lengths"), padded(waveforms), strict=True))
