"""What computes the scores of classes? An encoder, the mean of its outputs, a linear layer.

Shape letters: B batch, S samples or tokens, T outputs of the encoder, D width, C classes.
"""

from torch import Tensor, nn

from segue.data.features import FeaturesSection, FeatureTensors, LogMel
from segue.layers.mask import length_mask
from segue.models.jasper import JasperSection
from segue.models.text_encoder import TextEncoder
from segue.models.transformer import EncoderSection


class MeanHead(nn.Module):
    """Scores of classes from the mean over what is real."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, num_classes)

    def initialize(self) -> None:
        """All classes are as likely at first, nearly."""
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        """(B, D, T), (B) -> (B, C) in float32."""
        real = encoded.masked_fill(~length_mask(lengths, encoded.shape[2]), 0.0)
        mean = real.float().sum(dim=2) / lengths.clamp(min=1).unsqueeze(1)
        return self.output(mean).float()  # type: ignore[no-any-return]


class SoundClassifier(nn.Module):
    """Waveforms to scores."""

    def __init__(self, features: FeaturesSection, model: JasperSection, num_classes: int) -> None:
        super().__init__()
        self.front_end = LogMel(features)
        self.encoder = model.build(features.mel_bins)
        self.head = MeanHead(self.encoder.width, num_classes)
        self.initialize()

    def initialize(self) -> None:
        """Draws the weights, once all parts are built."""
        self.encoder.initialize()
        self.head.initialize()

    def forward(self, waveforms: Tensor, lengths: Tensor, augmentation: FeatureTensors | None = None) -> Tensor:
        """(B, S) samples, (B) their numbers -> (B, C) scores."""
        return self.head(*self.encoder(*self.front_end.prepare(waveforms, lengths, augmentation)))  # type: ignore[no-any-return]


class TextClassifier(nn.Module):
    """Tokens to scores."""

    def __init__(self, model: EncoderSection, vocabulary: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = TextEncoder(model, vocabulary)
        self.head = MeanHead(self.encoder.width, num_classes)
        self.initialize()

    def initialize(self) -> None:
        """Draws the weights, once all parts are built."""
        self.encoder.initialize()
        self.head.initialize()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) tokens, (B) their numbers -> (B, C) scores."""
        return self.head(*self.encoder(tokens, lengths))  # type: ignore[no-any-return]
