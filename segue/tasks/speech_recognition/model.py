"""What is a recognizer's model? Front end, normalization, encoder, and the head of an objective.

Shape letters: B batch, S samples, T frames, F mel bins, D width, V scores of a frame.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from segue.data.features import FeatureTensors, prepare
from segue.tasks.speech_recognition.settings import Recipe


class AcousticModel(nn.Module):
    """Waveforms to scores."""

    def __init__(self, section: Recipe, num_tokens: int) -> None:
        super().__init__()
        self.front_end = section.features.build()
        self.encoder = section.model.build(section.features.mel_bins)
        self.head = section.objective.build(num_tokens).build_head(self.encoder.width)
        self.initialize()

    def initialize(self) -> None:
        """Initializes all weights, after all parts are built: the order determines which weights a seed gives."""
        self.encoder.initialize()
        self.head.initialize()

    @property
    def samples_per_frame(self) -> int:
        """Samples between the starts of two output frames."""
        return self.front_end.shift * self.encoder.subsampling

    def forward(
        self, waveforms: Tensor, lengths: Tensor, augmentation: FeatureTensors | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B) lengths -> (B, T', V) log-probabilities in float32, (B) numbers of output frames."""
        return self.score(*prepare(self.front_end, waveforms, lengths, augmentation))

    def of_features(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, T) features, not normalized, (B) frames -> (B, T', V), (B): for front ends outside of the model."""
        return self.score(self.front_end.normalize(features, frames), frames)

    def score(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, T) normalized features, (B) frames -> (B, T', V), (B)."""
        encoded, frames = self.encoder(features, frames)
        return self.head(encoded), frames


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Maps current weight names to those in a file: in earlier versions encoder and head were one module."""
    names = list(names)
    is_earlier = any(name.startswith("model.") for name in names)
    pairs = (("model.head.", "head.output."), ("model.", "encoder.")) if is_earlier else ()

    def new(name: str) -> str:
        for before, now in pairs:
            if name.startswith(before):
                return now + name.removeprefix(before)
        return name

    return {new(name): name for name in names}
