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
    """The classifier in an exported directory."""
    backend = OnnxClassifierBackend(folder / "model.onnx", metadata, threads)
    if metadata.input.kind == "sound":
        return Classifier(metadata, backend)
    try:
        from segue.data.tokenizer import Tokenizer  # of an extra, which sounds do not need
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "tokenizers", "translate") from None
    return Classifier(metadata, backend, Tokenizer.load(folder / "tokenizer.json"))


class OnnxClassifierBackend:
    """The graph that `formats/onnx_classification` wrote. It holds no state between calls: threads may share it."""

    def __init__(self, path: Path, metadata: ClassifierMetadata, threads: int | None = None) -> None:
        """A UserError if the graph is not the one that the metadata are of."""
        self._session = session(path, threads)
        said = self._session.get_modelmeta().custom_metadata_map
        for key, value in class_metadata(metadata).items():
            if said.get(key) != value:
                raise UserError(f"{path}: its {key} is another than segue.json's: {said.get(key)}; export it again")

    def scores(self, inputs: NDArray[Any], lengths: NDArray[np.int64]) -> Scores:
        """(B, S), (B) -> (B, C)."""
        [found] = self._session.run(None, {"inputs": inputs, "lengths": lengths})
        rows: Scores = found
        return rows


def class_metadata(metadata: ClassifierMetadata) -> dict[str, str]:
    """What a graph says of itself."""
    return {
        "task": metadata.task,
        "input": metadata.input.kind,
        **({"sample_rate_hz": str(metadata.input.sample_rate_hz)} if metadata.input.kind == "sound" else {}),
        "classes": json.dumps(metadata.classes),
    }
