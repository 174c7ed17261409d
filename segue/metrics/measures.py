"""Scores that are functions of sums over examples, computed with jiwer and sacrebleu."""

import importlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.errors import missing_extra
from segue.metrics.names import METRICS, Metric
from segue.writing import joined

References = Sequence[Sequence[str]]
"""One or more references of each example."""
Statistics = NDArray[np.float64]


class Measure(Protocol):
    """A score that is a function of sums over examples."""

    @property
    def metric(self) -> Metric:
        """Name, direction and unit."""
        ...

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, K) statistics of each example, to be summed."""
        ...

    def score(self, sums: Statistics) -> float:
        """The score of examples from the sums (K) of their statistics."""
        ...

    def score_of_one(self, row: Statistics) -> float:
        """The score of a single example from its statistics (K)."""
        ...

    def counts(self, sums: Statistics) -> dict[str, int]:
        """The counts behind the score, by name; may be empty."""
        ...

    def signature(self, references: References) -> str | None:
        """How the score is computed, as sacrebleu's signature; None if there is only one way."""
        ...


class ErrorRate:
    """Word or character error rate, from jiwer's alignment with the nearest reference.

    References and hypotheses must be normalized alike. If the references have no words at all, the rate is the number
    of words in the hypotheses.
    """

    def __init__(self, unit: Literal["word", "character"], *, is_joined: bool = False) -> None:
        """`is_joined` ignores spaces next to letters of scripts without spaces (`segue/writing.py`)."""
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
        """Errors by kind, and the length of the references."""
        names = ("insertions", "deletions", "substitutions", f"{self._unit}s")
        return {name: int(value) for name, value in zip(names, sums, strict=True)}

    def signature(self, references: References) -> None:
        """None."""
        del references


class ShareOfOutputs:
    """Accuracy, the share of outputs that equal a reference; or sentence error rate, the share of those that do not."""

    def __init__(self, name: Literal["accuracy", "sentence_error_rate"]) -> None:
        self.metric = METRICS[name]

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, 2): 1 if the output counts, else 0; and 1."""
        counts_right = self.metric.name == "accuracy"
        pairs = zip(references, hypotheses, strict=True)
        return np.array([[(said in right) == counts_right, 1.0] for right, said in pairs])

    def score(self, sums: Statistics) -> float:
        """1.0 is 100 %."""
        return float(sums[0] / max(sums[1], 1.0))

    score_of_one = score

    def counts(self, sums: Statistics) -> dict[str, int]:
        """Empty."""
        del sums
        return {}

    def signature(self, references: References) -> None:
        """None."""
        del references


class MacroF1:
    """The mean over classes of F1, the harmonic mean of precision and recall: rare classes count as much as others.

    Classes are those in the references and in the outputs, as in scikit-learn.
    """

    metric = METRICS["macro_f1"]

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, 3 * classes): true positives, false positives and false negatives of each class."""
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
        )  # without classes that are neither in the references nor in the outputs

    score_of_one = score

    def counts(self, sums: Statistics) -> dict[str, int]:
        """Empty; `by_label` has those of each class."""
        del sums
        return {}

    def signature(self, references: References) -> None:
        """None."""
        del references


class OfSacrebleu:
    """BLEU, chrF or TER from sacrebleu, 0 to 100 (TER can exceed 100)."""

    def __init__(self, metric: Metric, theirs: Any, of_one: Any = None) -> None:
        """`theirs` is sacrebleu's metric; `of_one`, if given, scores single sentences from the same statistics."""
        self.metric, self._theirs, self._of_one = metric, theirs, of_one or theirs

    def statistics(self, references: References, hypotheses: Sequence[str]) -> Statistics:
        """(N, K) statistics that sacrebleu sums."""
        most = max(map(len, references))
        streams = [[each[n] if n < len(each) else None for each in references] for n in range(most)]
        return np.array(self._theirs._extract_corpus_statistics(list(hypotheses), streams), np.float64)

    def score(self, sums: Statistics) -> float:
        """The score of a corpus from the sums (K)."""
        return float(self._theirs._compute_score_from_stats(sums.tolist()).score)

    def score_of_one(self, row: Statistics) -> float:
        """The score of a sentence from its statistics (K)."""
        return float(self._of_one._compute_score_from_stats(row.tolist()).score)

    def counts(self, sums: Statistics) -> dict[str, int]:
        """Empty: sacrebleu's counts are not shown."""
        del sums
        return {}

    def signature(self, references: References) -> str:
        """sacrebleu's signature."""
        counts = set(map(len, references))
        self._theirs.num_refs = counts.pop() if len(counts) == 1 else -1
        return str(self._theirs.get_signature())


def nearest(references: Sequence[str], hypothesis: str) -> str:
    """The reference with the smallest word edit distance to the hypothesis; the first of several."""
    if len(references) == 1:
        return references[0]
    words, levenshtein = hypothesis.split(), scorer("rapidfuzz.distance").Levenshtein
    return min(references, key=lambda reference: levenshtein.distance(reference.split(), words))


def scorer(name: str) -> Any:
    """Imports a scoring module. Raises a UserError that names the extra if it is missing: running models needs none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or name, "evaluate") from None
