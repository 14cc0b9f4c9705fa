"""Checks that an answer passes or fails: of cases, of items of a suite, and of all rows (`eval.checks`). No model.

contains     whole words without case; of a list one text is enough
equals       as exact match does: case, punctuation and articles do not count
regex        searches as it is
number       the last number of the answer, as is usual for worked arithmetic (Cobbe et al. 2021, arXiv:2110.14168)
json_schema  the whole answer is JSON (a fence of ``` around it is not), and valid by a schema: its content, or a file
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, did_you_mean
from tunesmith.evaluate.text import normalize, words
from tunesmith.optional import need

Passes = Callable[[str], bool]

_NUMBER = re.compile(r"(?:(?<![\d.])[-+])?\d[\d,]*(?:\.\d+)?")  # of "3-5" the last is 5, and no sign


def build_check(name: str, wanted: object) -> Passes:
    """The check of that name.

    Raises:
        ValueError: there is none, or what is wanted is not what it takes. ResourceError: json_schema without the extra.
    """
    if name not in CHECKS:
        raise ValueError(f"unknown check {name}{did_you_mean(name, CHECKS)}")
    return CHECKS[name](wanted)


def is_plain(value: object) -> bool:
    """Whether a value of a file can be taken for text: true and false are none."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _contains(wanted: object) -> Passes:
    options = wanted if isinstance(wanted, list) else [wanted]
    if not options or not all(is_plain(option) and words(str(option)) for option in options):
        raise ValueError(f"contains needs a text with a word in it, or a list of such texts, found {wanted!r}")
    # between spaces, so that whole words are compared
    looked_for = [f" {' '.join(words(str(option)))} " for option in options]
    return lambda answer: any(option in f" {' '.join(words(answer))} " for option in looked_for)


def _equals(wanted: object) -> Passes:
    if not is_plain(wanted):
        raise ValueError(f"equals needs a text, found {wanted!r}")
    return lambda answer: normalize(answer) == normalize(str(wanted))


def _regex(wanted: object) -> Passes:
    if not is_plain(wanted):
        raise ValueError(f"regex needs a text, found {wanted!r}")
    try:
        pattern = re.compile(str(wanted))
    except re.error as error:
        raise ValueError(f"{wanted!r} is no regular expression: {error}") from error
    return lambda answer: pattern.search(answer) is not None


def _number(wanted: object) -> Passes:
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)):
        raise ValueError(f"number needs a number, found {wanted!r}")

    def is_right(answer: str) -> bool:
        found = _NUMBER.findall(answer)
        return bool(found) and math.isclose(float(found[-1].replace(",", "")), wanted, rel_tol=1e-9, abs_tol=1e-9)

    return is_right


def _json_schema(wanted: object) -> Passes:
    schema = _read_schema(wanted) if isinstance(wanted, str) else wanted
    if not isinstance(schema, (dict, bool)):
        raise ValueError(f"json_schema needs a schema or the path of one, found {wanted!r}")
    library, referencing = need("jsonschema", extra="schema"), need("referencing", extra="schema")
    try:
        made = library.validators.validator_for(schema, default=library.Draft202012Validator)
        made.check_schema(schema)
    except library.SchemaError as error:
        raise ValueError(f"json_schema is no JSON schema: {error.message}") from error
    # a registry of its own: without one, jsonschema would fetch what a $ref names from the network
    validator = made(schema, registry=referencing.Registry())

    def is_valid(answer: str) -> bool:
        try:
            content = json.loads(answer, parse_constant=_refused)
        except (ValueError, RecursionError):
            return False
        try:
            return bool(validator.is_valid(content))
        except referencing.exceptions.Unresolvable as error:
            raise DataError(
                "the JSON schema names what is not in it", cause=str(error), fix="put the schemas that it uses into it"
            ) from error

    return is_valid


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")  # Python's reader takes NaN and Infinity


def _read_schema(path: str) -> object:
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"json_schema {path!r} cannot be read: {error}") from error


CHECKS: dict[str, Callable[[object], Passes]] = {
    "contains": _contains,
    "equals": _equals,
    "regex": _regex,
    "number": _number,
    "json_schema": _json_schema,
}
