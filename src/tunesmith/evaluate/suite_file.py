"""Suites: questions with answers that can be checked. Reads and judges; knows no model.

A file is YAML (a list of items), JSON (the same) or JSONL (an item a line). An item has

question   what is asked
answer     a right answer
wrong      wrong answers, to be told from the right one by their likelihood; may be left out
check      how a written answer is judged, by one of `checks.CHECKS`: {contains: TEXT or a list of which one is enough},
           {number: NUMBER} ...; left out, it contains the right answer
kind       a word by which results are grouped; may be left out

Numbers are those of JSON, and as a text what was written: the answer 1.10 is "1.10". What else YAML 1.1 reads as a
number, a time or a truth value (007, 12:30, 2026-01-31, yes, no) is text, as in a file of settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tunesmith.config import YamlLoader, unique_keys
from tunesmith.errors import DataError, did_you_mean
from tunesmith.evaluate.checks import CHECKS, Passes, build_check, is_plain

SUITES = {"general": "general.jsonl"}  # those that ship
Built = TypeVar("Built")

_KEYS = ("question", "answer", "wrong", "check", "kind")
_INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float"))


class _Decimal(float):
    """A number that is as a text what was written."""

    _written: str

    def __new__(cls, written: str) -> _Decimal:
        number = super().__new__(cls, written)
        number._written = written
        return number

    def __str__(self) -> str:
        return self._written

    __repr__ = __str__


class _Loader(YamlLoader):
    """As a file of settings, with the numbers of JSON, and .5."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the class above
        first: [(tag, form) for tag, form in known if tag not in (_INT, _FLOAT)]
        for first, known in YamlLoader.yaml_implicit_resolvers.items()
    }


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> _Decimal:
    return _Decimal(loader.construct_scalar(node))


_Loader.add_implicit_resolver(_INT, re.compile(r"-?(0|[1-9]\d*)$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"-?(0|[1-9]\d*)?(\.\d+([eE][-+]?\d+)?|(?<=\d)[eE][-+]?\d+)$"), list("-.0123456789")
)
_Loader.add_constructor(_FLOAT, _decimal)


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
            fix=f"give a YAML, JSON or JSONL file in UTF-8, or the rows of a table with --data; {keys}",
        ) from error
    return _build(path, _parse(path, text), build, keys)


def _parse(name: str, text: str) -> tuple[object, list[int]]:
    """The content, and on which line each item of a list begins; no lines where they are not known."""
    try:
        if Path(name).suffix == ".jsonl":
            lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
            return [_json_line(number, line) for number, line in lines], [number for number, _ in lines]
        if Path(name).suffix == ".json":
            return _json(text), []
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, []
        starts = node.value if isinstance(node, yaml.SequenceNode) else []
        return loader.construct_document(node), [item.start_mark.line + 1 for item in starts]
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = Path(name).suffix.removeprefix(".") or "yaml"
        raise DataError(
            f"the file of questions {name} is not {kind}", cause=" ".join(str(error).split()), fix="correct it there"
        ) from error


def _json(text: str) -> object:
    return json.loads(text, parse_float=_Decimal, object_pairs_hook=unique_keys)


def _json_line(number: int, line: str) -> object:
    try:
        return _json(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _build(name: str, parsed: tuple[object, list[int]], build: Callable[[object], Built], keys: str) -> list[Built]:
    content, lines = parsed
    if not isinstance(content, list) or not content:
        raise _no_list(name, content, keys)
    items: list[Built] = []
    problems: list[str] = []
    for index, fields in enumerate(content):
        try:
            items.append(build(fields))
        except ValueError as error:
            place = f"item {index + 1}, line {lines[index]}" if lines else f"item {index + 1}"
            problems.append(f"{place}: {error}")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(
            f"the file of questions {name} has {len(problems)} wrong item{'s' if len(problems) > 1 else ''}",
            cause="; ".join(problems[:10]) + more,
            fix=keys,
        )
    return items


def _no_list(name: str, content: object, keys: str) -> DataError:
    if not isinstance(content, dict) or not content:
        fix = f'begin each question with "- ", on a line of its own; {keys}' if isinstance(content, str) else keys
        return DataError(f"the file of questions {name} holds no list of items", fix=fix)
    key = str(next((key for key, value in content.items() if isinstance(value, list)), next(iter(content))))
    return DataError(
        f"the file of questions {name} has no list of items at its top, where the key {key!r} was found",
        fix=f"let the list stand at the top of the file, not under a key; {keys}",
    )


def _item(fields: object) -> Item:
    if not isinstance(fields, dict):
        raise ValueError(f"it is {type(fields).__name__}, not question and answer")
    fields = given_fields(fields, _KEYS)
    question, answer = _text(fields, "question"), _text(fields, "answer")
    wrong = fields.get("wrong", [])
    if not isinstance(wrong, list) or not all(is_plain(text) for text in wrong):
        raise ValueError("wrong must be a list of texts")
    others = tuple(str(text) for text in wrong)
    if not all(text.strip() for text in others):
        raise ValueError("a wrong answer is empty")
    if len({answer, *others}) <= len(others):
        raise ValueError("the right answer is among the wrong ones, or one of them is there twice")
    check = fields.get("check", {"contains": answer})
    is_right = _judge(check)
    if not is_right(answer):
        raise ValueError(f"its check {check} refuses its own answer {answer!r}")
    return Item(question, answer, others, str(fields.get("kind", "")), is_right)


def given_fields(fields: dict[Any, Any], known: Sequence[str]) -> dict[Any, Any]:
    """The keys of an item that have a value: null, which programs write for an empty cell, is as left out.

    Raises:
        ValueError: it has others; the nearest known one is told.
    """
    if unknown := [f"{key}{did_you_mean(str(key), known)}" for key in fields if key not in known]:
        raise ValueError(f"unknown {'; '.join(unknown)}")
    return {key: value for key, value in fields.items() if value is not None}


def _text(fields: dict[Any, Any], key: str) -> str:
    value = fields.get(key)
    if not is_plain(value) or not str(value).strip():
        raise ValueError(f"it has no {key}" if value is None else f"{key} must be text (put it in quotes): {value!r}")
    return str(value)


def _judge(check: object) -> Passes:
    if not isinstance(check, dict) or len(check) != 1:
        raise ValueError(f"check must be one of {', '.join(CHECKS)} with its value, found {check!r}")
    ((name, wanted),) = check.items()
    return build_check(str(name), wanted)
