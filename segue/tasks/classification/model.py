"""What is a classifier's model? An encoder, a weighted mean of its outputs, a linear layer.

Shape letters: B batch, S samples or tokens, T outputs of the encoder, D width, C classes.
"""

import torch
from torch import Tensor, nn

from segue.data.features import FeatureTensors, prepare
from segue.data.front_ends import FeaturesSection
from segue.layers.mask import length_mask
from segue.models.sound_encoders import SoundEncoderSection
from segue.models.text_encoder import TextEncoder
from segue.models.transformer import EncoderSection


class PooledHead(nn.Module):
    """Scores of classes from an attention-weighted mean over real positions (Lin et al. 2017, arXiv:1703.03130).

    Weights are learned, so that long pauses can be ignored; initially all are equal.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)  # softmax is invariant to a bias
        self.output = nn.Linear(width, num_classes)

    def initialize(self) -> None:
        """Initializes the weights: a plain mean, and nearly equal scores of all classes."""
        nn.init.zeros_(self.query.weight)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        """(B, D, T), (B) -> (B, C) in float32."""
        is_real = length_mask(lengths, encoded.shape[2])  # (B, 1, T)
        x = encoded.transpose(1, 2)  # (B, D, T) -> (B, T, D)
        scores = self.query(x).float().transpose(1, 2)  # (B, 1, T)
        scores = scores.masked_fill(~is_real, torch.finfo(torch.float32).min)  # not -inf: NaN for length 0
        pooled = scores.softmax(dim=2) @ x.masked_fill(~is_real.transpose(1, 2), 0.0).float()  # (B, 1, D)
        return self.output(pooled.squeeze(1)).float()  # type: ignore[no-any-return]


class SoundClassifier(nn.Module):
    """Waveforms to scores of classes."""

    def __init__(self, features: FeaturesSection, model: SoundEncoderSection, num_classes: int) -> None:
        super().__init__()
        self.front_end = features.build()
        self.encoder = model.build(features.mel_bins)
        self.head = PooledHead(self.encoder.width, num_classes)
        self.initialize()

    def initialize(self) -> None:
        """Draws the weights, once all parts are built."""
        self.encoder.initialize()
        self.head.initialize()

    def forward(self, waveforms: Tensor, lengths: Tensor, augmentation: FeatureTensors | None = None) -> Tensor:
        """(B, S) samples, (B) lengths -> (B, C) scores."""
        return self.head(*self.encoder(*prepare(self.front_end, waveforms, lengths, augmentation)))  # type: ignore[no-any-return]


class TextClassifier(nn.Module):
    """Tokens to scores of classes."""

    def __init__(self, model: EncoderSection, vocabulary: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = TextEncoder(model, vocabulary)
        self.head = PooledHead(self.encoder.width, num_classes)
        self.initialize()

    def initialize(self) -> None:
        """Draws the weights, once all parts are built."""
        self.encoder.initialize()
        self.head.initialize()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) tokens, (B) lengths -> (B, C) scores."""
        return self.head(*self.encoder(tokens, lengths))  # type: ignore[no-any-return]
