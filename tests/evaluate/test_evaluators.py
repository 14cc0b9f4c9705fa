"""The table of scores: complete wherever it is used, right in direction and bounds; which are chosen for which data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith import MetricType
from tunesmith.config import EvalConfig
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate.choosing import OF_LABELS, OF_TEXT, OF_WRITTEN, select
from tunesmith.evaluate.evaluators import EVALUATORS, check_names
from tunesmith.evaluate.labels import report_labels
from tunesmith.evaluate.material import Rows
from tunesmith.evaluate.style import length_ratio
from tunesmith.evaluate.titles import metric_title, written
from tunesmith.export import card
from tunesmith.types import Example, Message

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
# what can be measured of answers and references alone, without a package or a setting
PLAIN = [
    name
    for name, evaluator in EVALUATORS.items()
    if evaluator.needs in ("references", "writing") and evaluator.setting is None and name != "semantic_similarity"
]
texts = st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=5)


def pairs(*questions_and_answers: tuple[str, str], task: str | None = None) -> list[Example]:
    return [
        Example((Message("user", question), Message("assistant", answer)), row=row, task=task)
        for row, (question, answer) in enumerate(questions_and_answers)
    ]


def test_every_place_knows_every_score() -> None:
    """The Python API has all that can be told without the model or a second one; the card and the page have all."""
    own = {kind.value for kind in MetricType} - {"custom"}
    elsewhere = {"ended", "log_loss", "calibration_error", "judge_preference"}
    assert own == set(EVALUATORS) - elsewhere
    assert set(card._METRICS) == set(EVALUATORS)
    _, scores, _ = re.split(r"<!-- scores: (?:begin|end) -->", PAGE.read_text(encoding="utf-8"))
    rows = re.findall(r"^\| `(\w+)` \|", scores, flags=re.MULTILINE)
    assert rows == list(EVALUATORS)


def test_an_unknown_score_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(SettingsError) as caught:
        check_names(["auto", "tokn_f1", "rougel", "zzz"])
    assert caught.value.problems == (
        "no score 'tokn_f1', did you mean 'token_f1'?",
        "no score 'rougel', did you mean 'rougeL'?",
        "no score 'zzz'",
    )
    assert all(name in str(caught.value.fix) for name in EVALUATORS)


@settings(max_examples=40)
@given(texts)
def test_bounds(found: list[tuple[str, str]]) -> None:
    predictions, references = map(list, zip(*found, strict=True))
    rows = Rows(predictions=predictions, references=[text if text.strip() else "x" for text in references])
    for name in PLAIN:
        sums = EVALUATORS[name].measure(rows)
        most = 1 if EVALUATORS[name].is_share else np.inf
        assert 0 <= sums.value <= most, name
        assert len(sums.by_row) == len(found), name


@settings(max_examples=40)
@given(st.lists(st.text("ab cd", min_size=1, max_size=12), min_size=1, max_size=4))
def test_an_answer_and_itself(found: list[str]) -> None:
    rows = Rows(predictions=found, references=found)
    for name in ("exact_match", "accuracy", "macro_f1", "micro_f1"):
        assert EVALUATORS[name].measure(rows).value == 1, name
    if all(text.split() for text in found):
        assert EVALUATORS["length_ratio"].measure(rows).value == 1


@settings(max_examples=40)
@given(texts)
def test_what_is_symmetric(found: list[tuple[str, str]]) -> None:
    there, back = ([pair[side] for pair in found] for side in (0, 1))
    for name in ("exact_match", "token_f1", "rouge1", "rouge2", "rougeL", "accuracy", "macro_f1", "micro_f1"):
        swapped = EVALUATORS[name](back, there)
        assert EVALUATORS[name](there, back) == pytest.approx(swapped, abs=1e-9), name


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_label_scores_are_those_of_the_confusion(found: list[tuple[str, str]]) -> None:
    chosen, right = map(list, zip(*found, strict=True))
    report = report_labels(chosen, right)
    assert EVALUATORS["accuracy"](chosen, right) == pytest.approx(report.accuracy)
    assert EVALUATORS["micro_f1"](chosen, right) == pytest.approx(report.accuracy)  # of one label a row they are one
    assert EVALUATORS["macro_f1"](chosen, right) == pytest.approx(report.macro_f1)


def test_directions() -> None:
    lower = {name for name, evaluator in EVALUATORS.items() if evaluator.better == "lower"}
    assert lower == {"perplexity", "bits_per_byte", "log_loss", "calibration_error", "repetition"}
    assert {name for name, evaluator in EVALUATORS.items() if evaluator.better == "neither"} == {
        "words",
        "length_ratio",
    }
    rows = Rows(predictions=["a"], references=["a"], ended=[True], nll=np.ones((1, 3)))
    directions = [EVALUATORS[name].measure(rows).higher_is_better for name in ("words", "repetition", "ended")]
    assert directions == [None, False, True]


def test_lengths() -> None:
    assert EVALUATORS["words"](["one two", "", " three\n"], ["", "", ""]) == 1
    assert length_ratio(["one two", "three"], ["one", "two three four five"]).value == pytest.approx(3 / 5)
    assert EVALUATORS["ended"].measure(Rows(ended=[True, False, True, True])).value == 0.75


def test_how_scores_are_written() -> None:
    assert (written("token_f1", 0.1234), written("perplexity", 3.14159), written("judge_score", 7.0)) == (
        *("12.3", "3.14"),
        "7.00",
    )
    assert metric_title("bits_per_byte") == "bits per byte"


# --- which are chosen


QA = pairs(*[(f"What does lock {n} mean?", "A workmate has the same ticket open at this moment.") for n in range(5)])

LONG = pairs(("word " * 200, "It is a text of many words, all of which are the same."))
MT = pairs(("Hello", "Bonjour"), task="translation")


@pytest.mark.parametrize(
    ("examples", "names", "deciding", "has", "lacks", "why"),
    [
        (QA, ["faq"], "token_f1", {"rougeL", "bleu"}, {"accuracy"}, "answers of 10 words (median)"),
        (pairs(("Capital of France?", "Paris")), [], "token_f1", {"exact_match"}, {"bleu", "rougeL"}, "facts, codes"),
        (LONG, [], "rougeL", {"rouge2"}, {"bleu"}, "summaries"),
        (pairs(("word " * 200, "Paris")), [], "token_f1", {"exact_match"}, {"rouge1"}, "facts, codes"),
        (QA, ["cnn_summaries"], "rougeL", {"rouge1"}, {"token_f1"}, "by the name 'cnn_summaries'"),
        (QA, ["opus-de-en"], "token_f1", {"rougeL"}, set(), "median"),
        (QA, ["wmt_en2de"], "chrf", {"bleu"}, {"rougeL"}, "by the name 'wmt_en2de'"),
        (MT, ["x"], "chrf", {"bleu"}, {"rougeL"}, "by the name 'translation'"),
        (QA, ["en_to_de"], "chrf", {"bleu"}, {"rougeL"}, "by the name 'en_to_de'"),
        (QA, ["actors", "tutors-2", "mt-bench"], "token_f1", {"rougeL"}, {"length_ratio"}, "median"),
        (pairs(("几点开门?", "我们每天早上九点开门")), [], "token_f1", {"rougeL"}, set(), "answers of 10 words"),
    ],
)
def test_auto_suits_the_data(
    examples: list[Example], names: list[str], deciding: str, has: set[str], lacks: set[str], why: str
) -> None:
    found = select(EvalConfig(), examples, can=OF_WRITTEN, names=names)
    assert found.deciding == deciding
    assert {"perplexity", "bits_per_byte", "ended", "repetition", "words", *has} <= set(found.names)
    assert not lacks & set(found.names)
    assert why in found.why
    assert list(found.names) == [name for name in EVALUATORS if name in found.names]


def test_auto_of_labels_texts_and_questions_alone() -> None:
    labels = select(EvalConfig(), pairs(("good film", "positive")), can=OF_LABELS, is_labels=True)
    assert (labels.deciding, set(labels.names)) == (
        "accuracy",
        {"perplexity", "bits_per_byte", "accuracy", "macro_f1", "log_loss", "calibration_error"},
    )
    text = select(EvalConfig(), [Example(text="Once upon a time.")], can=OF_TEXT)
    assert (text.deciding, text.names) == ("perplexity", ("perplexity", "bits_per_byte"))
    alone = select(EvalConfig(), pairs(("Who?", "")), can={"ending", "writing", "pair"})
    assert (alone.deciding, alone.names) == (None, ("ended", "repetition", "words"))
    judged = EvalConfig(judge="ollama:x", checks={"regex": "a"})
    judge = select(judged, pairs(("Who?", "")), can={"ending", "writing", "pair"})
    assert (judge.deciding, set(judge.names) >= {"judge_score", "regex"}) == ("judge_score", True)


def test_names_are_taken_and_the_first_decides() -> None:
    found = select(EvalConfig(metrics=["chrf", "perplexity"]), QA, can=OF_WRITTEN)
    assert (found.names, found.deciding, found.why) == (
        *(("perplexity", "chrf"), "chrf"),
        "named in eval.metrics, the first one decides",
    )
    more = select(EvalConfig(metrics=["auto", "micro_f1"]), QA, can=OF_WRITTEN)
    assert more.deciding == "token_f1"
    assert "micro_f1" in more.names


def test_scores_that_cannot_be_measured_are_refused_together() -> None:
    asked = EvalConfig(metrics=["log_loss", "judge_score", "json_schema", "bleu", "token_f1"])
    with pytest.raises(SettingsError) as caught:
        select(asked, pairs(("Who?", "")), can={"writing"})
    assert [problem.split(" needs ")[0] for problem in caught.value.problems] == [
        *("log_loss", "bleu", "token_f1"),
        *("judge_score", "json_schema"),
    ]
    assert "bleu needs right answers, and there are none" in caught.value.problems
    assert any("eval.judge: the address of a model" in problem for problem in caught.value.problems)


def test_nothing_to_score_is_an_error_of_the_data() -> None:
    for name, evaluator in EVALUATORS.items():
        if name != "judge_preference":  # of two models, see preference_sums
            with pytest.raises(DataError, match="no answers"):
                evaluator.measure(Rows())


def test_what_texts_alone_do_not_tell_is_refused() -> None:
    for name in ("perplexity", "ended", "log_loss", "regex", "judge_score", "judge_preference"):
        with pytest.raises(SettingsError, match="needs more than answers and references"):
            EVALUATORS[name](["a"], ["a"])
