"""Scores without the test rows that a run has trained on."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.api.leaks import Leak, LeakReport, without
from tunesmith.evaluate import Answer, Evaluation, mean_of
from tunesmith.types import Example, Message


def asked(number: int, task: str) -> Example:
    return Example((Message("user", f"{task} {number}"), Message("assistant", "yes")), row=number, task=task)


# Rows 1 to 3 of two data sets, a stretch of plain text, and a row that cannot be asked.
EXAMPLES = [asked(number, task) for task in ("codes", "names") for number in (1, 2, 3)]
EXAMPLES += [Example(text="a tale", row=1, task="tales"), Example((Message("user", "?"),), row=9, task="codes")]
SCORES = [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def evaluation() -> Evaluation:
    questions = EXAMPLES[:6]
    return Evaluation(
        scores={"perplexity": mean_of(np.arange(7.0)), "token_f1": mean_of(np.array(SCORES))},
        rows=[{"row": one.row, "sheet": None, "task": one.task} for one in questions],
        row_count=7,
        skipped_rows=(9,),
        tokens_per_second=1.0,
        seconds=1.0,
        settings={},
        asked=questions,
        answers=[Answer("yes", True, 1, 0.1) for _ in questions],
        places=list(range(6)),
        scored=list(range(7)),
    )


def leaks(*places: int) -> LeakReport:
    return LeakReport(
        tuple(Leak(place, "f.csv", EXAMPLES[place].row, "same text", 1.0, "f.csv", 5, "train") for place in places)
    )


def test_a_row_of_one_data_set_is_not_taken_for_that_of_another() -> None:
    found = without(evaluation(), EXAMPLES, leaks(0))  # row 1 of codes, and not row 1 of names or of tales
    assert found is not None
    assert [(row["task"], row["row"]) for row in found.rows] == [
        *[("codes", 2), ("codes", 3)],
        *[("names", 1), ("names", 2), ("names", 3)],
    ]
    assert found.metrics["token_f1"] == pytest.approx(4 / 5)
    assert found.row_count == 6
    assert {task: (one.row_count, one.metrics.get("token_f1")) for task, one in found.tasks.items()} == {
        "codes": (2, 1.0),
        "names": (3, pytest.approx(2 / 3)),
        "tales": (1, None),
    }
    assert found.tasks["codes"].metrics["perplexity"] == 1.5


def test_texts_and_rows_that_were_not_asked_are_counted_as_what_they_are() -> None:
    found = without(evaluation(), EXAMPLES, leaks(6, 7))
    assert found is not None
    assert found.row_count == len(found.rows) == 6
    assert len(found.scores["perplexity"].rows) == 6


def test_nothing_is_left_of_rows_that_are_all_leaked() -> None:
    assert without(evaluation(), EXAMPLES, leaks(*range(7))) is None
    assert without(evaluation(), EXAMPLES, leaks(*range(6))) is None  # the text is left, no answer
