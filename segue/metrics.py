"""How good are outputs? The field's own scorers, chosen by what the references are; intervals by resampling."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.errors import UserError, missing_extra, warn
from segue.writing import has_spaces, joined, writing

SpeechRate = Literal["word_error_rate", "character_error_rate"]
SpeechMetric = Literal["auto", SpeechRate]
ClassMetric = Literal["accuracy", "macro_f1"]
TextMetric = Literal["bleu", "chrf", "word_error_rate"]
BleuTokenizer = Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"]
Direction = Literal["min", "max"]
References = Sequence[Sequence[str]]
"""Right outputs of each example, one or more."""
Statistics = NDArray[np.float64]


class Metric(NamedTuple):
    """What a number means."""

    name: str
    direction: Direction | None = None
    """Which is better; None where that is not known."""
    unit: Literal["share", "points", "nats", "count", ""] = ""
    """A share of 1.0 is 100 %; points go from 0 to 100, or above."""

    @property
    def is_share(self) -> bool:
        """Whether people read it in per cent."""
        return self.unit == "share"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("word_error_rate", "min", "share"),
        Metric("character_error_rate", "min", "share"),
        Metric("sentence_error_rate", "min", "share"),
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
        Metric("insertions", "min", "count"),
        Metric("deletions", "min", "count"),
        Metric("substitutions", "min", "count"),
    )
}
"""All that are known, by name."""


def describe(name: str) -> Metric:
    """What a number of this name, or title, is: a metric, or one of a part of the data, as in "bleu_de"."""
    key = name.lower().replace(" ", "_")
    parts = [known for known in METRICS if f"_{known}_" in f"_{key}_"]
    return METRICS[max(parts, key=len)]._replace(name=name) if parts else Metric(name)


def direction(name: str) -> Direction:
    """Which value of a metric is better."""
    found = METRICS[name].direction
    assert found is not None
    return found


NUM_RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
FEW_SPEAKERS = 10
UNKNOWN_SPEAKER = "(unknown)"


class Measure(Protocol):
    """A score that is a function of sums over examples."""

    @property
    def metric(self) -> Metric:
        """What it is."""
        ...

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, K): what each example adds."""
        ...

    def score(self, sums: Statistics) -> float:
        """Of the examples whose statistics add up to (K)."""
        ...

    def score_of_one(self, row: Statistics) -> float:
        """Of one example alone, whose statistics are (K)."""
        ...

    def counts(self, sums: Statistics) -> dict[str, int]:
        """What the score is made of."""
        ...

    def signature(self, references: References) -> str | None:
        """How it is counted, where that needs to be said."""
        ...


class ErrorRate:
    """Edits per word or character of the reference, the nearest one where there are several; jiwer's.

    Both sides must be normalized alike. Where no reference has a word, the rate is the number of words that were said.
    """

    def __init__(self, unit: Literal["word", "character"], *, is_joined: bool = False) -> None:
        """`is_joined` leaves out spaces beside letters of scripts that need none (`segue/writing.py`)."""
        self.metric, self._unit, self._is_joined = METRICS[f"{unit}_error_rate"], unit, is_joined

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, 4): insertions, deletions, substitutions, length of the reference."""
        jiwer = scorer("jiwer")
        align = jiwer.process_words if self._unit == "word" else jiwer.process_characters
        right = [nearest(each, hypothesis) for each, hypothesis in zip(references, hypotheses, strict=True)]
        said = list(hypotheses)
        if self._is_joined:
            right, said = list(map(joined, right)), list(map(joined, said))
        aligned = align(right, said)
        rows = np.zeros((len(said), 4))
        for row, reference, chunks in zip(rows, aligned.references, aligned.alignments, strict=True):
            row[3] = len(reference)
            for chunk in chunks:
                if chunk.type != "equal":
                    size = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                    row[("insert", "delete", "substitute").index(chunk.type)] += size
        return rows

    def score(self, sums: Statistics) -> float:
        """1.0 is 100 %."""
        return float(sums[:3].sum() / max(sums[3], 1.0))

    score_of_one = score

    def counts(self, sums: Statistics) -> dict[str, int]:
        """Errors by kind, and what there was to get right."""
        names = ("insertions", "deletions", "substitutions", f"{self._unit}s")
        return {name: int(value) for name, value in zip(names, sums, strict=True)}

    def signature(self, references: References) -> None:
        """Nothing needs to be said."""
        del references


class ShareOfOutputs:
    """Accuracy: the share of outputs that are a reference. Or the sentence error rate: of those that are none."""

    def __init__(self, name: Literal["accuracy", "sentence_error_rate"]) -> None:
        self.metric = METRICS[name]

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, 2): counted, 1."""
        counts_right = self.metric.name == "accuracy"
        pairs = zip(references, hypotheses, strict=True)
        return np.array([[(said in right) == counts_right, 1.0] for right, said in pairs])

    def score(self, sums: Statistics) -> float:
        """1.0 is 100 %."""
        return float(sums[0] / max(sums[1], 1.0))

    score_of_one = score

    def counts(self, sums: Statistics) -> dict[str, int]:
        """None."""
        del sums
        return {}

    def signature(self, references: References) -> None:
        """Nothing needs to be said."""
        del references


