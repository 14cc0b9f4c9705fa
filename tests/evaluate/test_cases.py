"""Case files: what is read, what passes, and every mistake at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith.evaluate import read_cases
from tunesmith.evaluate.cases import Check

FILE = """
- What is a press?
- question: Which code?
  answer: The code is 21.
  check:
    - {contains: ["21", "twenty-one"]}
    - {f1>=: 0.6}
- question: How many?
  answer: 4
  check: {number: 4}
"""


def passes(check: Check) -> Callable[[str], bool]:
    return lambda answer: check.failure(answer) is None


def test_questions_answers_and_checks(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(FILE)
    plain, code, number = read_cases(str(path))
    assert (plain.question, plain.answer, plain.checks) == ("What is a press?", None, ())
    assert (code.answer, number.answer) == ("The code is 21.", "4")
    assert [check.text for check in code.checks] == ["contains: ['21', 'twenty-one']", "f1>= 0.6"]
    contains, near = (passes(check) for check in code.checks)
    assert [contains("It is 21"), contains("It is 210"), contains("twenty-one!")] == [True, False, True]
    assert [near("the code: 21"), near("code"), near("nobody knows that code")] == [True, False, False]
    assert passes(number.checks[0])("2 + 2 = 4")


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(
        "- {check: {contains: a}}\n- {question: a, chek: 1}\n- {question: a, check: {f1>=: 0.5}}\n"
        "- {question: a, answer: b, check: {f1>=: 7}}\n- {question: a, check: {like: b}}\n"
        "- 7\n- {question: a, answer: yes}\n"
    )
    with pytest.raises(DataError, match="7 wrong items") as caught:
        read_cases(str(path))
    for part in (
        "item 1, line 1: it has no question",
        "item 2, line 2: unknown chek, did you mean check?",
        "item 3, line 3: f1>= compares with the answer of the case, and it has none",
        "item 4, line 4: f1>= needs a number, more than 0 and at most 1, found 7",
        "item 5, line 5: unknown check like",
        "item 6, line 6: it is int",
        "item 7, line 7: answer must be text",
    ):
        assert part in str(caught.value.cause)
    with pytest.raises(DataError, match="cannot read"):
        read_cases(str(tmp_path / "none.yaml"))
