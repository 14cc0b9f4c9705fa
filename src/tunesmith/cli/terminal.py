"""What the commands print with: data on standard output, messages on standard error, escape codes for terminals only.

Knows how things look, not what they mean.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tunesmith.cli.streams import live, unread
from tunesmith.runs import without_nonfinite

if TYPE_CHECKING:
    from tunesmith.types import Finding

_PIPE_COLUMNS = 120  # nobody's window is known there; narrower would cut tables that a file can hold
_WIDE_COLUMNS = 110
_COLUMNS_PER_ANSWER = 36  # with fewer, a column of answers would have under 34 characters
_ANSWER_STYLES = ("cyan", "yellow", "magenta", "green", "blue")
_NOTHING = "(nothing)"
_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
_CONTROL |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # answered in one place, by main


def console(stream: TextIO) -> Console:
    """A console that writes plain text unless the stream is a live terminal."""
    styled = live(stream)
    return _Console(
        file=stream,
        width=_width(stream),
        force_terminal=styled,
        color_system="auto" if styled else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _width(stream: TextIO) -> int | None:
    """None: as rich finds it. COLUMNS=0, which some programs set, it takes at its word and writes nothing."""
    columns = os.environ.get("COLUMNS")
    if stream.isatty():
        return shutil.get_terminal_size().columns if columns == "0" else None
    return _PIPE_COLUMNS if columns in (None, "", "0") else None


def show(*parts: RenderableType) -> None:
    """Data: on standard output."""
    _print(sys.stdout, parts)


def tell(*parts: RenderableType) -> None:
    """Messages: on standard error."""
    with unread():
        _print(sys.stderr, parts)


def tell_findings(findings: Sequence[Finding]) -> None:
    """A line each, on standard error."""
    for finding in findings:
        tell(f"{finding.level}: {finding.message}" + (f"; {finding.fix}" if finding.fix else ""))


def _print(stream: TextIO, parts: Sequence[RenderableType]) -> None:
    to = console(stream)
    with to.capture() as captured:
        for part in parts:
            to.print(part, soft_wrap=isinstance(part, str))
    text = captured.get()
    stream.write(text if live(stream) else re.sub(" +$", "", text, flags=re.MULTILINE))
    stream.flush()


def is_wide() -> bool:
    """Whether standard output has room for a table with sentences in it."""
    return console(sys.stdout).width >= _WIDE_COLUMNS


def show_json(document: Mapping[str, object]) -> None:
    """Exactly one JSON document on standard output."""
    sys.stdout.write(json_text(document, indent=2) + "\n")


def json_text(document: Mapping[str, object], *, indent: int | None = None) -> str:
    """In ASCII where standard output takes no more. Numbers that JSON cannot hold are null, paths are text."""
    ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
    finite = without_nonfinite(document)
    return json.dumps(finite, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=os.fspath)


def plain(text: str) -> str:
    """Text of data or models made safe for a terminal: control characters become visible signs.

    >>> plain("a\\x1b[31mb")
    'a␛[31mb'
    """
    return text.replace("\r\n", "\n").translate(_CONTROL)


def shorten(text: str, characters: int) -> str:
    """One line, cut at a word where possible: shorten("how do I reset it", 12) -> "how do I ..."."""
    line = " ".join(plain(text).split())
    if len(line) <= characters:
        return line
    head = line[: characters - 3]
    return (head[: head.rfind(" ") + 1] or head) + "..."


def seconds_text(seconds: float) -> str:
    """9.4 s, 1 min 20 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size_text(size_bytes: float) -> str:
    """1.23 GB, 950.0 MB, 3.4 kB."""
    if size_bytes >= 1e9:
        return f"{size_bytes / 1e9:.2f} GB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def count_text(count: float) -> str:
    """950, 12.3 k, 1.4 M, 2.7 B."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit * 0.9995:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f}"


def shell(*words: object) -> str:
    """Words as one types them: shell("ask", "Who is it?") -> ask "Who is it?"."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    quoted = shlex.quote(word)
    return quoted if quoted == word or set(word) & set('"$`\\!') else f'"{word}"'


def facts(rows: Iterable[tuple[str, str | Text]], *, title: str | None = None) -> RenderableType:
    """Label and value in two columns, under an optional title."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), Text(plain(value)) if isinstance(value, str) else value)
    return _titled(title, grid)


def hanging(text: str) -> RenderableType:
    """Lines of a label, two spaces or more, and a text: what does not fit continues below the text, not the label."""
    grid = Table.grid()
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for line in plain(text).rstrip().split("\n"):
        label = re.match(r"\S*  +", line)
        start = label.end() if label else 0
        grid.add_row(Text(line[:start]), Text(line[start:]))
    return grid


def activation() -> str | None:
    """What makes `tunesmith` a command of this shell, where it was started by its path (make does) and is none yet."""
    started = Path(sys.argv[0])
    script = Path(sys.prefix) / "bin" / "activate"
    if started.name != "tunesmith" or shutil.which("tunesmith") or not script.is_file():
        return None
    return shell("source", script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def commands(rows: Sequence[tuple[str, str]]) -> RenderableType:
    """What to type next, and what it does. A command is never broken, so that it can be copied."""
    first = activation()
    if first is not None:
        rows = [(first, "makes tunesmith a command of this shell"), *rows]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, overflow="ignore", style="cyan")
    grid.add_column(style="dim")
    for command, purpose in rows:
        grid.add_row(Text(command), Text(purpose))
    return _titled("next", grid)


def _titled(title: str | None, body: RenderableType) -> RenderableType:
    if title is None:
        return body
    outer = Table.grid()
    outer.add_row(Text(title, style="bold"))
    outer.add_row(Padding(body, (0, 0, 0, 2)))
    return outer


def table(*columns: str, right: Sequence[str] = (), fold: Sequence[str] = ()) -> Table:
    """An empty table with a header. Columns in `right` hold numbers, those in `fold` long texts that wrap."""
    made = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        justify: Any = "right" if name in right else "left"
        made.add_column(name, justify=justify, no_wrap=name not in fold, overflow="fold")
    return made


_TASK_METRICS = 4  # a terminal has room for
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


def answers_side_by_side(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> RenderableType:
    """For each (row of base, row of tuned): the question, the expected answer, and both answers beside each other."""
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
        for part in (heading, expected, both):
            block.add_row(part)
        outer.add_row(Padding(block, (0, 0, 1, 0)))
    return outer
