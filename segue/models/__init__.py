"""One architecture, one file: a Section of sizes that builds it, then nn.Modules."""

from typing import Protocol

from torch import Tensor


class Encoder(Protocol):
    """What a model is to speech recognition: features in, as many frames as they say out."""

    width: int
    """Channels of the output."""
    subsampling: int
    """Input frames per output frame."""

    def initialize(self) -> None:
        """Draws the weights, once all of the model is built."""
        ...

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, T) features, normalized, (B) frames -> (B, D, T') of `width`, (B) frames: ceil(T / subsampling).

        What stands after an utterance's end never reaches its real frames.
        """
        ...
