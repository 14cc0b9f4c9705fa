"""Suites: questions with answers that can be checked. Reads and judges; knows no model.

A file is YAML (a list of items), JSON (the same) or JSONL (an item a line). An item has

question   what is asked
answer     a right answer
wrong      wrong answers, to be told from the right one by their likelihood; may be left out
check      how a written answer is judged: {contains: TEXT or a list of which one is enough}, {equals: TEXT},
           {regex: PATTERN} or {number: NUMBER}; left out, it contains the right answer
kind       a word by which results are grouped; may be left out

contains compares whole words without case, equals as exact match does (case, punctuation and articles do not count),
regex searches as it is, number takes the last number of the answer, as is usual for worked arithmetic (Cobbe et al.
2021, arXiv:2110.14168).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tunesmith.errors import DataError
from tunesmith.evaluate.text import normalize, words

SUITES = {"general": "general.jsonl"}  # those that ship
Built = TypeVar("Built")

_KEYS = ("question", "answer", "wrong", "check", "kind")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `is_right` judges a written answer; `wrong` may be empty."""

    question: str
    answer: str
    wrong: tuple[str, ...]
    kind: str
    is_right: Callable[[str], bool]


def read_suite(name: str) -> list[Item]:
    """The items of a suite that ships, by name, or of a file.

    Raises:
        DataError: there is no such file, it cannot be read, or items are wrong: all of them are told, by number.
    """
    keys = f"an item has {', '.join(_KEYS)}; check is one of {', '.join(CHECKS)}"
    if name in SUITES:
        text = (resources.files("tunesmith.evaluate") / "suites" / SUITES[name]).read_text(encoding="utf-8")
        return _build(name, _parse(SUITES[name], text), _item, keys)
    return read_items(name, _item, keys=f"{keys}; or name a suite that ships: {', '.join(SUITES)}")


def read_items(path: str, build: Callable[[object], Built], *, keys: str) -> list[Built]:
    """A list from a YAML, JSON or JSONL file, each item made by `build`, which raises ValueError for a wrong one.

    Args:
        keys: what an item may have, for people.

    Raises:
        DataError: the file cannot be read, or items are wrong: all of them are told, by number.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the file of questions {path}",
            cause=str(error),
            fix=f"give a YAML, JSON or JSONL file in UTF-8; {keys}",
        ) from error
    return _build(path, _parse(path, text), build, keys)


def _parse(name: str, text: str) -> object:
    try:
        if Path(name).suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        return json.loads(text) if Path(name).suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = Path(name).suffix.removeprefix(".") or "yaml"
        raise DataError(f"the file of questions {name} is not {kind}", cause=" ".join(str(error).split())) from error


def _build(name: str, content: object, build: Callable[[object], Built], keys: str) -> list[Built]:
    if not isinstance(content, list) or not content:
        raise DataError(f"the file of questions {name} holds no list of items", fix=keys)
    items: list[Built] = []
    problems: list[str] = []
    for number, fields in enumerate(content, start=1):
        try:
            items.append(build(fields))
        except ValueError as error:
            problems.append(f"item {number}: {error}")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(
            f"the file of questions {name} has {len(problems)} wrong item{'s' if len(problems) > 1 else ''}",
            cause="; ".join(problems[:10]) + more,
            fix=keys,
        )
    return items


def _item(fields: object) -> Item:
    if not isinstance(fields, dict):
        raise ValueError(f"it is {type(fields).__name__}, not question and answer")
    if unknown := [str(key) for key in fields if key not in _KEYS]:
        raise ValueError(f"unknown {', '.join(unknown)}")
    question, answer = _text(fields, "question"), _text(fields, "answer")
    wrong = fields.get("wrong", [])
    if not isinstance(wrong, list) or not all(_is_plain(text) for text in wrong):
        raise ValueError("wrong must be a list of texts")
    others = tuple(str(text) for text in wrong)
    if len({answer, *others}) <= len(others):
        raise ValueError("the right answer is among the wrong ones, or one of them is there twice")
    check = fields.get("check", {"contains": answer})
    is_right = _judge(check)
    if not is_right(answer):
        raise ValueError(f"its check {check} refuses its own answer {answer!r}")
    return Item(question, answer, others, str(fields.get("kind", "")), is_right)


def _text(fields: dict[Any, Any], key: str) -> str:
    value = fields.get(key)
    if not _is_plain(value) or not str(value).strip():
        raise ValueError(f"it has no {key}" if value is None else f"{key} must be text (put it in quotes): {value!r}")
    return str(value)


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)  # YAML reads no and yes as booleans


def _judge(check: object) -> Callable[[str], bool]:
    if not isinstance(check, dict) or len(check) != 1 or next(iter(check)) not in CHECKS:
        raise ValueError(f"check must be one of {', '.join(CHECKS)} with its value, found {check!r}")
    ((name, wanted),) = check.items()
    return CHECKS[name](wanted)


def _contains(wanted: object) -> Callable[[str], bool]:
    options = wanted if isinstance(wanted, list) else [wanted]
    if not options or not all(_is_plain(option) and words(str(option)) for option in options):
        raise ValueError(f"contains needs a text with a word in it, or a list of such texts, found {wanted!r}")
    # between spaces, so that whole words are compared
    looked_for = [f" {' '.join(words(str(option)))} " for option in options]
    return lambda answer: any(option in f" {' '.join(words(answer))} " for option in looked_for)


def _equals(wanted: object) -> Callable[[str], bool]:
    if not _is_plain(wanted):
        raise ValueError(f"equals needs a text, found {wanted!r}")
    return lambda answer: normalize(answer) == normalize(str(wanted))


def _regex(wanted: object) -> Callable[[str], bool]:
    try:
        pattern = re.compile(str(wanted))
    except re.error as error:
        raise ValueError(f"{wanted!r} is no regular expression: {error}") from error
    return lambda answer: pattern.search(answer) is not None


def _number(wanted: object) -> Callable[[str], bool]:
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)):
        raise ValueError(f"number needs a number, found {wanted!r}")

    def is_right(answer: str) -> bool:
        found = _NUMBER.findall(answer)
        return bool(found) and math.isclose(float(found[-1].replace(",", "")), wanted, rel_tol=1e-9, abs_tol=1e-9)

    return is_right


CHECKS: dict[str, Callable[[object], Callable[[str], bool]]] = {
    "contains": _contains,
    "equals": _equals,
    "regex": _regex,
    "number": _number,
}