class MacroF1:
    """The mean over classes of F1, the harmonic mean of precision and recall: a rare class counts as much as others.

    Classes are those of the references and of the outputs, as scikit-learn has them.
    """

    metric = METRICS["macro_f1"]

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, 3 a class): found, wrongly said, missed."""
        labels = sorted({right for right, *_ in references} | set(hypotheses))
        number_of = {label: number for number, label in enumerate(labels)}
        rows = np.zeros((len(hypotheses), len(labels), 3))
        for row, (right, *_), said in zip(rows, references, hypotheses, strict=True):
            if right == said:
                row[number_of[right], 0] = 1
            else:
                row[number_of[said], 1] = row[number_of[right], 2] = 1
        return rows.reshape(len(rows), -1)

    def score(self, sums: Statistics) -> float:
        """1.0 is 100 %."""
        found, wrong, missed = sums.reshape(-1, 3).T
        total = 2 * found + wrong + missed
        return float(
            np.mean(2 * found[total > 0] / total[total > 0])
        )  # a class that no example has or got says nothing

    score_of_one = score

    def counts(self, sums: Statistics) -> dict[str, int]:
        """None; `by_label` has those of each class."""
        del sums
        return {}

    def signature(self, references: References) -> None:
        """Nothing needs to be said."""
        del references


class OfSacrebleu:
    """BLEU, chrF or TER of sacrebleu, from 0 to 100 (TER also above)."""

    def __init__(self, metric: Metric, theirs: Any, of_one: Any = None) -> None:
        """`of_one` scores one sentence from the same statistics, where `theirs` is only for many."""
        self.metric, self._theirs, self._of_one = metric, theirs, of_one or theirs

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, K) as sacrebleu adds them up."""
        most = max(map(len, references))
        streams = [[each[n] if n < len(each) else None for each in references] for n in range(most)]
        return np.array(self._theirs._extract_corpus_statistics(list(hypotheses), streams), np.float64)

    def score(self, sums: Statistics) -> float:
        """Of a corpus."""
        return float(self._theirs._compute_score_from_stats(sums.tolist()).score)

    def score_of_one(self, row: Statistics) -> float:
        """Of a sentence."""
        return float(self._of_one._compute_score_from_stats(row.tolist()).score)

    def counts(self, sums: Statistics) -> dict[str, int]:
        """None that mean something to a reader."""
        del sums
        return {}

    def signature(self, references: References) -> str:
        """sacrebleu's."""
        counts = set(map(len, references))
        self._theirs.num_refs = counts.pop() if len(counts) == 1 else -1
        return str(self._theirs.get_signature())


