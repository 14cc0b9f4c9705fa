"""A learning-rate schedule as a picture: the curve of one that is still to be run, its named parts marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.runs.atomic import atomic_write
from tunesmith.runs.plots import INK, TRAIN, render, short_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# pale, each told apart from its neighbour in grey too; the names are written above them
_SHADES = ("#EAF1F8", "#FFFFFF")


def plot_schedule(
    path: Path, rates: Sequence[float], *, spans: Sequence[tuple[str, int, int]], title: str, label: str
) -> None:
    """Write a PNG.

    Args:
        rates: one for each step, counted from 0.
        spans: name, first step and end (the step after its last) of each part.
        label: what the rates are, for the axis.

    Raises:
        ResourceError: it cannot be written.
    """

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter

        ax = figure.subplots()
        for number, (name, first, end) in enumerate(spans):
            ax.axvspan(first, end, color=_SHADES[number % 2], zorder=0)
            if number:
                ax.axvline(first, color="#9A9A9A", linewidth=1.0, linestyle="--", zorder=1)
            if end - first >= len(rates) / 20:  # there is no room over a shorter one
                middle = ((first + end) / 2, 1.01)
                ax.text(*middle, name, transform=ax.get_xaxis_transform(), ha="center", color=INK, parse_math=False)
        ax.plot(range(len(rates)), rates, color=TRAIN, linewidth=2.4, marker="o" if len(rates) == 1 else None)
        ax.set_xlim(0, max(len(rates) - 1, 1))
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_rate(value)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        ax.set_xlabel("optimizer step")
        ax.set_ylabel(label)

    atomic_write(path, render(title, draw))
