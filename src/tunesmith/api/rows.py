"""Rows given in Python, as examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tunesmith.api.arguments import check_kind
from tunesmith.errors import DataError, SettingsError
from tunesmith.types import Example, Message

_QUESTION_KEYS = ("question", "prompt", "instruction", "text")
_ANSWER_KEYS = ("answer", "completion", "output", "label")


def examples_of(rows: Iterable[Mapping[str, str]]) -> list[Example]:
    """Rows of {"question", "answer"}, {"prompt", "completion"}, {"instruction", "output"} or {"text", "label"}.

    Raises:
        SettingsError: no list of rows, or a row has no such keys. DataError: a value is no text. The row's number,
            counted from 1, is told.
    """
    if isinstance(rows, (str, bytes, Mapping)):
        raise SettingsError(
            f"the rows are of the type {type(rows).__name__}, not a list",
            fix='give a list of rows: [{"question": "...", "answer": "..."}, ...]',
        )
    return [_example(row, number) for number, row in enumerate(rows, start=1)]


def _example(row: Mapping[str, str], number: int) -> Example:
    fix = f"give one of {', '.join(_QUESTION_KEYS)} and one of {', '.join(_ANSWER_KEYS)}"
    check_kind(f"test row {number}", row, Mapping, fix=fix)
    question = next((row[key] for key in _QUESTION_KEYS if key in row), None)
    answer = next((row[key] for key in _ANSWER_KEYS if key in row), None)
    if question is None or answer is None:
        raise SettingsError(f"test row {number} has the keys {', '.join(map(str, row))}", fix=fix)
    for value in (question, answer):
        if not isinstance(value, str):
            raise DataError(f"test row {number} holds {value!r}, which is no text", fix="give it as text: str(value)")
    return Example(messages=(Message("user", question), Message("assistant", answer)), row=number)
