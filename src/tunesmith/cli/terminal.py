"""What the commands print with: data on standard output, messages on standard error, escape codes for terminals only.

Knows how things look, not what they mean.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunesmith.cli.streams import live, unread
from tunesmith.runs import without_nonfinite

if TYPE_CHECKING:
    from tunesmith.types import Finding

_PIPE_COLUMNS = 120  # nobody's window is known there; narrower would cut tables that a file can hold
_WIDE_COLUMNS = 110
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
