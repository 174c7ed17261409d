"""The known metrics: names, directions and units."""

from typing import Literal, NamedTuple

SpeechRate = Literal["word_error_rate", "character_error_rate"]
SpeechMetric = Literal["auto", SpeechRate]
ClassMetric = Literal["accuracy", "macro_f1"]
TextMetric = Literal["bleu", "chrf", "word_error_rate"]
BleuTokenizer = Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"]
Direction = Literal["min", "max"]


class Metric(NamedTuple):
    """A metric."""

    name: str
    direction: Direction | None = None
    """Whether lower or higher is better; None if unknown."""
    unit: Literal["share", "points", "nats", "bits", "count", ""] = ""
    """A share of 1.0 is 100 %; points go from 0 to 100, or higher."""

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent."""
        return self.unit == "share"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("word_error_rate", "min", "share"),
        Metric("character_error_rate", "min", "share"),
        Metric("sentence_error_rate", "min", "share"),
        Metric("equal_error_rate", "min", "share"),
        Metric("accuracy", "max", "share"),
        Metric("macro_f1", "max", "share"),
        Metric("precision", "max", "share"),
        Metric("recall", "max", "share"),
        Metric("f1", "max", "share"),
        Metric("probability", "max", "share"),
        Metric("bleu", "max", "points"),
        Metric("chrf", "max", "points"),
        Metric("ter", "min", "points"),
        Metric("loss", "min", "nats"),
        Metric("bits_per_byte", "min", "bits"),
        Metric("word_perplexity", "min"),
        Metric("nats_per_step", "min", "nats"),
        Metric("insertions", "min", "count"),
        Metric("deletions", "min", "count"),
        Metric("substitutions", "min", "count"),
    )
}
"""All known metrics, by name."""


def describe(name: str) -> Metric:
    """The metric of this name or title, which may be of a part of the data, as in "bleu_de"."""
    key = name.lower().replace(" ", "_")
    parts = [known for known in METRICS if f"_{known}_" in f"_{key}_"]
    return METRICS[max(parts, key=len)]._replace(name=name) if parts else Metric(name)


def direction(name: str) -> Direction:
    """Whether lower or higher values of a known metric are better."""
    found = METRICS[name].direction
    assert found is not None
    return found