class Scored:
    """Outputs of one language beside their references."""

    def __init__(
        self,
        measures: Sequence[Measure],
        references: References,
        hypotheses: Sequence[str],
        language: str | None = None,
    ) -> None:
        """The first of `measures` is what chooses a model."""
        assert len(references) == len(hypotheses) > 0
        self.measures, self.language, self.size = measures, language, len(hypotheses)
        self._statistics = [measure.statistics(references, hypotheses) for measure in measures]
        signatures = {measure.metric.name: measure.signature(references) for measure in measures}
        self.signatures = {f"{name}_signature": text for name, text in signatures.items() if text is not None}

    def scores(self, rows: NDArray[np.intp] | None = None) -> dict[str, float]:
        """By name, with the counts behind the first; of all examples, or of those in `rows`."""
        sums = [(each if rows is None else each[rows]).sum(axis=0) for each in self._statistics]
        found = {measure.metric.name: measure.score(each) for measure, each in zip(self.measures, sums, strict=True)}
        return found | self.measures[0].counts(sums[0])

    def scores_of_one(self, row: int) -> dict[str, float]:
        """By name."""
        pairs = zip(self.measures, self._statistics, strict=True)
        return {measure.metric.name: measure.score_of_one(each[row]) for measure, each in pairs}

    def resampled(self, blocks: NDArray[np.intp] | None = None) -> dict[str, Statistics]:
        """(resamples) scores by name, each of as many blocks as there are, drawn with replacement; the same every time.

        `blocks` (N) says which examples belong together; without it each is its own (Bisani and Ney 2004). Examples of
        one speaker have their errors in common: drawn one by one, they would promise more than is known (Liu and Peng
        2020, "Statistical Testing on ASR Performance via Blockwise Bootstrap"). Nothing comes of one block.
        """
        added = np.concatenate(self._statistics, axis=1)  # (N, K of all measures)
        if blocks is not None:
            added = np.stack([np.bincount(blocks, weights=column) for column in added.T], axis=1)
        num_blocks = len(added)
        if num_blocks < 2:
            return {}
        ends = np.cumsum([each.shape[1] for each in self._statistics])[:-1]
        draw = np.random.default_rng(0)
        found = np.empty((NUM_RESAMPLES, len(self.measures)))
        for row in found:
            times = np.bincount(draw.integers(num_blocks, size=num_blocks), minlength=num_blocks)
            sums = np.split(times.astype(np.float64) @ added, ends)
            row[:] = [measure.score(each) for measure, each in zip(self.measures, sums, strict=True)]
        return {measure.metric.name: column for measure, column in zip(self.measures, found.T, strict=True)}


Interval = tuple[float, float]


def intervals(parts: Sequence[Scored], blocks: NDArray[np.intp] | None = None) -> dict[str, Interval]:
    """95 % intervals of the parts' mean scores, by name; none where a part is a single block (`Scored.resampled`), nor
    of a score that no draw changed: an error rate of 0 on a few examples is not known to be 0."""
    resampled = [part.resampled(blocks) for part in parts]
    found = {}
    for name in common(resampled):
        low, high = np.percentile(np.mean([each[name] for each in resampled], axis=0), PERCENTILES)
        if high > low:
            found[name] = (float(low), float(high))
    return found


