"""Scores of labels against scikit-learn's definitions, written out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import load_config
from tunesmith.data import encode
from tunesmith.errors import DataError
from tunesmith.evaluate import confusions, evaluate, summarise
from tunesmith.evaluate.labels import calibration_bins, calibration_error, log_loss, macro_f1, micro_f1, report_labels
from tunesmith.evaluate.paired import difference, interval
from tunesmith.generate import Choice, Engine, choose
from tunesmith.prompts import check_template
from tunesmith.types import Example, Message

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
    assert micro_f1(chosen, right).value == pytest.approx(metrics.f1_score(right, chosen, average="micro"))
    assert report.confusion == tuple(map(tuple, metrics.confusion_matrix(right, chosen).tolist()))
    columns = metrics.precision_recall_fscore_support(right, chosen, zero_division=0)
    for index, scores in enumerate(report.classes.values()):
        ours = (scores.precision, scores.recall, scores.f1, scores.support)
        assert ours == pytest.approx(tuple(column[index] for column in columns))


def test_log_loss() -> None:
    assert log_loss([math.log(0.5), None, math.log(0.25)]).value == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert f"{log_loss([-0.0]).value:g}" == "0"
    far = Choice(("a", "b"), (-5000.0, -4000.0))
    assert log_loss([far.log_probabilities[0]]).value == 1000  # a probability that is 0 as a float


def test_calibration_error() -> None:
    # one bin at 0.9 (two of three right), one at 0.5 (its upper end is inside: (0.4, 0.5]), one at 1
    stated, right = [0.9, 0.85, 0.9, 0.5, 1.0], [True, True, False, False, True]
    expected = (abs(0.9 - 2 + 0.85 + 0.9) + 0.5 + 0) / 5
    assert calibration_error(stated, right).value == pytest.approx(expected)
    assert calibration_error([0.5, 0.5], [True, False]).value == 0
    assert calibration_error([0.0], [False]).value == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_the_bins_are_what_the_calibration_error_comes_from(rows):
    stated, right = zip(*rows, strict=True)
    bins = calibration_bins(stated, right)
    assert sum(one.rows for one in bins) == len(rows)
    assert sum(one.right for one in bins) == sum(right)
    assert all(one.low - 1e-9 <= one.probability <= one.low + 0.1 + 1e-9 for one in bins)
    error = sum(one.rows * abs(one.probability - one.right / one.rows) for one in bins) / len(rows)
    assert calibration_error(stated, right).value == pytest.approx(error, abs=1e-9)


def test_bins_by_hand():
    bins = calibration_bins([0.95, 0.91, 0.5, 0.45], [True, False, True, True])
    assert [(one.low, one.probability, one.right, one.rows) for one in bins] == [
        (0.4, pytest.approx(0.475), 2, 2),
        (0.9, pytest.approx(0.93), 1, 2),
    ]


def _stated(generator, rows: int, sharpness: tuple[float, float], *, too_sure: float = 0.0):
    """Calibration error of a model whose labels are right as often as it says, less `too_sure`."""
    stated = generator.beta(*sharpness, size=rows) / 2 + 0.5
    return calibration_error(stated.tolist(), (generator.random(rows) < stated - too_sure).tolist())


@pytest.mark.parametrize(("too_sure", "least"), [(0.0, 145), (0.05, 160), (0.2, 175)])
def test_the_interval_of_a_calibration_error_holds_the_true_one(too_sure: float, least: int) -> None:
    """Percentiles of the draws hold the 0 of a perfectly calibrated model never, as each draw adds luck to luck.

    The limits are docs/evaluation.md's: 80 of 100 intervals there, 85 to 95 elsewhere, less two standard errors.
    """
    generator = np.random.default_rng(1)
    found = [interval(_stated(generator, 200, (4, 2), too_sure=too_sure), seed=n, resamples=300) for n in range(200)]
    assert sum(one.low <= too_sure <= one.high for one in found) >= least
    assert all(0 <= one.low <= one.value <= one.high for one in found)


def test_two_calibrated_models_differ_in_nothing_but_how_sure_they_are() -> None:
    generator = np.random.default_rng(2)
    found = [
        difference(_stated(generator, 200, (2, 4)), _stated(generator, 200, (20, 1)), seed=n, resamples=300)
        for n in range(200)
    ]
    assert sum(one.low <= 0 <= one.high for one in found) >= 160  # of percentiles about 20


def test_macro_f1_of_a_draw_is_that_of_its_rows() -> None:
    chosen, right = ["a", "b", "b", "c", "a"], ["a", "a", "b", "b", "d"]
    sums = macro_f1(chosen, right)
    assert sums.value == pytest.approx(report_labels(chosen, right).macro_f1)
    for rows in ([0, 1, 2], [3, 3, 4], [0]):
        drawn = report_labels([chosen[row] for row in rows], [right[row] for row in rows])
        assert sums.only(rows).value == pytest.approx(drawn.macro_f1)


def test_models_that_chose_different_labels_are_compared() -> None:
    right = ["a", "b"] * 10
    one = macro_f1(["a", "c"] * 10, right, {"d"})
    other = macro_f1(["d", "b"] * 10, right, {"c"})
    found = difference(one, other)
    assert (found.before, found.after) == (
        pytest.approx(report_labels(["a", "c"] * 10, right).macro_f1),
        pytest.approx(report_labels(["d", "b"] * 10, right).macro_f1),
    )


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="no labels to score"):
        report_labels([], [])


# --- through evaluate()


LABEL_METRICS = ["perplexity", "bits_per_byte", "accuracy", "macro_f1", "log_loss", "calibration_error"]
LABELS = {"ham": 5, "spam": 2, "card_arrival": 1}
ROWS = [("A press?", "ham", 2), ("It learns.", "spam", 3), ("Hello world!", "ham", 4), ("What is it?", "new", 5)]


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_dir("qwen2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Engine(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, check_template("chat", tokenizer))


def measure(engine, rows=ROWS, labels=LABELS, batch_size=2):
    examples = [Example((Message("user", text), Message("assistant", label)), row=row) for text, label, row in rows]
    places = [replace(example, row=place) for place, example in enumerate(examples)]
    encoded, _ = encode(places, engine.template, engine.tokenizer, max_length=256)
    config = load_config(overrides={"eval.batch_size": batch_size})
    return evaluate(engine, examples, encoded, config=config, labels=labels)


def test_rows_and_metrics_are_those_of_the_choices(engine) -> None:
    found = measure(engine)
    assert list(found.metrics) == LABEL_METRICS
    choices = choose(engine, [[Message("user", text)] for text, _, _ in ROWS], tuple(LABELS))
    for row, choice, (text, label, number) in zip(found.rows, choices, ROWS, strict=True):
        of = dict(choice.ranked)
        assert (row["row"], row["question"], row["reference"]) == (number, text, label)
        assert row["prediction"] == choice.label
        assert row["prediction"] in LABELS
        assert row["probability"] == pytest.approx(choice.probability, rel=1e-4)
        assert row["reference_probability"] == (pytest.approx(of[label], rel=1e-4) if label in of else None)
    right = [row["prediction"] == row["reference"] for row in found.rows]
    assert found.metrics["accuracy"] == sum(right) / 4
    known = [row["reference_probability"] for row in found.rows[:3]]  # the last one's label was never seen
    assert found.metrics["log_loss"] == pytest.approx(log_loss([math.log(value) for value in known]).value)
    assert found.by_label is not None
    assert found.by_label.classes["new"].support == 1
    assert found.metrics == pytest.approx(measure(engine, batch_size=1).metrics, rel=1e-3)


def test_a_summary_says_what_accuracy_means(engine) -> None:
    found = measure(engine)
    labels = summarise(found, found)["labels"]
    assert labels["always"] == {"label": "ham", "accuracy": 0.5}
    assert labels["unseen"] == {"new": 1}
    assert labels["training_rows"] == LABELS
    assert labels["tuned"]["ham"]["support"] == 2
    assert json.loads(json.dumps(confusions(found, found)))["tuned"]["labels"] == list(found.by_label.labels)


def test_lower_is_better_for_the_losses(engine) -> None:
    scores = measure(engine).scores
    assert {name: score.higher_is_better for name, score in scores.items()} == {
        **dict.fromkeys(("perplexity", "bits_per_byte", "log_loss", "calibration_error"), False),
        **dict.fromkeys(("accuracy", "macro_f1"), True),
    }


def test_test_rows_without_any_known_label_are_refused(engine) -> None:
    with pytest.raises(DataError, match="none of the 1 test rows has a label that the run was trained on"):
        measure(engine, rows=ROWS[3:])


def test_how_much_of_a_text_is_read_does_not_depend_on_its_label(engine, monkeypatch) -> None:
    asked = []

    def spy(engine, conversations, labels, **options):
        asked.extend(conversations)
        return choose(engine, conversations, labels, **options)

    monkeypatch.setattr("tunesmith.generate.labels.choose", spy)
    long = "word " * 300
    measure(engine, rows=[(long, "ham", 1), (long, "card_arrival", 2)])
    assert len(asked) == 1  # both texts are cut to the same one, which is asked once
    assert len(asked[0][0].content) < len(long)
