"""How are language models scored? By the sum of their losses, for each token, byte, word and step of the text.

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
    steps: float = 0.0
    """Tokens that end a step, in models that have steps."""
    step_nats: float = 0.0
    """Sum of the losses of all tokens but the end token."""


def counted_words(text: str) -> int:
    """Words of the original text, split at single spaces: the rule by which Megatron-LM counts those of WikiText."""
    return text.strip().count(" ") + 1 if text.strip() else 0


class PerUnit:
    """Losses for each token, byte, word or step."""

    def __init__(self, name: str, column: int, nats: int = 0) -> None:
        """Columns of `Counted`: that of the units, and that of the losses."""
        self.metric, self._column, self._nats = METRICS[name], column, nats

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """Not from texts: `of_counts` has them."""
        raise AssertionError(references, hypotheses)

    def score(self, sums: Statistics) -> float:
        """Nats for each token or step; bits for each byte; the exponential of nats for each word."""
        # Megatron-LM divides by one word less: the first is not predicted.
        units = sums[self._column] - (self.metric.name == "word_perplexity")
        each = sums[self._nats] / max(units, 1.0)
        if self.metric.name == "word_perplexity":
            return math.exp(min(each, 700.0))
        return float(each / math.log(2) if self.metric.unit == "bits" else each)

    score_of_one = score

    def counts(self, sums: Statistics) -> dict[str, int]:
        """Tokens, bytes and words; steps, if there are any."""
        names = ("tokens", "bytes", "words", *["steps"] * bool(sums[4]))
        return {name: round(float(value)) for name, value in zip(names, sums[1:], strict=False)}

    def signature(self, references: References) -> None:
        """None."""
        del references


MEASURES = (PerUnit("loss", 1), PerUnit("bits_per_byte", 2), PerUnit("word_perplexity", 3))
STEPS = PerUnit("nats_per_step", 4, 5)
"""A step is everything up to a certain token. The end token is not of a step, so its loss does not count."""


def of_counts(texts: Sequence[Counted]) -> Scores:
    """The scores of texts, or of parts of texts."""
    table = np.array(texts, np.float64)
    # Of tokens of others, no text is known; and few models have steps.
    measures = (STEPS,) * bool(table[:, 4].any()) + (MEASURES if table[:, 2].any() else MEASURES[:1])
    return Scores([Scored.of_statistics(measures, [table] * len(measures))], [np.arange(len(texts))])