def common(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that all parts have, in order."""
    return [name for name in parts[0] if all(name in part for part in parts)]


class Difference(NamedTuple):
    """Between two models' scores, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def blocks_of(speakers: Sequence[str | None]) -> NDArray[np.intp]:
    """(N) which examples are of one speaker; who is not named is alone."""
    names = [(each is None, number if each is None else each) for number, each in enumerate(speakers)]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([number_of[name] for name in names])


class Resampling(NamedTuple):
    """How far scores would vary, and what was drawn to know it."""

    intervals: dict[str, Interval]
    note: str


class Scores(NamedTuple):
    """Outputs beside their references, language by language."""

    parts: Sequence[Scored]
    rows: Sequence[NDArray[np.intp]]
    """Of each part, which examples it has."""

    @property
    def chosen(self) -> Metric:
        """What chooses a model."""
        return self.parts[0].measures[0].metric

    def overall(self) -> dict[str, float]:
        """By name: the mean over languages, so that one with longer texts or smaller tokens counts no more than others;
        with counts where there is one language."""
        each = [part.scores() for part in self.parts]
        if len(each) == 1:
            return each[0]
        names = [measure.metric.name for measure in self.parts[0].measures]
        return {name: float(np.mean([part[name] for part in each])) for name in common(each) if name in names}

    def signatures(self) -> dict[str, str]:
        """By name; of each language where they differ."""
        each = [part.signatures for part in self.parts]
        found = {}
        for name in common(each):
            texts = {part.language: signatures[name] for part, signatures in zip(self.parts, each, strict=True)}
            first, is_same = next(iter(texts.values())), len(set(texts.values())) == 1
            found[name] = first if is_same else "; ".join(f"{language} {text}" for language, text in texts.items())
        return found

    def of_each(self) -> list[dict[str, float]]:
        """The scores of each example, in order."""
        found: list[dict[str, float]] = [{}] * sum(map(len, self.rows))
        for part, rows in zip(self.parts, self.rows, strict=True):
            for row, index in enumerate(rows.tolist()):
                found[index] = part.scores_of_one(row)
        return found

    def resampling(self, unit: str, speakers: Sequence[str | None] | None = None) -> Resampling:
        """95 % intervals, by speaker where two or more are known; `unit` names the examples."""
        num_examples = sum(map(len, self.rows))
        drawn, hint, blocks = f"{num_examples:,} {unit}", "", None
        if min(map(len, self.rows)) < 2:
            return Resampling(
                {}, f"no 95 % intervals: they need two {unit} or more" + " of each language" * self._is_mean
            )
        if speakers is not None:
            known = set(speakers) - {None}
            if len(known) > 1:
                blocks = blocks_of(speakers)
                num_alone = sum(each is None for each in speakers)
                drawn = f"{len(known):,} speakers" + (f" and {num_alone:,} {unit} without one" if num_alone else "")
                hint = "; few speakers: rough" if len(known) < FEW_SPEAKERS else ""
            else:
                hint = "; " + ("all of one speaker" if known else "speakers are not known") + ": other voices vary more"
        found = intervals(self.parts, blocks)
        if not found:
            hint += "; every draw has the same scores, so there are none"
        return Resampling(found, f"95 % intervals: bootstrap, {NUM_RESAMPLES:,} draws of {drawn}{hint}")

    def difference(self, other: "Scores", speakers: Sequence[str | None] | None = None) -> dict[str, Difference]:
        """What the other model's scores are above these, of the same examples: by paired bootstrap (Koehn 2004).

        Each draw takes the same examples, or speakers where two or more are known, for both models.
        """
        assert [rows.tolist() for rows in self.rows] == [rows.tolist() for rows in other.rows]
        blocks = None if speakers is None or len(set(speakers) - {None}) < 2 else blocks_of(speakers)
        both = [[part.resampled(blocks) for part in each.parts] for each in (self, other)]
        own, others = self.overall(), other.overall()
        found = {}
        for name in common([*both[0], *both[1]]):
            ours, theirs = (np.mean([each[name] for each in resampled], axis=0) for resampled in both)
            low, high = np.percentile(theirs - ours, PERCENTILES)
            found[name] = Difference(others[name] - own[name], float(low), float(high))
        return found

    def by_speaker(self, speakers: Sequence[str | None]) -> dict[str, dict[str, float]]:
        """Each speaker's examples and scores, worst first; nothing where no speaker is known."""
        assert len(self.parts) == 1
        rows: dict[str | None, list[int]] = {}
        for row, speaker in enumerate(speakers):
            rows.setdefault(speaker, []).append(row)
        found = {
            speaker or UNKNOWN_SPEAKER: {"utterances": len(each), **self.parts[0].scores(np.array(each))}
            for speaker, each in rows.items()
        }
        sign = -1 if self.chosen.direction == "min" else 1
        ordered = dict(sorted(found.items(), key=lambda each: (sign * each[1][self.chosen.name], each[0])))
        return ordered if set(speakers) != {None} else {}

    def by_language(self, unit: str) -> dict[str, dict[str, Any]]:
        """Each language's examples, scores, signatures and intervals; nothing where there is one language."""
        if not self._is_mean:
            return {}
        return {
            part.language or "": {
                unit: part.size,
                **part.scores(),
                **part.signatures,
                "intervals": {name: list(each) for name, each in intervals([part]).items()},
            }
            for part in self.parts
        }

    @property
    def _is_mean(self) -> bool:
        return len(self.parts) > 1


# --- which scores there are ---


def speech(metric: SpeechMetric, references: Sequence[str], hypotheses: Sequence[str]) -> Scores:
    """Word and character error rates; that which chooses first (`speech_metric`). Texts are normalized."""
    name = speech_metric(metric, references)
    is_joined = not has_spaces(writing(references))
    rates: list[Measure] = [ErrorRate("word"), ErrorRate("character", is_joined=is_joined)]
    rates.sort(key=lambda rate: rate.metric.name != name)
    part = Scored(rates, [[each] for each in references], hypotheses)
    return Scores([part], [np.arange(part.size)])


def classes(metric: ClassMetric, references: Sequence[str], hypotheses: Sequence[str]) -> Scores:
    """Accuracy and macro F1; that which chooses first."""
    measures: list[Measure] = [ShareOfOutputs("accuracy"), MacroF1()]
    measures.sort(key=lambda measure: measure.metric.name != metric)
    part = Scored(measures, [[each] for each in references], hypotheses)
    return Scores([part], [np.arange(part.size)])


def by_label(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, dict[str, float]]:
    """Examples, precision, recall and F1 of each class that a reference has, in the order of names."""
    found = {}
    for label in sorted(set(references)):
        right = sum(label == each == said for each, said in zip(references, hypotheses, strict=True))
        count, said = references.count(label), hypotheses.count(label)
        scores = {"precision": right / max(said, 1), "recall": right / count, "f1": 2 * right / (count + said)}
        found[label] = {"examples": count, **scores}
    return found


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Word and character error rates of normalized texts, and the counts behind the first (`speech`)."""
    return speech("auto", references, hypotheses).overall()


def speech_metric(metric: SpeechMetric, references: Iterable[str]) -> SpeechRate:
    """What chooses: unless it is given, the character error rate where nothing separates the words of the references,
    and the word error rate elsewhere."""
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
    """What `metric` belongs to: word, character and sentence error rates; or BLEU and chrF, and with `has_edit_rate`
    TER, which is slow. `metric` comes first. A part for each of the languages, which decide with the references how
    words are counted (`bleu_tokenizer`)."""
    parts, all_rows = [], _by_language(languages)
    for language, rows in all_rows.items():
        right, said = [references[row] for row in rows], [hypotheses[row] for row in rows]
        measures = text_measures(metric, tokenizer, right, language, has_edit_rate=has_edit_rate)
        parts.append(Scored(measures, right, said, language))
    return Scores(parts, [np.array(rows) for rows in all_rows.values()])


def signatures(
    metric: TextMetric, tokenizer: BleuTokenizer, references: References, languages: Sequence[str | None]
) -> dict[str | None, str | None]:
    """How `metric` is counted in each of the languages, where that needs to be said."""
    found = {}
    for language, rows in _by_language(languages).items():
        right = [references[row] for row in rows]
        found[language] = text_measures(metric, tokenizer, right, language)[0].signature(right)
    return found


def _by_language(languages: Sequence[str | None]) -> dict[str | None, list[int]]:
    """Places of each, in order."""
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
    """The scores of one language; `metric` first."""
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
    """TER; of Chinese characters one by one; none where a line is a word."""
    how = writing(references, language)
    if how == "unspaced":
        return []
    is_wide = not has_spaces(how)
    return [OfSacrebleu(METRICS["ter"], sacrebleu.TER(normalized=is_wide, asian_support=is_wide))]


def bleu_tokenizer(given: BleuTokenizer, references: Sequence[str], language: str | None) -> str:
    """sacrebleu's name of what cuts texts into words for BLEU. "auto" goes by how the references write: as
    sacrebleu does for Chinese, Japanese and Korean, by characters for scripts like Thai, else by WMT's 13a.

    A UserError if that which is given needs packages that are missing; "auto" then takes characters, and says so.
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
"""Tokenizers that need a dictionary: the language, and our extra."""


@cache
def _mecab_problem(tokenizer: str) -> str | None:
    """Why a tokenizer cannot be used."""
    _, extra = MECAB[tokenizer]
    try:
        scorer("sacrebleu").BLEU(tokenize=tokenizer)
    except (RuntimeError, AssertionError) as problem:  # no package; or the user's own dictionary
        why = str(problem) if isinstance(problem, AssertionError) else ""
        return f"{tokenizer} needs its dictionary: pip install 'segue[{extra}]'" + (f" ({why})" if why else "")
    return None


@cache
def _warn_of_characters(tokenizer: str, problem: str) -> None:
    """Once."""
    language, _ = MECAB[tokenizer]
    warn(f"BLEU of {language} counts characters here, which is not comparable with words: {problem}")


def nearest(references: Sequence[str], hypothesis: str) -> str:
    """The reference that the fewest word edits turn into the hypothesis; the first of equals."""
    if len(references) == 1:
        return references[0]
    words, levenshtein = hypothesis.split(), scorer("rapidfuzz.distance").Levenshtein
    return min(references, key=lambda reference: levenshtein.distance(reference.split(), words))


def scorer(name: str) -> Any:
    """A module that scores or aligns. They come with an extra: who only runs models needs none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or name, "evaluate") from None
