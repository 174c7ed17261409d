"""What is a model of voices? An encoder, statistics over time, a linear layer: an x-vector (Snyder et al. 2018).

Shape letters: B batch, S samples, T frames, F mel bins, W width of the encoder, D width of an embedding, C classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.data.features import FeatureTensors, prepare
from segue.layers.angular_margin import angular_scores
from segue.layers.mask import length_mask
from segue.tasks.speaker_embedding.settings import Recipe

VARIANCE_EPSILON = 1e-5


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over real frames."""

    def forward(self, encoded: Tensor, frames: Tensor) -> Tensor:
        """(B, W, T), (B) -> (B, 2 W) in float32."""
        is_real = length_mask(frames, encoded.shape[2])  # (B, 1, T)
        count = frames.clamp(min=1).unsqueeze(1)  # (B, 1)
        x = encoded.float().masked_fill(~is_real, 0.0)
        mean = x.sum(dim=2) / count
        centered = (x - mean.unsqueeze(2)).masked_fill(~is_real, 0.0)
        variance = centered.square().sum(dim=2) / count
        return torch.cat([mean, (variance + VARIANCE_EPSILON).sqrt()], dim=1)


class SpeakerModel(nn.Module):
    """Waveforms to embeddings; in training, to scores of the speakers."""

    def __init__(self, section: Recipe, num_classes: int) -> None:
        super().__init__()
        self.front_end = section.features.build()
        self.encoder = section.model.build(section.features.mel_bins)
        self.pooling = StatisticsPooling()
        self.embedding = nn.Linear(2 * self.encoder.width, section.dimensions)
        self.centers = nn.Linear(section.dimensions, num_classes, bias=False)
        self._margin, self._scale = section.margin, section.scale
        self.initialize()

    def initialize(self) -> None:
        """Draws the weights, once all parts are built."""
        self.encoder.initialize()
        nn.init.xavier_uniform_(self.embedding.weight)
        nn.init.zeros_(self.embedding.bias)
        nn.init.xavier_uniform_(self.centers.weight)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        augmentation: FeatureTensors | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """(B, S) samples, (B) lengths -> (B, D) unit vectors; with (B) `targets`, (B, C) logits with margins."""
        features, frames = prepare(self.front_end, waveforms, lengths, augmentation)
        embedded = self.embed(features, frames)
        if targets is None:
            return F.normalize(embedded, dim=1)
        return angular_scores(embedded, self.centers.weight, targets, self._margin, self._scale)

    def of_features(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, T) features, not normalized, (B) frames -> (B, D) unit vectors, for front ends elsewhere."""
        return F.normalize(self.embed(self.front_end.normalize(features, frames), frames), dim=1)

    def embed(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, T) normalized features, (B) -> (B, D) float32."""
        return self.embedding(self.pooling(*self.encoder(features, frames))).float()  # type: ignore[no-any-return]
