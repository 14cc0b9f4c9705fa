"""What `tunesmith eval` prints besides the table of scores: rows that leaked, and suites of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.cli.scores import VERDICT_STYLES, comparison_table
from tunesmith.cli.terminal import plain, show, table

if TYPE_CHECKING:
    from tunesmith.api import Comparison, SuiteComparison

_LEAKS_SHOWN = 5
_SCORE_NAMES = {"choices": "right choice", "written": "right in words", "bits_per_byte": "bits per byte"}


def show_leakage(comparison: Comparison) -> None:
    """The test rows that are also in the training data, and the scores with or without them."""
    report = comparison.leakage
    if report.unchecked:
        show(f"not checked for test rows in the training data: {plain(report.unchecked)}", "")
    if not report.leaks:
        return
    measured = comparison.others[1] if comparison.others and comparison.is_excluding else comparison.tuned
    are = "is" if len(report.leaks) == 1 else "are"
    show(f"{len(report.leaks)} of {measured.row_count} test rows {are} also in the training data, the same or nearly:")
    for leak in report.leaks[:_LEAKS_SHOWN]:
        files = [Path(name).name for name in (leak.file, leak.seen_file)]
        seen = f"{leak.side} row {leak.seen_row}" if leak.side != "train" else f"row {leak.seen_row}"
        show(plain(f"  {files[0]} row {leak.row} = {files[1]} {seen}: {leak.kind}, {leak.similarity:.0%} alike"))
    if len(report.leaks) > _LEAKS_SHOWN:
        show(plain(f"  and {len(report.leaks) - _LEAKS_SHOWN} more in {comparison.folder / 'summary.json'}"))
    if not comparison.others:
        show("no other row is left to score", "")
        return
    heading = "with them" if comparison.is_excluding else "without them (--eval.exclude_leaked puts this first)"
    show("", heading, comparison_table(comparison.other_changes, rows=comparison.others[1].row_count), "")


def suite_table(suite: SuiteComparison) -> RenderableType:
    """A suite before and after: its scores with intervals, then each kind of item."""
    numbers = ("base", "tuned", "change", "95 % interval")
    made = table("", *numbers, " ", right=numbers)
    for name, found in suite.changes.items():
        scale, form = (1, ".3f") if name == "bits_per_byte" else (100, ".1f")
        made.add_row(
            _SCORE_NAMES[name],
            f"{found.before * scale:{form}}",
            Text(f"{found.after * scale:{form}}", style="bold"),
            f"{found.change * scale:+{form}}",
            f"{found.low * scale:+{form}} to {found.high * scale:+{form}}",
            Text(found.verdict, style=VERDICT_STYLES[found.verdict]),
        )
    for kind, shares in suite.kinds.items():
        for name, (before, after) in shares.items():
            label = f"{plain(kind)}, {_SCORE_NAMES[name]}"
            row = (f"{before * 100:.1f}", f"{after * 100:.1f}", f"{(after - before) * 100:+.1f}")
            made.add_row(Text(f"  {label}", style="dim"), *row, "", "")
    outer = Table.grid()
    outer.add_row(Text(f"{plain(suite.name)}, {len(suite.base.rows)} questions", style="bold"))
    outer.add_row(made)
    note = "right choice: the right answer is the likeliest of those given; bits per byte of it: lower is better"
    outer.add_row(Text(note, style="dim"))
    return outer
