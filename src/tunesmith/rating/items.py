"""What is rated: questions, each with the answers of several models. Reads files; knows neither sides nor votes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.runs import Run

FORMAT = '{"question": "...", "answers": {"name": "...", "other name": "..."}, "reference": "..."}'


@dataclass(frozen=True, slots=True)
class Item:
    """A question, the right answer if one is known, and what each model wrote, by its name.

    conversation: of a chat its turns, {"role", "content"}, the question included; else empty.
    """

    question: str
    reference: str | None
    answers: dict[str, str]
    conversation: tuple[dict[str, str], ...] = ()


def answers_path(source: str) -> Path:
    """The file of answers that `source` means: itself, or what `tunesmith eval` left in the run of that name.

    Raises:
        SettingsError: there is neither a file nor a run.
        DataError: the run has not been measured.
    """
    if Path(source).is_file():
        return Path(source)
    run = Run.open(source)
    path = run.eval_dir / "predictions.jsonl"
    if not path.is_file():
        raise DataError(
            f"{run.name} has no answers to rate: there is no {path}", fix=f"tunesmith eval {source} writes it"
        )
    return path


def read_items(path: Path) -> list[Item]:
    """The questions of a predictions.jsonl of a run, or of a file with a line like FORMAT for each.

    Raises:
        DataError: a line is no such object, has no answer, or there is no line at all.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would cut at U+2028 in a text
    except (OSError, UnicodeDecodeError) as error:
        fix = f"give a measured run, or a file in UTF-8 with lines such as {FORMAT}"
        raise DataError(f"cannot read {path}", cause=str(error), fix=fix) from error
    items = [_item(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not items:
        raise DataError(f"{path} has no answers to rate: it is empty", fix=f"write lines such as {FORMAT}")
    return items


def _item(line: str, place: str) -> Item:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is no JSON", cause=str(error), fix=f"write {FORMAT}") from error
    question = row.get("question") if isinstance(row, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise DataError(f'{place} has no text under "question"', fix=f"write {FORMAT}")
    answers = row["answers"] if "answers" in row else _of_a_run(row)
    if not isinstance(answers, dict) or not answers or not all(isinstance(text, str) for text in answers.values()):
        raise DataError(f'{place} has no texts by name under "answers"', fix=f"write {FORMAT}")
    reference = row.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise DataError(f'{place} has no text under "reference"', fix="write the right answer there, or leave it out")
    turns = row.get("conversation", [])
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise DataError(
            f'{place} has no list of turns under "conversation"',
            fix='write [{"role": "user", "content": "..."}, ...], or leave it out',
        )
    return Item(question, reference, {str(name): text for name, text in answers.items()}, tuple(turns))


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, dict) and turn.keys() == {"role", "content"} and all(isinstance(t, str) for t in turn.values())
    )


def _of_a_run(row: dict[str, Any]) -> dict[str, Any]:
    """{"base": {"prediction": "x", ...}, "tuned": {...}, ...} -> {"base": "x", ...}."""
    measured = {name: value for name, value in row.items() if isinstance(value, dict) and "prediction" in value}
    return {name: value["prediction"] for name, value in measured.items()}
