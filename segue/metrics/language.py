"""How are language models scored? By the sum of their losses, for each token, byte and word of the text.

Only bits per byte of the original text compare models with different tokenizers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segue.metrics.measures import References, Statistics
from segue.metrics.names import METRICS
from segue.metrics.resampling import Scored, Scores


class Counted(NamedTuple):
    """A text, or a part of one."""

    nats: float
    """Sum of the losses of its tokens."""
    tokens: float
    """Predicted tokens."""
    bytes: float
    """Of the original text, in UTF-8."""
    words: float
    """As `counted_words`."""


def counted_words(text: str) -> int:
    """Words of the original text, split at single spaces: the rule by which Megatron-LM counts those of WikiText."""
    return text.strip().count(" ") + 1 if text.strip() else 0


class PerUnit:
    """Losses for each token, byte or word."""

    def __init__(self, name: str, column: int) -> None:
        self.metric, self._column = METRICS[name], column

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """Not from texts: `of_counts` has them."""
        raise AssertionError(references, hypotheses)

    def score(self, sums: Statistics) -> float:
        """Nats for each token; bits for each byte; the exponential of nats for each word."""
        # Megatron-LM divides by one word less: the first is not predicted.
        units = sums[self._column] - (self.metric.name == "word_perplexity")
        each = sums[0] / max(units, 1.0)
        if self.metric.name == "word_perplexity":
            return math.exp(min(each, 700.0))
        return float(each / math.log(2) if self.metric.unit == "bits" else each)

    score_of_one = score

    def counts(self, sums: Statistics) -> dict[str, int]:
        """Tokens, bytes and words."""
        return {name: round(float(value)) for name, value in zip(("tokens", "bytes", "words"), sums[1:], strict=True)}

    def signature(self, references: References) -> None:
        """None."""
        del references


MEASURES = (PerUnit("loss", 1), PerUnit("bits_per_byte", 2), PerUnit("word_perplexity", 3))


def of_counts(texts: Sequence[Counted]) -> Scores:
    """The scores of texts, or of parts of texts."""
    table = np.array(texts, np.float64)
    measures = MEASURES if table[:, 2].any() else MEASURES[:1]  # of tokens of others, no text is known
    return Scores([Scored.of_statistics(measures, [table] * len(measures))], [np.arange(len(texts))])
