"""How does an exported classifier run? Its graph in onnxruntime: waveforms or tokens in, scores out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError, missing_extra
from segue.runtime.classifier import Classifier, ClassifierMetadata, Scores
from segue.runtime.onnx import session


def open_classifier(folder: Path, metadata: ClassifierMetadata, threads: int | None = None) -> Classifier:
    """Opens the classifier in an exported directory."""
    backend = OnnxClassifierBackend(folder / "model.onnx", metadata, threads)
    if metadata.input.kind == "sound":
        return Classifier(metadata, backend)
    try:
        from segue.data.tokenizer import Tokenizer  # needs an extra, which sounds do not
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "tokenizers", "translate") from None
    return Classifier(metadata, backend, Tokenizer.load(folder / "tokenizer.json"))


class OnnxClassifierBackend:
    """Runs a graph written by `formats/onnx_classification`. It has no state between calls and is thread-safe."""

    def __init__(self, path: Path, metadata: ClassifierMetadata, threads: int | None = None) -> None:
        """Raises a UserError if the graph does not belong to the metadata."""
        self._session = session(path, threads)
        said = self._session.get_modelmeta().custom_metadata_map
        for key, value in class_metadata(metadata).items():
            if said.get(key) != value:
                raise UserError(f"{path}: its metadata {key} differs from segue.json: {said.get(key)}; export it again")

    def scores(self, inputs: NDArray[Any], lengths: NDArray[np.int64]) -> Scores:
        """(B, S) samples or tokens, (B) lengths -> (B, C) scores."""
        [found] = self._session.run(None, {"inputs": inputs, "lengths": lengths})
        rows: Scores = found
        return rows


def class_metadata(metadata: ClassifierMetadata) -> dict[str, str]:
    """The metadata stored in a graph."""
    return {
        "task": metadata.task,
        "input": metadata.input.kind,
        **({"sample_rate_hz": str(metadata.input.sample_rate_hz)} if metadata.input.kind == "sound" else {}),
        "classes": json.dumps(metadata.classes),
    }
