"""Rows given in Python, as examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tunesmith.errors import DataError, SettingsError
from tunesmith.types import Example, Message

_QUESTION_KEYS = ("question", "prompt", "instruction", "text")
_ANSWER_KEYS = ("answer", "completion", "output", "label")


def examples_of(rows: Iterable[Mapping[str, str]]) -> list[Example]:
    """Rows of {"question", "answer"}, {"prompt", "completion"}, {"instruction", "output"} or {"text", "label"}.

    Raises:
        SettingsError: a row has no such keys. DataError: a value is no text. The row's number, counted from 1, is told.
    """
    return [_example(row, number) for number, row in enumerate(rows, start=1)]


def _example(row: Mapping[str, str], number: int) -> Example:
    question = next((row[key] for key in _QUESTION_KEYS if key in row), None)
    answer = next((row[key] for key in _ANSWER_KEYS if key in row), None)
    if question is None or answer is None:
        raise SettingsError(
            f"test row {number} has the keys {', '.join(row)}",
            fix=f"give one of {', '.join(_QUESTION_KEYS)} and one of {', '.join(_ANSWER_KEYS)}",
        )
    for value in (question, answer):
        if not isinstance(value, str):
            raise DataError(f"test row {number} holds {value!r}, which is no text", fix="give it as text: str(value)")
    return Example(messages=(Message("user", question), Message("assistant", answer)), row=number)
