"""`tunesmith schedule`: the learning rate over a run, drawn before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides
from tunesmith.errors import SettingsError

if TYPE_CHECKING:
    from tunesmith.api import Curve

_HEIGHT = 12
_MOST_COLUMNS = 100
_MARGIN = 10  # of the numbers at the left


def schedule(
    config: Annotated[str | None, Parameter(help="A settings file, or the name of a recipe.")] = None,
    /,
    *,
    png: Annotated[str | None, Parameter(help="Write a picture of it to this file.")] = None,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Draw the learning rate over a run, with its phases. Nothing is trained.

    Any setting is a flag. The number of steps is train.max_steps.

        tunesmith schedule three-phases --max_steps 2000
        tunesmith schedule mine.yaml --png schedule.png
        tunesmith schedule --train.schedule linear --learning_rate 2e-4
    """
    from tunesmith.cli.terminal import show, show_json, tell
    from tunesmith.config import load_config

    if png is not None and not png.endswith(".png"):
        raise SettingsError(f"--png {png} is no picture's name", fix=f"--png {png}.png")
    is_file = config is not None and Path(config).is_file()
    settings = load_config(recipe=None if is_file else config, file=config if is_file else None, overrides=overrides)
    from tunesmith import api

    curve = api.schedule_curve(settings)
    if json:
        show_json({"schema_version": 1, **curve.to_json()})
    else:
        _show(curve)
    if curve.is_assumed:
        tell(f"{len(curve.rates):,} steps are assumed: the data decide, or --max_steps")
    if curve.is_share:
        tell("shares of the peak are shown: the model decides it, or --learning_rate")
    if png is not None:
        from tunesmith.runs import plot_schedule

        spans = [(span.name, span.first, span.end) for span in curve.spans]
        label = "share of the peak" if curve.is_share else "learning rate"
        plot_schedule(Path(png), curve.rates, spans=spans, title=f"schedule: {curve.schedule}", label=label)
        (tell if json else show)(f"wrote {png}")


def _show(curve: Curve) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import console, plain, show, table

    columns = max(20, min(_MOST_COLUMNS, console(sys.stdout).width - _MARGIN - 2))
    firsts = [span.first for span in curve.spans]
    show(*(Text(line, overflow="crop", no_wrap=True) for line in draw(curve.rates, firsts, columns)), "")
    made = table("phase", "steps", "first rate", "last rate", right=("first rate", "last rate"))
    for span in curve.spans:
        rates = (f"{curve.rates[step]:.3g}" for step in (span.first, span.end - 1))
        made.add_row(Text(plain(span.name), style="bold"), f"{span.first:,} to {span.end - 1:,}", *rates)
    show(made)
    for group, written in curve.group_rates.items():
        rate = f"{written} the rate" if isinstance(written, str) else f"a peak of {written:g}"
        show(f"{plain(group)}: the same shape with {rate}")


def draw(rates: Sequence[float], firsts: Sequence[int], columns: int) -> list[str]:
    """The curve in plain characters, a line of text each: `*` the rate, `:` where a phase begins, steps below.

    Args:
        rates: one for each step. firsts: first steps of the phases.
        columns: width of the curve in characters; a margin of numbers comes before it.
    """
    total, highest = len(rates), max(rates) or 1.0
    grid = [[" "] * columns for _ in range(_HEIGHT)]
    for first in firsts[1:]:
        for row in grid:
            row[first * columns // total] = ":"
    before: list[int] = []  # the level of the column before, so that there is no gap where it is steep
    for column in range(columns):
        start = column * total // columns
        steps = rates[start : max(start + 1, (column + 1) * total // columns)]
        levels = [*before, *(round(rate / highest * (_HEIGHT - 1)) for rate in steps)]
        for level in range(min(levels), max(levels) + 1):
            grid[_HEIGHT - 1 - level][column] = "*"
        before = levels[-1:]
    lines = []
    for number, row in enumerate(grid):
        rate = highest * (_HEIGHT - 1 - number) / (_HEIGHT - 1)
        label = f"{rate:.2e}" if number % 3 == 0 or number == _HEIGHT - 1 else ""
        lines.append(f"{label:>{_MARGIN - 1}} |{''.join(row)}".rstrip())
    lines.append(f"{'':>{_MARGIN}}+{'-' * columns}")
    last = f"{total - 1:,}"
    lines.append(f"{'':>{_MARGIN + 1}}0{last:>{columns - 1}}")
    return lines
