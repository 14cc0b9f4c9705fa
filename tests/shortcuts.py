"""What tests do without, since they look at something else: rendered pictures, and writes that reach the disk."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTjA8gAAAABJRU5ErkJggg=="
)


def draw_only(title: str, draw: Callable[[Figure], None], *, size: tuple[float, float] = (10, 7)) -> bytes:
    """In place of plots.render, which takes most of the time of a small run: all is drawn, and nothing laid out."""
    from matplotlib.figure import Figure

    draw(Figure(figsize=size))
    return _PIXEL


def stay_in_memory(descriptor: int) -> None:
    """In place of os.fsync: what a killed process wrote is kept without it, and no test cuts the power."""
