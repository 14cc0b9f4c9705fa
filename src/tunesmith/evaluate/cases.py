"""Case files of `tunesmith compare`: questions, and what an answer must pass. Reads and judges; knows no model.

A file is YAML (a list of cases), JSON (the same) or JSONL (a case a line). A case is a question alone, or has

question   what is asked
answer     a right answer, which is scored against; in all cases or in none
check      one check or a list of them: {contains: TEXT or a list of which one is enough}, {equals: TEXT},
           {regex: PATTERN}, {number: NUMBER}, {f1>=: SHARE of the words of the answer of the case, 0 to 1}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tunesmith.evaluate.suite_file import CHECKS, read_items
from tunesmith.evaluate.text import token_f1

_KEYS = ("question", "answer", "check")
_F1 = "f1>="


@dataclass(frozen=True, slots=True)
class Check:
    """What an answer must pass. text: as in the file, for people."""

    text: str
    passes: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """A question, the right answer if it is known, and checks."""

    question: str
    answer: str | None
    checks: tuple[Check, ...]


def read_cases(path: str) -> list[Case]:
    """The cases of a file.

    Raises:
        DataError: there is no such file, it cannot be read, or cases are wrong: all of them are told, by number.
    """
    return read_items(path, _case, keys=f"a case has {', '.join(_KEYS)}; check is one of {', '.join((*CHECKS, _F1))}")


def _case(fields: object) -> Case:
    if isinstance(fields, str):
        fields = {"question": fields}
    if not isinstance(fields, dict):
        raise ValueError(f"it is {type(fields).__name__}, not a question")
    if unknown := [str(key) for key in fields if key not in _KEYS]:
        raise ValueError(f"unknown {', '.join(unknown)}")
    question, answer = fields.get("question"), fields.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("it has no question" if question is None else f"question must be text: {question!r}")
    if answer is not None and (isinstance(answer, (bool, dict, list)) or not str(answer).strip()):
        raise ValueError(f"answer must be text (put it in quotes): {answer!r}")
    answer = None if answer is None else str(answer)
    given = fields.get("check", [])
    checks = tuple(_check(one, answer) for one in (given if isinstance(given, list) else [given]))
    return Case(question, answer, checks)


def _check(fields: Any, answer: str | None) -> Check:
    if not isinstance(fields, dict) or len(fields) != 1 or next(iter(fields)) not in (*CHECKS, _F1):
        raise ValueError(f"check must be one of {', '.join((*CHECKS, _F1))} with its value, found {fields!r}")
    ((name, wanted),) = fields.items()
    passes = _near(wanted, answer) if name == _F1 else CHECKS[name](wanted)
    return Check(f"{name}: {wanted}" if name != _F1 else f"{name} {wanted}", passes)


def _near(wanted: object, answer: str | None) -> Callable[[str], bool]:
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)) or not 0 < wanted <= 1:
        raise ValueError(f"{_F1} needs a share of the words, more than 0 and at most 1, found {wanted!r}")
    if answer is None:
        raise ValueError(f"{_F1} compares with the answer of the case, and it has none")
    return partial(_is_near, wanted=answer, least=float(wanted))


def _is_near(written: str, *, wanted: str, least: float) -> bool:
    return token_f1(written, wanted) >= least
