"""Case files: what is read, what passes, and every mistake at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from tests.evaluate.fake_judge import FakeJudge, between, serving
from tunesmith.errors import DataError
from tunesmith.evaluate import Judge, Tools, ask_judge, read_cases
from tunesmith.evaluate.cases import Case, Check
from tunesmith.evaluate.semantic import Encoder

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


def test_null_is_as_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"question": "Who?", "answer": null, "check": null}\n')
    (case,) = read_cases(str(path))
    assert (case.answer, case.checks) == (None, ())


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(
        "- {check: {contains: a}}\n- {question: a, chek: 1}\n- {question: a, check: {f1>=: 0.5}}\n"
        "- {question: a, answer: b, check: {f1>=: 7}}\n- {question: a, check: {like: b}}\n"
        "- 7\n- {question: a, answer: true}\n"
    )
    with pytest.raises(DataError, match="7 wrong items") as caught:
        read_cases(str(path))
    for part in (
        "item 1, line 1: it has no question",
        "item 2, line 2: unknown chek, did you mean 'check'?",
        "item 3, line 3: f1>= compares with the answer of the case, and it has none",
        "item 4, line 4: f1>= needs a number, more than 0 and at most 1, found 7",
        "item 5, line 5: unknown check like",
        "item 6, line 6: it is int",
        "item 7, line 7: answer must be text",
    ):
        assert part in str(caught.value.cause)
    with pytest.raises(DataError, match="cannot read"):
        read_cases(str(tmp_path / "none.yaml"))


def read(tmp_path: Path, text: str, tools: Tools | None = None) -> list[Case]:
    (tmp_path / "cases.yaml").write_text(text)
    return read_cases(str(tmp_path / "cases.yaml"), tools)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, "# mine\n\n- question: a\n  answer: b\n\n- question: c\n  chekc: d\n")
    assert caught.value.cause == "item 2, line 6: unknown chekc, did you mean 'check'?"
    (tmp_path / "cases.jsonl").write_text('\n{"question": "a"}\n\n{"question": "a", "check": {"contain": "b"}}\n')
    with pytest.raises(DataError) as caught:
        read_cases(str(tmp_path / "cases.jsonl"))
    assert caught.value.cause == "item 2, line 4: unknown check contain, did you mean 'contains'?"
    (tmp_path / "cases.jsonl").write_text('{"question": "a"}\n{"question": \n')
    with pytest.raises(DataError, match="is not jsonl") as caught:
        read_cases(str(tmp_path / "cases.jsonl"))
    assert str(caught.value.cause).startswith("line 2: ")


def test_a_json_schema_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    (case,) = read(tmp_path, "- {question: a, check: {json_schema: {type: object, required: [name]}}}")
    assert case.checks[0].failure('{"name": 1}') is None
    assert case.checks[0].failure("{}") == "json_schema: {'type': 'object', 'required': ['name']}"


def test_similarity_to_the_answer(tmp_path: Path) -> None:
    class Same:
        def similarity(self, first: list[str], second: list[str]) -> list[float]:
            return [float(one == other) for one, other in zip(first, second, strict=True)]

    (case,) = read(
        tmp_path, "- {question: a, answer: b, check: {similar>=: 0.5}}", Tools(encoder=cast(Encoder, Same()))
    )
    assert case.checks[0].failure("b") is None
    assert case.checks[0].failure("c") == "similar>= 0.5, found 0.000"
    with pytest.raises(DataError, match="1 wrong item") as caught:
        read(tmp_path, "- {question: a, check: {similar>=: 0.5}}")
    assert "similar>= compares with the answer of the case, and it has none" in str(caught.value.cause)


def test_a_judge_is_asked_about_several_cases_at_once(tmp_path: Path) -> None:
    """After the first, two at a time, as each waits here for another."""
    together = threading.Barrier(2)

    def reply(text: str) -> str:
        if between(text, "question") != "a":
            together.wait(timeout=20)
        return "VERDICT: pass"

    file = "\n".join(f"- {{question: {name}, check: {{judge: pass}}}}" for name in "abcde") + "\n- f\n"
    with serving(FakeJudge(reply)) as owl:
        tools = Tools(judge=Judge.of(owl.address, requests=2))
        cases = read(tmp_path, file, tools)
        ask_judge(cases, ["yes"] * 6, tools)
        assert len(owl.asked) == 5
        assert [check.failure("yes") for case in cases for check in case.checks] == [None] * 5
        assert len(owl.asked) == 5
    assert owl.most_at_once == 2


def test_a_judge_of_cases(tmp_path: Path) -> None:
    def reply(text: str) -> str:
        if between(text, "answer") == "odd":
            return "I cannot say."
        is_right = between(text, "answer") == between(text, "reference")
        return f"So it is.\n{'VERDICT: ' + ('pass' if is_right else 'fail') if 'VERDICT' in text else 'SCORE: 7'}"

    file = """- {question: a, answer: b, check: [{judge: pass}, {judge>=: 7}, {judge>=: 8}]}"""
    with serving(FakeJudge(reply)) as owl:
        (case,) = read(tmp_path, file, Tools(judge=Judge.of(owl.address)))
        good, seven, eight = case.checks
        assert [check.failure("b") for check in (good, seven)] == [None, None]
        assert eight.failure("b") == "judge>= 8, the judge: So it is. SCORE: 7"
        assert good.failure("c") == "judge: pass, the judge: So it is. VERDICT: fail"
        assert good.failure("odd") == "judge: pass, the judge: I cannot say."
        assert between(owl.asked[0]["messages"][0]["content"], "question") == "a"
        for wrong, told in (
            ("judge: maybe", "judge needs pass, or write judge>= with a number, found 'maybe'"),
            ("judge>=: 11", "judge>= needs a number, at least 1 and at most 10, found 11"),
        ):
            with pytest.raises(DataError) as caught:
                read(tmp_path, f"- {{question: a, check: {{{wrong}}}}}", Tools(judge=Judge.of(owl.address)))
            assert told in str(caught.value.cause)
    with pytest.raises(DataError) as caught:
        read(tmp_path, file)
    assert "judge asks a judge, and none is set: --eval.judge" in str(caught.value.cause)
