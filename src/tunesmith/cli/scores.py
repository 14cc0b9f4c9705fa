"""Scores and answers of models beside each other, as tables for the terminal."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Protocol

from rich.box import ROUNDED
from rich.console import RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tunesmith.cli.terminal import console, plain, shorten, table

_TASK_METRICS = 4  # a terminal has room for
_COLUMNS_PER_ANSWER = 36  # with fewer, a column of answers would have under 34 characters
_ANSWER_STYLES = ("cyan", "yellow", "magenta", "green", "blue")
_NOTHING = "(nothing)"
VERDICT_STYLES = {
    **{"better": "green", "worse": "red", "different": ""},
    **{"no evidence": "dim", "too few rows": "dim"},
}


class Change(Protocol):
    """One metric of base and tuned, and whether tuned is better: what `api.Comparison.changes` holds."""

    @property
    def metric(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def is_share(self) -> bool: ...
    @property
    def base(self) -> float: ...
    @property
    def tuned(self) -> float: ...
    @property
    def change(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def verdict(self) -> str: ...


def comparison_table(
    changes: Iterable[Change], *, rows: int, sides: tuple[str, str] = ("base", "tuned"), why: str = ""
) -> RenderableType:
    """Two models: shares out of 100, others such as perplexity as they are. why: these scores."""
    numbers = (*sides, "change", "95 % interval")
    made = table("", *numbers, " ", right=numbers)
    for line in changes:
        made.add_row(
            line.title,
            _number(line.base, is_share=line.is_share),
            Text(_number(line.tuned, is_share=line.is_share), style="bold"),
            _number(line.change, is_share=line.is_share, sign="+"),
            " to ".join(_number(end, is_share=line.is_share, sign="+") for end in (line.low, line.high)),
            Text(line.verdict, style=VERDICT_STYLES[line.verdict]),
        )
    note = f"on {rows} row{'s' if rows != 1 else ''}; shares out of 100; interval: of the change, on other such rows"
    outer = Table.grid()
    outer.add_row(made)
    outer.add_row(Text(note, style="dim"))
    if why:
        outer.add_row(Text(plain(f"scores: {why}"), style="dim"))
    return outer


class Scores(Protocol):
    """Metrics of one task: what `Evaluation.tasks` holds."""

    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def row_count(self) -> int: ...


def tasks_table(
    base: Mapping[str, Scores], tuned: Mapping[str, Scores], changes: Iterable[Change], *, deciding: str | None
) -> RenderableType:
    """A line for each task: its rows, and base -> tuned of a few metrics, the deciding one first."""
    lines = sorted(changes, key=lambda line: line.metric != deciding)[:_TASK_METRICS]
    names = [line.title for line in lines]
    made = table("task", "rows", *names, right=("rows", *names), fold=("task",))
    for task, after in tuned.items():
        cells = []
        for line in lines:
            pair = [scores.metrics.get(line.metric, math.nan) for scores in (base[task], after)]
            cells.append(" -> ".join(_number(value, is_share=line.is_share) for value in pair))
        made.add_row(plain(task), str(after.row_count), *cells)
    return made


def forgetting_table(
    tasks: Iterable[Mapping[str, Any]], titles: Mapping[str, str], shares: Collection[str]
) -> RenderableType:
    """What a run that went on from another did to each task: the content of eval/forgetting.json."""
    made = table("task", "", "before", "after", "change", " ", right=("before", "after", "change"))
    for task in tasks:
        label = f"{plain(task['task'])} ({'new' if task['is_new'] else 'old'}, {task['rows']} rows)"
        for metric, before in task["before"].items():
            numbers = [math.nan if value is None else value for value in (before, task["after"][metric])]
            is_share = metric in shares
            verdict = task["change"][metric]["verdict"]
            made.add_row(
                label,
                titles[metric],
                _number(numbers[0], is_share=is_share),
                Text(_number(numbers[1], is_share=is_share), style="bold"),
                _number(numbers[1] - numbers[0], is_share=is_share, sign="+"),
                Text(verdict, style=VERDICT_STYLES[verdict]),
            )
            label = ""
    return made


def _number(value: float, *, is_share: bool, sign: str = "") -> str:
    if math.isnan(value):
        return "n/a"
    if is_share:
        return f"{value * 100:{sign},.1f}" if math.isfinite(value) else f"{value:{sign}}"
    digits = 2 if abs(value) < 1000 else 0
    return f"{value:{sign},.{digits}f}" if math.isfinite(value) else f"{value:{sign}}"


def answer_columns(answers: Sequence[tuple[str, str]]) -> RenderableType:
    """Name and answer of each model, beside each other; below each other where the terminal is too narrow.

    Each name has a colour of its own; in it are the words that the first model did not write there.
    """
    narrow = console(sys.stdout).width < _COLUMNS_PER_ANSWER * len(answers)
    both = Table(box=ROUNDED, expand=True, show_header=not narrow, border_style="dim")
    shown = [
        (Text(plain(name), style=_ANSWER_STYLES[place % len(_ANSWER_STYLES)]), answer)
        for place, (name, answer) in enumerate(answers)
    ]
    texts = [_marked(answer, answers[0][1], who.style) for who, answer in shown]
    if narrow:
        both.show_lines = True
        both.add_column(overflow="fold")
        for (who, _), text in zip(shown, texts, strict=True):
            both.add_row(Text.assemble(who, "\n", text))
        return both
    for who, _ in shown:
        both.add_column(who, ratio=1, overflow="fold")
    both.add_row(*texts)
    return both


def _marked(answer: str, first: str, style: str | Style) -> Text:
    """The answer, with the words in `style` that are not in the first one at their place."""
    pieces = re.split(r"(\s+)", plain(answer))
    matcher = SequenceMatcher(None, plain(first).split(), pieces[::2], autojunk=False)
    new = {at for tag, _, _, low, high in matcher.get_opcodes() if tag != "equal" for at in range(low, high)}
    text = Text()
    for at, piece in enumerate(pieces):
        text.append(piece, style=style if at % 2 == 0 and at // 2 in new else "")
    return text if text.plain.strip() else Text(_NOTHING)


def turns_before(row: Mapping[str, Any]) -> list[Text]:
    """What was said in a chat before the question of this row."""
    turns = [f"{turn['role']}: {turn['content']}" for turn in row.get("conversation", [])]
    if turns and row["conversation"][-1]["content"] == row["question"]:
        turns.pop()
    return [Text(shorten(turn, 300), style="dim") for turn in turns]


def answers_side_by_side(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> RenderableType:
    """For each (row of base, row of tuned): the question and what led to it, the expected answer, and both answers."""
    outer = Table.grid(expand=True)
    for base, tuned in pairs:
        place = ", ".join([*filter(None, (base.get("task"), base["sheet"])), f"row {base['row']}"])
        heading = Text(shorten(base["question"], 300), style="bold")
        heading.append(f"  ({plain(place)})", style="not bold dim")
        expected = Text("expected: ", style="dim").append(shorten(base["reference"], 300), style="not dim")
        both = answer_columns(
            [(who, shorten(row["prediction"], 400)) for who, row in (("base", base), ("tuned", tuned))]
        )
        block = Table.grid(expand=True)
        for part in (*turns_before(base), heading, expected, both):
            block.add_row(part)
        outer.add_row(Padding(block, (0, 0, 1, 0)))
    return outer
