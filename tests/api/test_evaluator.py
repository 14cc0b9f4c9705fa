"""ModelEvaluator: the snippet of the README of old, functions of one's own, files and rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith import EvaluationMetric, MetricType, ModelEvaluator
from tunesmith.errors import DataError, SettingsError

ROWS = [{"question": f"what is {number}?", "answer": f"it is {number}"} for number in range(12)]


def parrot(question: str) -> str:
    return f"it is {question.removeprefix('what is ').rstrip('?')}" if "3" not in question else "please ask again"


def test_scores_that_suit_the_data_are_measured_without_asking() -> None:
    report = ModelEvaluator().evaluate_model(model_name="parrot", generate_func=parrot, dataset=ROWS)
    assert list(report.metrics) == ["exact_match", "token_f1", "chrf", "repetition", "words"]
    found = report.metrics["exact_match"]
    assert found.value == pytest.approx(11 / 12)
    assert found.low < found.value < found.high <= 1
    assert report.rows[3] == {"question": "what is 3?", "reference": "it is 3", "prediction": "please ask again"}
    assert json.loads(json.dumps(report.to_json()))["metrics"]["exact_match"]["value"] == found.value


def test_a_function_of_ones_own_and_a_metric_without_one() -> None:
    evaluator = ModelEvaluator()
    evaluator.add_metric(
        EvaluationMetric(name="perplexity", metric_type=MetricType.CUSTOM, description="Model perplexity")
    )
    evaluator.add_metric(EvaluationMetric("polite", MetricType.CUSTOM, function=lambda answer, _: "please" in answer))
    evaluator.add_metric(EvaluationMetric("overlap", MetricType.TOKEN_F1))
    report = evaluator.evaluate_model(model_name="parrot", generate_func=parrot, dataset=ROWS)
    assert list(report.not_measured) == ["perplexity"]
    assert list(report.metrics) == ["polite", "overlap"]
    assert report.metrics["polite"].value == pytest.approx(1 / 12)
    assert report.to_text().splitlines()[0] == "parrot, 12 rows"
    assert "perplexity: not measured" in report.to_text()


def test_a_file_is_read_as_training_would_read_it(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS))
    report = ModelEvaluator().evaluate_model(model_name="parrot", generate_func=parrot, dataset=path)
    assert len(report.rows) == 12


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(SettingsError, match="has a function and is of the type BLEU"):
        EvaluationMetric("mine", MetricType.BLEU, function=lambda answer, reference: 1.0)
    with pytest.raises(DataError, match="no rows"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=[])
    with pytest.raises(SettingsError, match="test row 1 has the keys a"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=[{"a": "b"}])
    broken = ModelEvaluator()
    broken.add_metric(EvaluationMetric("odd", MetricType.CUSTOM, function=lambda answer, reference: float("nan")))
    with pytest.raises(DataError, match="'odd' gave nan for row 1"):
        broken.evaluate_model(model_name="x", generate_func=parrot, dataset=ROWS)
