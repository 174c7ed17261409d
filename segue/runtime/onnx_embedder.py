"""How does an exported model of voices run, ours or somebody else's? Its graph in onnxruntime.

Shape letters: B batch, S samples, T frames, F mel bins, D dimensions.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.data.kaldi_features import filter_bank
from segue.errors import UserError
from segue.runtime.onnx import session
from segue.runtime.speaker_embedder import SpeakerEmbedder, SpeakerMetadata, Vectors

FRAMEWORKS = ("wespeaker", "3d-speaker")
"""Values of `framework` in the metadata of graphs that read Kaldi's features."""
USUAL_THRESHOLD = 0.42
"""Cosine distance up to which two voices are one, for graphs whose metadata have no `threshold`: measured for CAM++
with parts of 1.5 s (bench/RESULTS.md)."""


def open_embedder(folder: Path, metadata: SpeakerMetadata, threads: int | None = None) -> SpeakerEmbedder:
    """Opens the model of voices in an exported directory."""
    return SpeakerEmbedder(metadata, OnnxEmbedderBackend(folder / "model.onnx", metadata, threads))


class OnnxEmbedderBackend:
    """Runs a graph written by `formats/onnx_speakers`. It has no state between calls and is thread-safe."""

    def __init__(self, path: Path, metadata: SpeakerMetadata, threads: int | None = None) -> None:
        """Raises a UserError if the graph does not belong to the metadata."""
        self._session = session(path, threads)
        said = self._session.get_modelmeta().custom_metadata_map
        for key, value in graph_metadata(metadata).items():
            if said.get(key) != value:
                raise UserError(f"{path}: its metadata {key} differs from segue.json: {said.get(key)}; export it again")

    def embed(self, waveforms: Samples, lengths: NDArray[np.int64]) -> Vectors:
        """(B, S) waveforms, (B) lengths -> (B, D)."""
        [found] = self._session.run(None, {"waveforms": waveforms, "lengths": lengths})
        rows: Vectors = found
        return rows


def graph_metadata(metadata: SpeakerMetadata) -> dict[str, str]:
    """The metadata stored in a graph."""
    return {
        "task": metadata.task,
        "sample_rate_hz": str(metadata.sample_rate_hz),
        "dimensions": str(metadata.dimensions),
    }


def open_graph(path: Path, threads: int | None = None) -> SpeakerEmbedder:
    """Opens somebody else's model of voices: an ONNX file as sherpa-onnx takes it, for Kaldi's features.

    Raises a UserError if it is none, naming what its metadata lack.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    graph = session(path, threads)
    said = graph.get_modelmeta().custom_metadata_map
    problem = _problem(graph, said)
    if problem is not None:
        raise UserError(
            f"{path}: {problem}; a model of voices for sherpa-onnx is wanted, with metadata framework "
            f"({', '.join(FRAMEWORKS)}), sample_rate and output_dim; or what segue export MODEL onnx wrote"
        )
    metadata = SpeakerMetadata(
        sample_rate_hz=int(said["sample_rate"]),
        dimensions=int(said["output_dim"]),
        threshold=float(said.get("threshold", USUAL_THRESHOLD)),
    )
    return SpeakerEmbedder(metadata, KaldiBackend(graph, metadata.sample_rate_hz, said))


def _problem(graph: Any, said: dict[str, str]) -> str | None:
    """Why the graph cannot be used; None if it can."""
    if said.get("framework") not in FRAMEWORKS:
        return f"framework: {said.get('framework') or 'missing'}"
    for key in ("sample_rate", "output_dim"):
        if not said.get(key, "").isdigit() or int(said[key]) == 0:
            return f"{key}: {said.get(key) or 'missing'}"
    if said.get("feature_normalize_type", "") not in ("", "global-mean"):
        return f"feature_normalize_type: {said['feature_normalize_type']}"
    shapes = [each.shape for each in graph.get_inputs()]
    if len(shapes) != 1 or len(shapes[0]) != 3:
        return f"inputs of shapes {shapes}, where one (batch, frames, bins) is wanted"
    return None


class KaldiBackend:
    """Runs a graph that reads Kaldi's features, as sherpa-onnx does."""

    def __init__(self, graph: Any, sample_rate_hz: int, said: dict[str, str]) -> None:
        """`said` are the graph's metadata."""
        self._session, self._rate = graph, sample_rate_hz
        [given] = graph.get_inputs()
        self._name, bins = given.name, given.shape[2]
        self._bins = bins if isinstance(bins, int) else 80
        self._is_batched = not isinstance(given.shape[0], int)
        # 1: samples in [-1, 1]; 0: in [-32768, 32767].
        self._scale = 1.0 if said.get("normalize_samples", "1") == "1" else 32768.0
        self._has_mean_removed = said.get("feature_normalize_type") == "global-mean"

    def embed(self, waveforms: Samples, lengths: NDArray[np.int64]) -> Vectors:
        """(B, S) waveforms, (B) lengths -> (B, D). Rows of equal length are one batch: the graph knows no padding."""
        rows: dict[int, Vectors] = {}
        for length in np.unique(lengths).tolist():
            places = np.flatnonzero(lengths == length).tolist()
            features = np.stack([self._features(waveforms[place, :length]) for place in places])
            batches = [features] if self._is_batched else np.split(features, len(places))
            found = np.concatenate([self._session.run(None, {self._name: each})[0] for each in batches])
            rows |= dict(zip(places, found, strict=True))
        return np.stack([rows[place] for place in range(len(lengths))])

    def _features(self, samples: Samples) -> NDArray[np.float32]:
        """(S) -> (T, F)."""
        found = filter_bank(samples * np.float32(self._scale), self._rate, self._bins)
        return found - found.mean(axis=0) if self._has_mean_removed else found
