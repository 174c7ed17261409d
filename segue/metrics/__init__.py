"""Metrics: `names.py`; `measures.py`, scores from sums over examples; `resampling.py`, confidence intervals;
`choice.py`, the metrics of a task."""

from segue.metrics.choice import (
    bleu_tokenizer,
    by_label,
    classes,
    error_rates,
    signatures,
    speech,
    speech_metric,
    texts,
)
from segue.metrics.measures import MacroF1, ShareOfOutputs, nearest, scorer
from segue.metrics.names import (
    METRICS,
    BleuTokenizer,
    ClassMetric,
    Direction,
    Metric,
    SpeechMetric,
    TextMetric,
    describe,
    direction,
)
from segue.metrics.resampling import Difference, Scores

__all__ = [
    "METRICS",
    "BleuTokenizer",
    "ClassMetric",
    "Difference",
    "Direction",
    "MacroF1",
    "Metric",
    "Scores",
    "ShareOfOutputs",
    "SpeechMetric",
    "TextMetric",
    "bleu_tokenizer",
    "by_label",
    "classes",
    "describe",
    "direction",
    "error_rates",
    "nearest",
    "scorer",
    "signatures",
    "speech",
    "speech_metric",
    "texts",
]
