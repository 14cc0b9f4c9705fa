"""How far probabilities can be trusted, as a picture: a reliability diagram (Niculescu-Mizil and Caruana 2005)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.runs.atomic import atomic_write
from tunesmith.runs.plots import INK, OTHER, TRAIN, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = (OTHER, TRAIN)
_BIN, _BAR = 0.1, 0.04  # widths of a bin and of the bar of one model in it


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """Rows of one bin, a tenth wide from `begin`.

    probability: their mean. share: of them that are right, with an interval from low to high. rows: how many.
    """

    begin: float
    probability: float
    share: float
    low: float
    high: float
    rows: int


def plot_calibration(
    path: Path, models: Mapping[str, Sequence[CalibrationPoint]], *, title: str, subtitle: str
) -> None:
    """Write a PNG: the share that is right over the stated probability, and below it how many rows were so sure.

    Args:
        models: points of two models by name, the second in front.

    Raises:
        ResourceError: it cannot be written.
    """

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        above.plot([0, 1], [0, 1], color=INK, linewidth=1.1, linestyle="--", label="as sure as right")
        for place, ((name, points), color) in enumerate(zip(models.items(), _COLORS, strict=True)):
            sure = [point.probability for point in points]
            share = [point.share for point in points]
            ends = [[point.share - point.low for point in points], [point.high - point.share for point in points]]
            above.errorbar(
                sure, share, yerr=ends, color=color, marker="o", markersize=6, linewidth=1.6, elinewidth=1, label=name
            )
            middles = [point.begin + _BIN / 2 + (place - 0.5) * _BAR for point in points]
            below.bar(middles, [point.rows for point in points], width=_BAR, color=color)
        above.set_ylim(-0.03, 1.03)
        above.set_ylabel("share that is right")
        above.set_title(subtitle, loc="left", fontsize=10.5, color=INK, parse_math=False)
        above.legend(loc="upper left")
        above.text(0.98, 0.04, "below the line: too sure", ha="right", fontsize=10, color=INK)
        below.set_xlim(0, 1.02)
        below.set_xlabel("probability of the chosen label")
        below.set_ylabel("rows")

    atomic_write(path, render(title, draw, size=(7.5, 7.5)))
