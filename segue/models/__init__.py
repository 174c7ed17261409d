"""Model architectures, one per file: a Section with the sizes, then nn.Modules."""

from typing import Protocol

from torch import Tensor


class Encoder(Protocol):
    """An acoustic encoder: features to frames of vectors, at a lower rate by `subsampling`."""

    width: int
    """Channels of the output."""
    subsampling: int
    """Input frames per output frame."""

    def initialize(self) -> None:
        """Initializes the weights, after the whole model is built."""
        ...

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, T) normalized features, (B) numbers of frames -> (B, D, T'), (B) numbers of output frames.

        D is `width`, T' = ceil(T / subsampling). Padding must not influence real frames.
        """
        ...
