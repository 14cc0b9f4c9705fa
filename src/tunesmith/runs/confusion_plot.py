"""Which label was given for which, as a picture: a square of shares with the right labels on the left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.runs.atomic import atomic_write
from tunesmith.runs.plots import INK, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LABELS = 100  # more names cannot be read
_MOST_NUMBERS = 25  # from here on the squares have no room for numbers
_LONGEST_NAME = 40


def plot_confusion(
    path: Path, labels: Sequence[str], counts: Sequence[Sequence[int]], *, title: str, subtitle: str
) -> None:
    """Write a PNG. Colours are shares of a line, so that a rare label is as visible as a frequent one.

    Args:
        counts: counts[i][j] rows of label i were given label j. Of more than a hundred labels the hundred with most
            mistakes are drawn.

    Raises:
        ResourceError: it cannot be written.
    """
    shown = _most_mistaken(counts)
    if len(shown) < len(labels):
        subtitle += f"  ·  the {len(shown)} labels with most mistakes of {len(labels)}"
    names = [_short(labels[index]) for index in shown]
    totals = [max(1, sum(counts[index])) for index in shown]
    shares = [[counts[i][j] / total for j in shown] for i, total in zip(shown, totals, strict=True)]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        size = max(4.0, min(11.0, 330 / len(names)))
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
        ax.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_xlabel("label given")
        ax.set_ylabel("right label")
        ax.set_title(subtitle, loc="left", fontsize=10.5, color=INK, parse_math=False)
        if len(names) <= _MOST_NUMBERS:
            for line, i in enumerate(shown):
                for place, j in enumerate(shown):
                    if counts[i][j]:
                        color = "white" if shares[line][place] > 0.5 else INK
                        ax.text(place, line, f"{counts[i][j]:,}", ha="center", va="center", fontsize=size, color=color)
        bar = figure.colorbar(image, ax=ax, shrink=0.6)
        bar.set_label("share of the rows with that right label")

    side = max(7.0, min(18.0, 3 + 0.19 * len(names)))
    atomic_write(path, render(title, draw, size=(side + 1.5, side)))


def _most_mistaken(counts: Sequence[Sequence[int]]) -> list[int]:
    """Places of the labels to draw, in their order: those that were most often missed or wrongly given."""
    places = range(len(counts))
    if len(counts) <= _MOST_LABELS:
        return list(places)
    mistakes = [sum(counts[i]) + sum(row[i] for row in counts) - 2 * counts[i][i] for i in places]
    return sorted(sorted(places, key=lambda i: -mistakes[i])[:_MOST_LABELS])


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 3]}..."
