"""Exported files as a picture: what each costs in size, and what it lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.runs.atomic import atomic_write
from tunesmith.runs.plots import ALARM, BEST, INK, TRAIN, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLOOR = 1e-7  # below it is the order of sums in float32


@dataclass(frozen=True, slots=True)
class SizePoint:
    """One file. divergence: in nats a token; token_f1: None where no answers are known. is_sound: no check failed."""

    name: str
    megabytes: float
    divergence: float
    token_f1: float | None
    is_sound: bool


def plot_sizes(
    path: Path,
    points: Sequence[SizePoint],
    *,
    reference_f1: float | None,
    lost_f1: float,
    recommended: str | None,
    title: str,
) -> None:
    """Write a PNG: divergence and, where it is known, token F1 over the size.

    Args:
        reference_f1: of the model in Python. lost_f1: what may be lost of it. recommended: the name of the point to
            point out.

    Raises:
        ResourceError: it cannot be written.
    """
    scored = [point for point in points if point.token_f1 is not None]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2 if scored else 1, 1, sharex=True, squeeze=False)[:, 0]
        heights = [max(point.divergence, _FLOOR) for point in points]
        _draw_points(panels[0], points, heights, recommended, named=True)
        panels[0].set_yscale("log")
        panels[0].margins(y=0.2)
        panels[0].set_ylabel("divergence, nats a token\n(lower is better)")
        if scored:
            _draw_points(panels[1], scored, [point.token_f1 or 0.0 for point in scored], recommended, named=False)
            if reference_f1 is not None:
                panels[1].axhline(reference_f1, color=INK, linewidth=1.2, linestyle="--", label="in Python")
                limit = f"{lost_f1:g} less: as much may be lost"
                panels[1].axhline(reference_f1 - lost_f1, color=ALARM, linewidth=1.2, linestyle=":", label=limit)
            panels[1].margins(y=0.25)
            panels[1].set_ylabel("token F1 of the answers\n(higher is better)")
            panels[1].legend(loc="center right")
        panels[-1].set_xscale("log")
        panels[-1].margins(x=0.12)
        _label_sizes(panels[-1], [point.megabytes for point in points])

    atomic_write(path, render(title, draw))


def _draw_points(
    ax: Axes, points: Sequence[SizePoint], heights: Sequence[float], recommended: str | None, *, named: bool
) -> None:
    for point, height in zip(points, heights, strict=True):
        colour = ALARM if not point.is_sound else BEST if point.name == recommended else TRAIN
        marker = "x" if not point.is_sound else "*" if point.name == recommended else "o"
        size = 15 if marker == "*" else 8
        label = {"*": "recommended", "x": "failed"}.get(marker)
        known = ax.get_legend_handles_labels()[1]
        ax.plot(
            point.megabytes,
            height,
            marker,
            color=colour,
            markersize=size,
            zorder=4,
            label=label if label not in known else None,
        )
        if named:  # what is smaller has lost more: over a point, to the right, there is room, but for the largest
            is_last = point.megabytes == max(other.megabytes for other in points)
            ax.annotate(
                point.name,
                (point.megabytes, height),
                (0, 10) if is_last else (6, 6),
                textcoords="offset points",
                ha="right" if is_last else "left",
                rotation=0 if is_last else 25,
                rotation_mode="anchor",
                color=INK,
                fontsize=9,
                parse_math=False,
            )


def _label_sizes(ax: Axes, sizes: Sequence[float]) -> None:
    """The axis names sizes that are there; those that would lie on each other once."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shown: list[float] = []
    span = max(sizes) / min(sizes)
    for size in sorted(sizes):
        if not shown or size / shown[-1] > span**0.06:
            shown.append(size)
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}"))
    ax.set_xlabel("size, MB")
