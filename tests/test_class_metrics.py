"""Accuracy, macro F1 and what is known of each class, against numbers that were computed by hand."""

import numpy as np
import pytest

from segue import metrics
from segue.metrics import MacroF1, ShareOfOutputs, classes

RIGHT = ["a", "a", "a", "b", "b", "c"]
SAID = ["a", "a", "b", "b", "a", "d"]
# a: found 2, wrongly said 1, missed 1; b: 1, 1, 1; c: 0, 0, 1; d: 0, 1, 0.
F1 = {"a": 4 / 6, "b": 2 / 4, "c": 0.0, "d": 0.0}


def test_macro_f1_is_the_mean_over_classes() -> None:
    """Over those that an example has or was given."""
    found = classes("accuracy", RIGHT, SAID).overall()
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["macro_f1"] == pytest.approx(sum(F1.values()) / 4)
    assert classes("accuracy", ["a", "a", "a", "b"], ["a"] * 4).overall()["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)


def test_the_choosing_metric_comes_first() -> None:
    assert classes("macro_f1", RIGHT, SAID).chosen.name == "macro_f1"
    assert list(classes("macro_f1", RIGHT, SAID).overall()) == ["macro_f1", "accuracy"]


def test_statistics_of_a_part_give_its_scores() -> None:
    references = [[each] for each in RIGHT]
    for measure in (ShareOfOutputs("accuracy"), MacroF1()):
        statistics = measure.statistics(references, SAID)
        for rows in ([0, 1], [2, 3, 4], [5], [0, 0, 5]):
            of_part = measure.statistics([references[row] for row in rows], [SAID[row] for row in rows]).sum(axis=0)
            assert measure.score(statistics[rows].sum(axis=0)) == pytest.approx(measure.score(of_part))


def test_each_class_has_its_precision_and_recall() -> None:
    found = metrics.by_label(RIGHT, SAID)
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == {"examples": 3, "precision": 2 / 3, "recall": 2 / 3, "f1": pytest.approx(F1["a"])}
    assert found["c"] == {"examples": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_class_scores_have_intervals() -> None:
    """And differences, as all metrics have."""
    draw = np.random.default_rng(0)
    right = [str(number) for number in draw.integers(3, size=300)]
    good, bad = ([each if draw.random() < share else "0" for each in right] for share in (0.95, 0.6))
    ours, theirs = classes("accuracy", right, good), classes("accuracy", right, bad)
    for name, (low, high) in ours.resampling("texts").intervals.items():
        assert low < ours.overall()[name] < high
    for name in ("accuracy", "macro_f1"):
        assert theirs.difference(ours)[name].low > 0
        assert metrics.describe(name).is_share
        assert metrics.direction(name) == "max"


def test_accuracy_losses_are_percentage_points() -> None:
    from segue.parity import gate

    found = gate([classes("accuracy", RIGHT, said) for said in (RIGHT, SAID)])
    assert (found["metric"], found["before"], found["after"]) == ("accuracy", 1.0, 0.5)
    assert found["loss"] == pytest.approx(50)
