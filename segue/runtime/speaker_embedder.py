"""How do recordings become vectors of their speakers' voices? A backend, behind the protocol that diarization needs.

The `EmbedderBackend` is a PyTorch model, an exported one, or somebody else's; everything else is the same for all.

Shape letters: B batch, S samples, D dimensions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue.data import audio
from segue.data.audio import Samples
from segue.recipe import Section

if TYPE_CHECKING:
    from segue.runtime.diarization import Diarization
    from segue.runtime.speaker_evaluation import SpeakerEvaluator

PositiveInt = Annotated[int, Field(gt=0)]
Vectors = NDArray[np.float32]


class SpeakerMetadata(Section):
    """What a runtime needs to know about a model of voices."""

    task: Literal["speaker_embedding"] = "speaker_embedding"
    """The task."""
    sample_rate_hz: PositiveInt
    """Sample rate of the model's input."""
    dimensions: PositiveInt
    """Length of an embedding."""
    threshold: Annotated[float, Field(ge=0, le=2)]
    """Cosine distance (1 minus similarity) up to which two voices are taken for one."""
    speakers: tuple[str, ...] = ()
    """The speakers of the training data."""
    parameters: PositiveInt | None = None
    """Number of parameters, if known."""


class EmbedderBackend(Protocol):
    """A model in some runtime."""

    def embed(self, waveforms: Samples, lengths: NDArray[np.int64]) -> Vectors:
        """(B, S) waveforms, (B) lengths -> (B, D), of any length. A row does not depend on the others."""
        ...


class Embedder(Protocol):
    """What diarization needs."""

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the waveforms."""
        ...

    @property
    def threshold(self) -> float:
        """Cosine distance up to which two voices are taken for one."""
        ...

    def embed(self, waveforms: Sequence[Samples]) -> Vectors:
        """Waveforms (S) each -> (B, D) unit vectors."""
        ...


class SpeakerEmbedder:
    """A trained model of voices. It has no state between calls and is thread-safe."""

    SHORTEST_SECONDS = 0.1
    """Shorter waveforms are repeated to this length: a model needs some frames."""

    def __init__(self, metadata: SpeakerMetadata, backend: EmbedderBackend) -> None:
        self.metadata, self.backend = metadata, backend

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the model's input."""
        return self.metadata.sample_rate_hz

    @property
    def threshold(self) -> float:
        """Cosine distance up to which two voices are taken for one."""
        return self.metadata.threshold

    def embed(self, waveforms: Sequence[Samples]) -> Vectors:
        """Waveforms (S) each, of at least one sample -> (B, D) unit vectors."""
        least = round(self.SHORTEST_SECONDS * self.sample_rate_hz)
        long_enough = [each if len(each) >= least else np.resize(each, least) for each in waveforms]
        found = self.backend.embed(*audio.padded(long_enough)).astype(np.float32)
        unit: Vectors = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
        return unit

    @staticmethod
    def rate_of(path: Path) -> int:
        """Sample rate of a recording."""
        return audio.properties(path).sample_rate_hz

    def diarize(
        self,
        recording: str | Path | NDArray[Any],
        sample_rate_hz: int | None = None,
        channel: int | str | None = None,
        *,
        speakers: int | None = None,
        names: Sequence[str] = (),
    ) -> "Diarization":
        """Who speaks when in a recording, as in `diarization.diarize`."""
        from segue.runtime.diarization import diarize  # imports this module

        return diarize(self, recording, sample_rate_hz, channel, speakers=speakers, names=names)

    def evaluate(self, manifest: Path, skip_bad: bool = False) -> dict[str, Any]:
        """The equal error rate over the pairs of a manifest's recordings, and the number of bad examples left out."""
        return self.evaluator.explain(manifest, skip_bad, has_media=False).as_json()

    @property
    def evaluator(self) -> "SpeakerEvaluator":
        """An evaluator of this model."""
        from segue.runtime.speaker_evaluation import SpeakerEvaluator  # imports this module

        return SpeakerEvaluator(self)
