"""Metrics: `names.py`; `measures.py`, scores from sums over examples; `resampling.py`, confidence intervals;
`choice.py`, the metrics of a task; `normalizers.py`; `conversations.py`, who said what and when; `confidence.py`."""

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
from segue.metrics.confidence import area_under_roc, calibration_error
from segue.metrics.conversations import Spoken, concatenated, concatenated_in_time, in_time, spread
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
    "Spoken",
    "TextMetric",
    "area_under_roc",
    "bleu_tokenizer",
    "by_label",
    "calibration_error",
    "classes",
    "concatenated",
    "concatenated_in_time",
    "describe",
    "direction",
    "error_rates",
    "in_time",
    "nearest",
    "scorer",
    "signatures",
    "speech",
    "speech_metric",
    "spread",
    "texts",
]
