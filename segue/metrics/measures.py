"""What does a metric count in each example, and which score do the sums give? The field's own scorers."""

import importlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.errors import missing_extra
from segue.metrics.names import METRICS, Metric
from segue.writing import joined

References = Sequence[Sequence[str]]
"""Right outputs of each example, one or more."""
Statistics = NDArray[np.float64]


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
