"""Scores of labels against scikit-learn's definitions, written out by hand."""

from __future__ import annotations

import math

import pytest

from tunesmith.errors import DataError
from tunesmith.evaluate.labels import calibration_error, log_loss, report_labels

RIGHT = ["a", "a", "a", "a", "b", "b", "c", "c", "c", "d"]
CHOSEN = ["a", "a", "b", "c", "b", "b", "c", "a", "c", "e"]


def test_scores_of_each_label_by_hand() -> None:
    report = report_labels(CHOSEN, RIGHT)
    assert report.labels == ("a", "b", "c", "d", "e")
    assert report.confusion == ((2, 1, 1, 0, 0), (0, 2, 0, 0, 0), (1, 0, 2, 0, 0), (0, 0, 0, 0, 1), (0, 0, 0, 0, 0))
    found = {
        name: (scores.precision, scores.recall, scores.f1, scores.support) for name, scores in report.classes.items()
    }
    # scikit-learn 1.7, classification_report(RIGHT, CHOSEN, zero_division=0): d is never chosen, e is never right
    assert found == {
        "a": pytest.approx((2 / 3, 1 / 2, 4 / 7, 4)),
        "b": pytest.approx((2 / 3, 1, 0.8, 2)),
        "c": pytest.approx((2 / 3, 2 / 3, 2 / 3, 3)),
        "d": pytest.approx((0, 0, 0, 1)),
        "e": pytest.approx((0, 0, 0, 0)),
    }
    assert report.accuracy == pytest.approx(0.6)
    assert report.macro_f1 == pytest.approx((4 / 7 + 0.8 + 2 / 3) / 5)
    assert report.mistakes()[0] == ("a", "b", 1)
    assert sum(rows for _, _, rows in report.mistakes()) == 4


def test_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    import random

    rng = random.Random(5)
    names = [f"label {number}" for number in range(7)]
    right = rng.choices(names[:6], weights=[9, 5, 3, 2, 1, 1], k=300)
    chosen = [name if rng.random() < 0.6 else rng.choice(names) for name in right]
    report = report_labels(chosen, right)
    assert report.accuracy == pytest.approx(metrics.accuracy_score(right, chosen))
    assert report.macro_f1 == pytest.approx(metrics.f1_score(right, chosen, average="macro", zero_division=0))
    assert report.confusion == tuple(map(tuple, metrics.confusion_matrix(right, chosen).tolist()))
    columns = metrics.precision_recall_fscore_support(right, chosen, zero_division=0)
    for index, scores in enumerate(report.classes.values()):
        ours = (scores.precision, scores.recall, scores.f1, scores.support)
        assert ours == pytest.approx(tuple(column[index] for column in columns))


def test_log_loss() -> None:
    assert log_loss([0.5, 0.25]) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert log_loss([1.0]) == 0
    assert log_loss([0.5, 0.0]) == math.inf


def test_calibration_error() -> None:
    # one bin at 0.9 (two of three right), one at 0.5 (its upper end is inside: (0.4, 0.5]), one at 1
    stated, right = [0.9, 0.85, 0.9, 0.5, 1.0], [True, True, False, False, True]
    expected = (abs(0.9 - 2 + 0.85 + 0.9) + 0.5 + 0) / 5
    assert calibration_error(stated, right) == pytest.approx(expected)
    assert calibration_error([0.5, 0.5], [True, False]) == 0
    assert calibration_error([0.0], [False]) == 0


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="no labels to score"):
        report_labels([], [])
