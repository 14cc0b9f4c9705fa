"""ModelEvaluator: the snippet of the README of old, functions of one's own, files and rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluate.fake_judge import FakeJudge, between, serving
from tunesmith import EvaluationMetric, FinetuningConfig, MetricType, ModelEvaluator, ModelFinetuner
from tunesmith.api.held_out import encoded_for
from tunesmith.api.rows import examples_of
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import mean_nll

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
    evaluator.add_metric(EvaluationMetric("ended", MetricType.CUSTOM))
    report = evaluator.evaluate_model(model_name="parrot", generate_func=parrot, dataset=ROWS)
    assert "ModelFinetuner" in report.not_measured["perplexity"]
    assert "ModelFinetuner" not in report.not_measured["ended"]  # it would not help


def test_a_file_is_read_as_training_would_read_it(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS))
    report = ModelEvaluator().evaluate_model(model_name="parrot", generate_func=parrot, dataset=path)
    assert len(report.rows) == 12


SEED = """
evaluator = ModelEvaluator()

# Add metrics
evaluator.add_metric(EvaluationMetric(
    name="perplexity",
    metric_type=MetricType.CUSTOM,
    description="Model perplexity"
))

# Run evaluation
report = evaluator.evaluate_model(
    model_name="finetuned_model",
    generate_func=generate_with_model,
    dataset=test_dataset
)
"""


def test_the_guides_own_snippet_runs(tiny_model_dir: Callable[[str], Path]) -> None:
    """As written but for its import. Perplexity needs the model: measured through ModelFinetuner, else listed."""
    space = {
        **{"ModelEvaluator": ModelEvaluator, "EvaluationMetric": EvaluationMetric, "MetricType": MetricType},
        **{"generate_with_model": parrot, "test_dataset": ROWS},
    }
    exec(SEED, space)
    assert space["report"].metrics == {}
    assert space["report"].to_text() == (
        "finetuned_model, 12 rows\nperplexity: not measured, it needs the model itself: give generate of a "
        "ModelFinetuner, or use tunesmith eval"
    )
    finetuner = ModelFinetuner(FinetuningConfig(model_name=str(tiny_model_dir("llama")), max_new_tokens=2))
    exec(SEED, space := {**space, "generate_with_model": finetuner.generate})
    report = space["report"]
    found = report.metrics["perplexity"]
    assert (report.not_measured, found.low < found.value < found.high) == ({}, True)
    with finetuner._answering().engine() as engine:  # as training measures its validation rows
        rows = encoded_for(finetuner._answering(), examples_of(ROWS))
        assert found.value == pytest.approx(mean_nll(engine.model, rows).perplexity, rel=1e-5)


def test_a_history_in_memory_and_on_disk(tmp_path: Path) -> None:
    """A second evaluator adds to it, and does not ask the judge again what it has said."""
    with serving(FakeJudge(lambda text: f"Fine.\nSCORE: {2 if 'please' in between(text, 'answer') else 5}")) as owl:
        for name in ("first", "second"):
            evaluator = ModelEvaluator(folder=tmp_path / "proof", judge=owl.address)
            evaluator.add_metric(EvaluationMetric("judge", MetricType.JUDGE_SCORE))
            report = evaluator.evaluate_model(model_name=name, generate_func=parrot, dataset=ROWS)
            assert evaluator.history == [report]
        evaluator.evaluate_model(model_name="third", generate_func=parrot, dataset=ROWS[:3])
    assert [len(report.rows) for report in evaluator.history] == [12, 3]
    assert len(owl.asked) == 12
    lines = [json.loads(line) for line in (tmp_path / "proof" / "history.jsonl").read_text().splitlines()]
    assert [line["model_name"] for line in lines] == ["first", "second", "third"]
    assert lines[0].pop("time") <= lines[1]["time"]
    assert lines[1]["metrics"] == report.to_json()["metrics"]


def test_settings_and_scores_that_need_them() -> None:
    evaluator = ModelEvaluator(checks={"regex": r"\d"})
    evaluator.add_metric(EvaluationMetric("has a number", MetricType.REGEX))
    report = evaluator.evaluate_model(model_name="parrot", generate_func=parrot, dataset=ROWS)
    assert report.metrics["has a number"].value == pytest.approx(11 / 12)
    bare = ModelEvaluator()
    bare.add_metric(EvaluationMetric("good", MetricType.JUDGE_PASS))
    with pytest.raises(SettingsError) as caught:
        bare.evaluate_model(model_name="x", generate_func=parrot, dataset=ROWS)
    assert caught.value.problems[0].startswith("judge_pass needs eval.judge")
    with pytest.raises(SettingsError, match=r"unknown setting 'eval\.juge'"):
        ModelEvaluator(juge="ollama:x")


def test_labels_that_a_function_gives() -> None:
    evaluator = ModelEvaluator()
    for kind in (MetricType.ACCURACY, MetricType.MACRO_F1, MetricType.MICRO_F1):
        evaluator.add_metric(EvaluationMetric(kind.value, kind))
    rows = [{"text": f"row {n}", "label": "spam" if n < 3 else "ham"} for n in range(12)]
    report = evaluator.evaluate_model(model_name="ham", generate_func=lambda text: "ham", dataset=rows)
    found = {name: interval.value for name, interval in report.metrics.items()}
    assert found == {
        "accuracy": 0.75,
        "macro_f1": pytest.approx((0 + 18 / 21) / 2),
        "micro_f1": pytest.approx(0.75),
    }


def test_missing_references_and_answers_that_are_no_text_are_told() -> None:
    rows = [*ROWS[:2], {"question": "what is 9?", "answer": " "}]
    with pytest.raises(DataError, match="2 of 3 questions have a reference answer") as caught:
        ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=rows)
    assert "what is 9?" in str(caught.value.cause)
    with pytest.raises(DataError, match="generate_func gave None for row 1"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=lambda question: None, dataset=ROWS)  # type: ignore
    alone = [{"question": "what is 1?", "answer": ""}]
    report = ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=alone)
    assert list(report.metrics) == ["repetition", "words"]


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(SettingsError, match="has a function and is of the type BLEU"):
        EvaluationMetric("mine", MetricType.BLEU, function=lambda answer, reference: 1.0)
    with pytest.raises(DataError, match="no rows"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=[])
    with pytest.raises(SettingsError, match="test row 1 has the keys a"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=[{"a": "b"}])
    with pytest.raises(SettingsError, match="test row 1 is of the type tuple"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=[("a", "b")])
    with pytest.raises(SettingsError, match="generate_func is of the type NoneType"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=None, dataset=ROWS)
    with pytest.raises(SettingsError, match="metric is of the type str, not EvaluationMetric"):
        ModelEvaluator().add_metric("bleu")
    with pytest.raises(SettingsError, match="metric_type is of the type str, not MetricType"):
        EvaluationMetric("bleu", "bleu")
    with pytest.raises(SettingsError, match="is a file, not a folder"):
        ModelEvaluator(__file__)
    broken = ModelEvaluator()
    broken.add_metric(EvaluationMetric("odd", MetricType.CUSTOM, function=lambda answer, reference: float("nan")))
    with pytest.raises(DataError, match="'odd' gave nan for row 1"):
        broken.evaluate_model(model_name="x", generate_func=parrot, dataset=ROWS)


def test_a_function_cannot_be_asked_a_chat(tmp_path: Path) -> None:
    """It is given one question; the last one of a chat alone would be another."""
    turns = [("user", "What is ink?"), ("assistant", "Colour."), ("user", "And paper?"), ("assistant", "Pressed pulp.")]
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(chat) + "\n")
    with pytest.raises(DataError, match="row 1, is a chat of 3 turns"):
        ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=path)
    path.write_text(json.dumps({"messages": chat["messages"][:2]}) + "\n")
    assert ModelEvaluator().evaluate_model(model_name="x", generate_func=parrot, dataset=path).rows[0]["question"]
