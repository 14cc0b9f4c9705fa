"""Several models on the same questions: scores, wins, slices, style and the sentence that is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.evaluate.answers import Answer
from tunesmith.evaluate.contests import hold
from tunesmith.evaluate.evaluators import EVALUATORS, measure
from tunesmith.evaluate.material import Rows
from tunesmith.evaluate.paired import mean_of
from tunesmith.evaluate.report import report_html
from tunesmith.evaluate.style import repetition
from tunesmith.types import Example, Message


def asked(
    count: int, *, sheets: tuple[str | None, ...] = (None,), reference: str = "press the green button"
) -> list[Example]:
    turns = [
        (Message("user", f"question {'long ' * (number % 7)}{number}"), Message("assistant", reference))
        for number in range(count)
    ]
    return [
        Example(turn if reference else turn[:1], row=number + 2, sheet=sheets[number % len(sheets)])
        for number, turn in enumerate(turns)
    ]


def answers(*texts: str, ended: bool = True, seconds: float = 0.5) -> list[Answer]:
    return [Answer(text, ended, len(text.split()), seconds) for text in texts]


def test_a_better_model_is_found_and_the_sentence_says_so() -> None:
    right, wrong = "press the green button", "nobody knows"
    contest = hold(
        asked(30),
        {
            "base": answers(*[right] * 5 + [wrong] * 25),
            "tuned": answers(*[wrong] * 2 + [right] * 28),
            "twin": answers(*[right] * 5 + [wrong] * 25),
        },
    )
    tuned, twin = contest.matches["tuned"], contest.matches["twin"]
    assert (tuned.wins, tuned.losses, tuned.ties) == (25, 2, 3)
    assert tuned.changes["token_f1"].verdict == "better"
    assert contest.verdict("tuned").startswith("tuned is better than base (token F1 +76.7, +")
    assert (twin.wins, twin.losses, twin.ties) == (0, 0, 30)
    assert contest.verdict("twin") == "no evidence that twin and base differ (token F1 +0.0, +0.0 to +0.0)"
    assert contest.scores["tuned"]["exact_match"].value == pytest.approx(28 / 30)
    assert list(contest.matches) == ["tuned", "twin"]
    document = contest.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["matches"][0]["wins"] == 25
    assert contest.rows[0]["answers"]["base"] == {"text": right, "ended": True, "score": 1.0}


def test_slices_say_where_a_model_is_better() -> None:
    """The second sheet alone is answered better: only its slice may say so."""
    rows = asked(80, sheets=("easy", "hard"))
    after = ["press the green button" if example.sheet == "hard" else "no" for example in rows]
    contest = hold(rows, {"base": answers(*["no"] * 80), "tuned": answers(*after)})
    found = {part.name: part for part in contest.matches["tuned"].slices}
    assert (found["sheet easy"].found.change, found["sheet hard"].found.change) == (0, 1)
    assert {name: part.rows for name, part in found.items()} == {
        "sheet easy": 40,
        "sheet hard": 40,
        "short questions": 27,
        "middle questions": 27,
        "long questions": 26,
    }


def test_labels_are_slices_the_commonest_twenty_of_them() -> None:
    labels = [f"label {n % 25}" for n in range(30)]
    asked = [Example((Message("user", f"q{n}"), Message("assistant", label)), row=n) for n, label in enumerate(labels)]
    given = {"a": [Answer("label 0", True, 0, 0.0)] * 30, "b": [Answer(label, True, 0, 0.0) for label in labels]}
    scores = {
        name: measure(["accuracy"], Rows(predictions=[one.text for one in answers], references=labels, labels=labels))
        for name, answers in given.items()
    }
    parts = hold(asked, given, scores=scores, deciding="accuracy", is_labels=True).matches["b"].slices
    of_labels = {part.name: part for part in parts if part.name.startswith("label")}
    assert len(of_labels) == 20
    assert of_labels["label label 0"].rows == 2
    assert (of_labels["label label 0"].found.change, of_labels["label label 1"].found.change) == (0.0, 1.0)


def test_questions_without_references_are_shown_and_not_scored() -> None:
    contest = hold(asked(3, reference=""), {"a": answers("x", "y", "z"), "b": answers("x", "y", "w", ended=False)})
    assert contest.matches == {}
    assert set(contest.scores["a"]) == {"ended", "repetition", "words"}
    assert contest.scores["b"]["ended"].value == 0
    assert "nothing is scored" in contest.verdict("b")
    assert contest.rows[1]["reference"] is None


def test_half_of_the_references_is_a_mistake() -> None:
    with pytest.raises(DataError, match="2 of 4 questions have a reference"):
        hold([*asked(2), *asked(2, reference="")], {"a": answers(*"abcd")})
    with pytest.raises(DataError, match="no question"):
        hold([], {"a": []})


def test_speed_is_tokens_over_seconds_of_all_rows() -> None:
    contest = hold(asked(2), {"a": answers("one two three", "four", seconds=2.0)})
    assert contest.tokens_per_second == {"a": 1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("one two three", 0),
        ("a b c d e f g", 0),
        ("go on go on go on go on", 3 / 5),  # 5 four-grams, 2 of them different
    ],
)
def test_repetition(text: str, expected: float) -> None:
    assert repetition(text) == pytest.approx(expected)


def test_scores_that_were_measured_already_are_taken() -> None:
    labels = {
        name: {"accuracy": mean_of(np.array(found))} for name, found in {"a": [0.0] * 12, "b": [1.0] * 12}.items()
    }
    contest = hold(
        asked(12), {"a": answers(*["x"] * 12), "b": answers(*["y"] * 12)}, scores=labels, deciding="accuracy"
    )
    assert contest.deciding == "accuracy"
    assert set(contest.scores["a"]) == {"accuracy"}
    assert contest.matches["b"].wins == 12


def test_a_score_without_a_good_direction_is_won_by_nobody() -> None:
    found = {"a": [3.0] * 12, "b": [3.0, 9.0] * 6}
    words = {
        name: {"words": replace(mean_of(np.array(counts)), higher_is_better=None)} for name, counts in found.items()
    }
    given = {"a": answers(*["x"] * 12), "b": answers(*["y"] * 12)}
    contest = hold(asked(12), given, scores=words, deciding="words")
    assert contest.counts("b") == {"higher": 6, "lower": 0, "equal": 6}
    equal = hold(asked(12), given, scores={"a": words["a"], "b": words["a"]}, deciding="words")
    assert equal.counts("b") == {"higher": 0, "lower": 0, "equal": 12}
    page = report_html(contest, title="x")
    assert "is furthest above" in page
    assert not re.search('class="(good|bad)"|rows (better|worse)|loses most|gains most', page)


def test_plain_text_is_held_by_perplexity_alone() -> None:
    measure = EVALUATORS["perplexity"].measure
    easier = {
        name: {"perplexity": measure(Rows(nll=np.full((12, 3), [nats, 3.0, 9.0])))}
        for name, nats in (("a", 9.0), ("b", 3.0))
    }
    contest = hold([], {"a": [], "b": []}, scores=easier, deciding="perplexity")
    assert contest.matches["b"].wins == 12
    assert contest.verdict("b") == "b is better than a (perplexity -17.37, -17.37 to -17.37)"
    assert contest.rows == []
