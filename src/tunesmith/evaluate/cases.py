"""Case files of `tunesmith compare`: questions, and what an answer must pass. Reads and judges; knows no model.

A file is YAML (a list of cases), JSON (the same) or JSONL (a case a line). A case is a question alone, or has

question   what is asked
answer     a right answer, which is scored against; in all cases or in none
check      one check or a list of them: those of `checks.CHECKS`, such as {contains: TEXT}, and
           {f1>=: SHARE}       words that the answer has in common with the answer of the case, 0 to 1
           {similar>=: COSINE} of the sentence embeddings of the two, 0 to 1
           {judge: pass}       what the model of `eval.judge` says of it
           {judge>=: NUMBER}   what it gives it, 1 to 10
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tunesmith.errors import did_you_mean
from tunesmith.evaluate.checks import CHECKS, build_check
from tunesmith.evaluate.judge import Judge
from tunesmith.evaluate.material import Tools
from tunesmith.evaluate.suite_file import given_fields, read_items
from tunesmith.evaluate.text import token_f1

_KEYS = ("question", "answer", "check")
_KINDS = {"judge": "judge_pass", "judge>=": "judge_score"}  # what a judge is asked for
# None for an answer that passes, else what was found
Problem = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Check:
    """What an answer must pass.

    text: as in the file, for people. problem: None for an answer that passes. judged: what a judge is asked for, if one
    is.
    """

    text: str
    problem: Problem
    judged: str | None = None

    def failure(self, answer: str) -> str | None:
        """The check and what was found; None for an answer that passes.

        Raises:
            ResourceError: the judge does not answer, or the encoder is not there.
        """
        found = self.problem(answer)
        return None if found is None else f"{self.text}{found}"


@dataclass(frozen=True, slots=True)
class Case:
    """A question, the right answer if it is known, and checks."""

    question: str
    answer: str | None
    checks: tuple[Check, ...]


def read_cases(path: str, tools: Tools | None = None) -> list[Case]:
    """The cases of a file.

    Args:
        tools: the encoder and the judge of its checks.

    Raises:
        DataError: there is no such file, it cannot be read, or cases are wrong: all are told, by number and line.
    """
    known = ", ".join((*CHECKS, *_MEASURED))
    return read_items(
        path, partial(_case, tools=tools or Tools()), keys=f"a case has {', '.join(_KEYS)}; check is one of {known}"
    )


def ask_judge(cases: Sequence[Case], answers: Sequence[str], tools: Tools) -> None:
    """Ask the judge what the checks of all cases need, several at once; they then find it in its log.

    Raises:
        ResourceError: the judge does not answer; what it has said is kept.
    """
    for kind in _KINDS.values():
        rows = [
            (case, answer)
            for case, answer in zip(cases, answers, strict=True)
            if any(check.judged == kind for check in case.checks)
        ]
        if rows and tools.judge is not None:
            questions = [case.question for case, _ in rows]
            tools.judge.scores(kind, questions, [case.answer or "" for case, _ in rows], [text for _, text in rows])


def _case(fields: object, *, tools: Tools) -> Case:
    if isinstance(fields, str):
        fields = {"question": fields}
    if not isinstance(fields, dict):
        raise ValueError(f"it is {type(fields).__name__}, not a question")
    fields = given_fields(fields, _KEYS)
    question, answer = fields.get("question"), fields.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("it has no question" if question is None else f"question must be text: {question!r}")
    if answer is not None and (isinstance(answer, (bool, dict, list)) or not str(answer).strip()):
        raise ValueError(f"answer must be text (put it in quotes): {answer!r}")
    answer = None if answer is None else str(answer)
    given = fields.get("check", [])
    case = Case(question, answer, ())
    checks = tuple(_check(one, case, tools) for one in (given if isinstance(given, list) else [given]))
    return Case(question, answer, checks)


def _check(fields: Any, case: Case, tools: Tools) -> Check:
    known = (*CHECKS, *_MEASURED)
    if not isinstance(fields, dict) or len(fields) != 1:
        raise ValueError(f"check must be one of {', '.join(known)} with its value, found {fields!r}")
    ((name, wanted),) = fields.items()
    if name in _MEASURED:
        text = f"{name} {wanted}" if name.endswith(">=") else f"{name}: {wanted}"
        return Check(text, _MEASURED[name](wanted, case, tools), _KINDS.get(name))
    if name not in CHECKS:
        raise ValueError(f"unknown check {name}{did_you_mean(str(name), known)}")
    passes = build_check(name, wanted)
    return Check(f"{name}: {wanted}", lambda answer: None if passes(answer) else "")


def _at_least(name: str, wanted: object, least: float, most: float) -> float:
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)) or not least <= wanted <= most or wanted <= 0:
        lower = f"at least {least:g}" if least else "more than 0"
        raise ValueError(f"{name} needs a number, {lower} and at most {most:g}, found {wanted!r}")
    return float(wanted)


def _reference(name: str, case: Case) -> str:
    if case.answer is None:
        raise ValueError(f"{name} compares with the answer of the case, and it has none")
    return case.answer


def _f1(wanted: object, case: Case, tools: Tools) -> Problem:
    least, answer = _at_least("f1>=", wanted, 0, 1), _reference("f1>=", case)
    return lambda written: _below(token_f1(written, answer), least)


def _similar(wanted: object, case: Case, tools: Tools) -> Problem:
    least, answer = _at_least("similar>=", wanted, 0, 1), _reference("similar>=", case)
    return lambda written: _below(float(tools.encoder.similarity([written], [answer])[0]), least)


def _below(found: float, least: float) -> str | None:
    return None if found >= least else f", found {found:.3f}"


def _judge_of(name: str, tools: Tools) -> Judge:
    if tools.judge is None:
        raise ValueError(f"{name} asks a judge, and none is set: --eval.judge ollama:NAME")
    return tools.judge


def _judged(wanted: object, case: Case, tools: Tools) -> Problem:
    if wanted != "pass":
        raise ValueError(f"judge needs pass, or write judge>= with a number, found {wanted!r}")
    return partial(_asked, _judge_of("judge", tools), _KINDS["judge"], 1.0, case)


def _judged_at_least(wanted: object, case: Case, tools: Tools) -> Problem:
    least = _at_least("judge>=", wanted, 1, 10)
    return partial(_asked, _judge_of("judge>=", tools), _KINDS["judge>="], least, case)


def _asked(judge: Judge, kind: str, least: float, case: Case, written: str) -> str | None:
    """What the judge says of an answer, with its reason. A reply without a score does not pass."""
    (found,), (reply,) = judge.scores(kind, [case.question], [case.answer or ""], [written])
    return None if found >= least else f", the judge: {' '.join(reply.split())}"


_MEASURED: Mapping[str, Callable[[object, Case, Tools], Problem]] = {
    "f1>=": _f1,
    "similar>=": _similar,
    "judge": _judged,
    "judge>=": _judged_at_least,
}
