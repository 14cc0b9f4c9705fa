"""Easy rows first: which rows are there to draw from at each point of a run, and the order that comes of it.

Source: Platanios et al. 2019 (arXiv:1903.09848), competence-based curriculum: at step t rows are drawn from the
share c(t) of them that is easiest. Here they are drawn pass by pass and not with replacement, so that no row is left
out: as long as rows come in faster than they are drawn, as in a run of one epoch, each is seen once. Knows nothing of
files, tokens or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Pacing = Literal["linear", "root", "steps"]

_POWERS = {"linear": 1, "root": 2}
_STEPS = 5  # that pacing `steps` takes to all rows


@dataclass(frozen=True, slots=True, eq=False)
class Curriculum:
    """difficulties: of each row, in any unit; only their order counts.

    start: share of the rows, the easiest, at the beginning. until: share of the run after which all are there.
    """

    difficulties: tuple[float, ...]
    pacing: Pacing
    start: float
    until: float

    def competence(self, progress: float) -> float:
        """Share of the rows, easiest first, that is there at this share of the run.

        linear and root are equation 7 of the paper with p = 1 and 2: (t (1 - c0^p) + c0^p)^(1/p).
        """
        time = progress / self.until
        if time >= 1:
            return 1.0
        if self.pacing == "steps":
            return self.start + (1 - self.start) * math.floor(time * _STEPS + 1e-9) / _STEPS
        power = _POWERS[self.pacing]
        first = self.start**power
        share: float = (time * (1 - first) + first) ** (1 / power)
        return min(1.0, share)


class PacedRows:
    """Rows of one group in the order they are drawn in. Passes go over the rows that are there, and go on with those
    that come in meanwhile: nothing is drawn twice before all that is there was drawn once."""

    def __init__(self, rows: Sequence[int], curriculum: Curriculum, draw: np.random.Generator, *, least: int) -> None:
        """least: rows that are there from the beginning whatever the start, as many as one step has."""
        shuffled = draw.permutation(np.asarray(rows, dtype=np.int64))  # rows of the same difficulty: in any order
        order = np.argsort(np.asarray(curriculum.difficulties)[shuffled], kind="stable")
        self._ranked: list[int] = shuffled[order].tolist()
        self._curriculum = curriculum
        self._least = min(least, len(self._ranked))
        self._there = 0
        self._waiting: list[int] = []

    def take(self, progress: float, chance: float) -> int:
        """The next row at this share of the run; `chance`, from 0 to below 1, decides among those waiting."""
        wanted = math.ceil(self._curriculum.competence(progress) * len(self._ranked) - 1e-9)
        there = max(self._there, self._least, wanted)
        self._waiting += self._ranked[self._there : there]
        self._there = there
        if not self._waiting:
            self._waiting = self._ranked[:there]
        index = int(chance * len(self._waiting))
        self._waiting[index], self._waiting[-1] = self._waiting[-1], self._waiting[index]
        return self._waiting.pop()
