"""How is a model of voices exported to sherpa-onnx? As `model.onnx`, for its speaker identification and diarization.

<https://k2-fsa.github.io/sherpa/onnx/speaker-identification/>. It computes the features of NeMo's models itself: those
of `data/features.py`, whose filters end 400 Hz below half the sample rate, but the first frame begins with the first
sample, 7.5 ms later. The graph normalizes them.

Shape letters: B batch, F mel bins, T frames, D dimensions.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue import card
from segue.data.audio import Samples
from segue.data.features import FRAME_MS, SHIFT_MS, LogMelSection
from segue.errors import UserError
from segue.formats import onnx
from segue.formats.exporter import GRAPH, Exporter
from segue.runtime.speaker_embedder import Vectors
from segue.tasks.speaker_embedding import Trained
from segue.tasks.speaker_embedding.model import SpeakerModel

BELOW_HALF_HZ = 400
"""Filters for voices end so far below half the sample rate."""


class _Graph(nn.Module):
    """The model after the front end."""

    def __init__(self, model: SpeakerModel) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, T), (B) -> (B, 1), which sherpa-onnx ignores, and (B, D) unit vectors."""
        vectors = self.model.of_features(features, lengths)
        return vectors[:, :1], vectors


def _write(trained: Trained, folder: Path, weights: str) -> None:
    del weights
    features = trained.recipe.features
    if not isinstance(features, LogMelSection):
        raise UserError(f'features.kind = "{features.kind}": sherpa-onnx computes other features; export it to onnx')
    top_hz = features.sample_rate_hz / 2 - BELOW_HALF_HZ
    if features.highest_hz != top_hz:
        raise UserError(
            f"features.top_hz: {features.highest_hz:g}, where sherpa-onnx's filters for voices end at {top_hz:g}; "
            f"train with features.top_hz={top_hz:g}, or export it to onnx, whose graph includes the front end"
        )
    metadata = {
        "framework": "nemo",
        "language": "any",  # sherpa-onnx requires one, and does not use it
        "sample_rate": str(features.sample_rate_hz),
        "output_dim": str(trained.recipe.dimensions),
        "feat_dim": str(features.mel_bins),
        "window_size_ms": str(FRAME_MS),
        "window_stride_ms": str(SHIFT_MS),
        "window_type": "hann",
        "feature_normalize_type": "",  # the graph normalizes
        "url": "",
        "version": "1",
    }
    onnx.write(
        _Graph(trained.model),
        (torch.zeros(2, features.mel_bins, 40), torch.tensor([40, 30])),
        {"features": ("batch", features.mel_bins, "time"), "lengths": ("batch",)},
        ("logits", "vectors"),
        folder / GRAPH,
        metadata,
    )


class _SherpaBackend:
    """Runs the model in sherpa-onnx, one waveform after the other, reflected at both ends, so that frames are the same.

    Without the reflection they are 7.5 ms later: equally good, but not to be compared to the digit.
    """

    def __init__(self, folder: Path, sample_rate_hz: int, threads: int) -> None:
        import sherpa_onnx

        config = sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=str(folder / GRAPH), num_threads=threads)
        self._extractor, self._rate = sherpa_onnx.SpeakerEmbeddingExtractor(config), sample_rate_hz

    def embed(self, waveforms: Samples, lengths: NDArray[np.int64]) -> Vectors:
        """(B, S) waveforms, (B) lengths -> (B, D)."""
        rows = []
        for waveform, length in zip(waveforms, lengths.tolist(), strict=True):
            stream = self._extractor.create_stream()
            stream.accept_waveform(self._rate, self._reflected(waveform[:length]))
            stream.input_finished()
            rows.append(self._extractor.compute(stream))
        return np.array(rows, np.float32)

    def _reflected(self, samples: Samples) -> Samples:
        """(S) -> (S'): whole frames of it are all frames of the front end."""
        window, shift = self._rate * FRAME_MS // 1000, self._rate * SHIFT_MS // 1000
        before, num_frames = window // 2 - shift // 2, (len(samples) + shift // 2) // shift
        after = (num_frames - 1) * shift + window - before - len(samples)
        return np.pad(samples, (before, max(0, after)), mode="symmetric")[: (num_frames - 1) * shift + window]


def _use(trained: Trained, folder: str) -> str:
    code = f"""import numpy
import sherpa_onnx
import soundfile

config = sherpa_onnx.SpeakerEmbeddingExtractorConfig(model="{folder}/model.onnx")
extractor = sherpa_onnx.SpeakerEmbeddingExtractor(config)
vectors = []
for name in ("one.wav", "other.wav"):  # mono, any rate
    samples, rate = soundfile.read(name, dtype="float32")
    stream = extractor.create_stream()
    stream.accept_waveform(rate, samples)
    stream.input_finished()
    vectors.append(numpy.array(extractor.compute(stream)))
print("one voice" if 1 - vectors[0] @ vectors[1] <= {trained.threshold:.3f} else "two voices")"""
    who = f"""import sherpa_onnx
import soundfile

pyannote = sherpa_onnx.OfflineSpeakerSegmentationPyannoteModelConfig(model="segmentation.onnx")
config = sherpa_onnx.OfflineSpeakerDiarizationConfig(
    segmentation=sherpa_onnx.OfflineSpeakerSegmentationModelConfig(pyannote=pyannote),
    embedding=sherpa_onnx.SpeakerEmbeddingExtractorConfig(model="{folder}/model.onnx"),
    # or num_clusters=2: a number of speakers that is known is better
    clustering=sherpa_onnx.FastClusteringConfig(num_clusters=-1, threshold={trained.threshold:.3f}),
)
diarization = sherpa_onnx.OfflineSpeakerDiarization(config)
samples, rate = soundfile.read("conversation.wav", dtype="float32")  # mono
assert rate == diarization.sample_rate
for turn in diarization.process(samples).sort_by_start_time():
    print(turn.start, turn.end, turn.speaker)"""
    return (
        f"With [sherpa-onnx](https://k2-fsa.github.io/sherpa/onnx/):\n\n{card.python(code)}\n\n"
        "Who speaks when, with a segmentation model in pyannote's form, which sherpa-onnx offers "
        f"(`speaker-segmentation-models` among its releases):\n\n{card.python(who)}"
    )


VOICES = Exporter(
    packages=("sherpa_onnx", "onnx", "onnxscript"),
    write=_write,
    run=lambda trained, folder, threads: _SherpaBackend(folder, trained.recipe.features.sample_rate_hz, threads),
    use=_use,
    quantizations=(),
)
