"""How does an exported speech model hear? Its graph in onnxruntime, waveforms in, log-probabilities out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segue.data.audio import Samples, padded
from segue.errors import UserError
from segue.runtime.recogniser import SpeechFacts


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


class OnnxListener:
    """The graph that `formats/onnx` wrote. It holds no state between calls: threads may share it."""

    def __init__(self, path: Path, facts: SpeechFacts, threads: int | None = None) -> None:
        """A UserError if the graph is not the one that the facts are of."""
        self._session = session(path, threads)
        said = self._session.get_modelmeta().custom_metadata_map
        for key, value in metadata(facts).items():
            if said.get(key) != value:
                raise UserError(f"{path}: its {key} is another than segue.json's: {said.get(key)}; export it again")

    def log_probs(self, waveforms: Sequence[Samples]) -> list[NDArray[np.float32]]:
        """(S) each -> (T, V) each."""
        log_probs, frames = self._session.run(None, inputs(waveforms))
        return [row[:length] for row, length in zip(log_probs, frames.tolist(), strict=True)]


def metadata(facts: SpeechFacts) -> dict[str, str]:
    """What a graph says of itself."""
    return {
        "task": facts.task,
        "sample_rate_hz": str(facts.sample_rate_hz),
        "samples_per_frame": str(facts.samples_per_frame),
        # A token that is a part of a character shows its bytes as \\xNN.
        "tokens": json.dumps([piece.decode("utf-8", "backslashreplace") for piece in facts.pieces]),
        "blank": str(len(facts.pieces)),
    }


def inputs(waveforms: Sequence[Samples]) -> dict[str, NDArray[Any]]:
    """What the graph is given."""
    return dict(zip(("waveforms", "lengths"), padded(waveforms), strict=True))
