"""The metrics of a task's outputs, which depend on its references: their languages, scripts or classes."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from segue.errors import UserError, warn
from segue.metrics.measures import ErrorRate, MacroF1, Measure, OfSacrebleu, References, ShareOfOutputs, scorer
from segue.metrics.names import METRICS, BleuTokenizer, ClassMetric, SpeechMetric, SpeechRate, TextMetric
from segue.metrics.resampling import Scored, Scores
from segue.writing import has_spaces, writing


def speech(metric: SpeechMetric, references: Sequence[str], hypotheses: Sequence[str]) -> Scores:
    """Word and character error rates of normalized texts, first the one that selects models (`speech_metric`)."""
    name = speech_metric(metric, references)
    is_joined = not has_spaces(writing(references))
    rates: list[Measure] = [ErrorRate("word"), ErrorRate("character", is_joined=is_joined)]
    rates.sort(key=lambda rate: rate.metric.name != name)
    part = Scored(rates, [[each] for each in references], hypotheses)
    return Scores([part], [np.arange(part.size)])


def classes(metric: ClassMetric, references: Sequence[str], hypotheses: Sequence[str]) -> Scores:
    """Accuracy and macro F1, first the one that selects models, `metric`."""
    measures: list[Measure] = [ShareOfOutputs("accuracy"), MacroF1()]
    measures.sort(key=lambda measure: measure.metric.name != metric)
    part = Scored(measures, [[each] for each in references], hypotheses)
    return Scores([part], [np.arange(part.size)])


def by_label(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, dict[str, float]]:
    """Number of examples, precision, recall and F1 of each class that occurs in the references, sorted by name."""
    found = {}
    for label in sorted(set(references)):
        right = sum(label == each == said for each, said in zip(references, hypotheses, strict=True))
        count, said = references.count(label), hypotheses.count(label)
        scores = {"precision": right / max(said, 1), "recall": right / count, "f1": 2 * right / (count + said)}
        found[label] = {"examples": count, **scores}
    return found


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Word and character error rates of normalized texts, and the counts of errors of the first (see `speech`)."""
    return speech("auto", references, hypotheses).overall()


def speech_metric(metric: SpeechMetric, references: Iterable[str]) -> SpeechRate:
    """The metric that selects models. "auto" is the character error rate if the references have no spaces between
    words, else the word error rate."""
    if metric != "auto":
        return metric
    return "word_error_rate" if has_spaces(writing(references)) else "character_error_rate"


def texts(
    metric: TextMetric,
    tokenizer: BleuTokenizer,
    references: References,
    hypotheses: Sequence[str],
    languages: Sequence[str | None],
    *,
    has_edit_rate: bool = False,
) -> Scores:
    """Word, character and sentence error rates if `metric` is the word error rate; else BLEU, chrF and, with
    `has_edit_rate`, TER, which is slow. `metric` comes first. Each language is one part of the scores, with its own
    tokenizer (`bleu_tokenizer`)."""
    parts, all_rows = [], _by_language(languages)
    for language, rows in all_rows.items():
        right, said = [references[row] for row in rows], [hypotheses[row] for row in rows]
        measures = text_measures(metric, tokenizer, right, language, has_edit_rate=has_edit_rate)
        parts.append(Scored(measures, right, said, language))
    return Scores(parts, [np.array(rows) for rows in all_rows.values()])


def signatures(
    metric: TextMetric, tokenizer: BleuTokenizer, references: References, languages: Sequence[str | None]
) -> dict[str | None, str | None]:
    """The signature of `metric` for each language; None if it has none."""
    found = {}
    for language, rows in _by_language(languages).items():
        right = [references[row] for row in rows]
        found[language] = text_measures(metric, tokenizer, right, language)[0].signature(right)
    return found


def _by_language(languages: Sequence[str | None]) -> dict[str | None, list[int]]:
    """Indices of the examples of each language."""
    rows: dict[str | None, list[int]] = {}
    for row, language in enumerate(languages):
        rows.setdefault(language, []).append(row)
    return rows


def text_measures(
    metric: TextMetric,
    tokenizer: BleuTokenizer,
    references: References,
    language: str | None,
    *,
    has_edit_rate: bool = False,
) -> list[Measure]:
    """The measures for one language, `metric` first."""
    if metric == "word_error_rate":
        return [ErrorRate("word"), ErrorRate("character"), ShareOfOutputs("sentence_error_rate")]
    sacrebleu = scorer("sacrebleu")
    firsts = [each[0] for each in references]
    chosen = bleu_tokenizer(tokenizer, firsts, language)
    bleu, of_one = (sacrebleu.BLEU(tokenize=chosen, effective_order=is_one) for is_one in (False, True))
    found: list[Measure] = [OfSacrebleu(METRICS["bleu"], bleu, of_one), OfSacrebleu(METRICS["chrf"], sacrebleu.CHRF())]
    if has_edit_rate:
        found += _edit_rate(sacrebleu, firsts, language)
    return sorted(found, key=lambda measure: measure.metric.name != metric)


def _edit_rate(sacrebleu: Any, references: Sequence[str], language: str | None) -> list[Measure]:
    """TER, with sacrebleu's Asian support for Chinese and Japanese; none for scripts like Thai without spaces."""
    how = writing(references, language)
    if how == "unspaced":
        return []
    is_wide = not has_spaces(how)
    return [OfSacrebleu(METRICS["ter"], sacrebleu.TER(normalized=is_wide, asian_support=is_wide))]


def bleu_tokenizer(given: BleuTokenizer, references: Sequence[str], language: str | None) -> str:
    """sacrebleu's name of the tokenizer for BLEU. "auto" depends on the script of the references: sacrebleu's defaults
    for Chinese, Japanese and Korean, characters for scripts like Thai, and 13a for others.

    If the tokenizer's packages are missing, "auto" uses characters and warns; otherwise raises a UserError.
    """
    automatic = {"chinese": "zh", "japanese": "ja-mecab", "korean": "ko-mecab", "unspaced": "char", "spaced": "13a"}
    name = automatic[writing(references, language)] if given == "auto" else given
    if name in MECAB:
        problem = _mecab_problem(name)
        if problem is not None and given != "auto":
            raise UserError(f"bleu_tokenizer: {problem}")
        if problem is not None:
            _warn_of_characters(name, problem)
            return "char"
    return name


MECAB = {"ja-mecab": ("Japanese", "japanese"), "ko-mecab": ("Korean", "korean")}
"""Tokenizers that need a dictionary: name of the language, and Segue's extra that installs the dictionary."""


@cache
def _mecab_problem(tokenizer: str) -> str | None:
    """Why a tokenizer cannot be used; None if it can."""
    _, extra = MECAB[tokenizer]
    try:
        scorer("sacrebleu").BLEU(tokenize=tokenizer)
    except (RuntimeError, AssertionError) as problem:  # no package; or the user's own dictionary
        why = str(problem) if isinstance(problem, AssertionError) else ""
        return f"{tokenizer} needs its dictionary: pip install 'segue[{extra}]'" + (f" ({why})" if why else "")
    return None


@cache
def _warn_of_characters(tokenizer: str, problem: str) -> None:
    """Warns, once per tokenizer, that BLEU counts characters instead."""
    language, _ = MECAB[tokenizer]
    warn(f"BLEU of {language} counts characters here, which is not comparable with words: {problem}")
