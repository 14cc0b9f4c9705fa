"""Which rows every optimizer step sees: a pure function of (seed, step), so a resumed run needs only its step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StepPlan:
    """`rows` training rows, `rows_per_step` of them a step, `total_steps` steps, shuffled anew each epoch."""

    rows: int
    rows_per_step: int
    total_steps: int
    seed: int

    @classmethod
    def for_run(cls, rows: int, *, rows_per_step: int, epochs: float, max_steps: int | None, seed: int) -> StepPlan:
        """The plan of a run. The last step of an epoch may hold fewer rows; `max_steps` wins over `epochs`."""
        steps = max(1, math.ceil(epochs * math.ceil(rows / rows_per_step) - 1e-9))
        return cls(rows, rows_per_step, max_steps or steps, seed)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.rows_per_step)

    def epoch_at(self, step: int) -> float:
        """Passes over the data completed after `step` steps."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return whole + min(1.0, rest * self.rows_per_step / self.rows)

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """Indices of the rows of step `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.rows_per_step
        return _shuffled(self.rows, self.seed, epoch)[start : start + self.rows_per_step]


@lru_cache(maxsize=4)
def _shuffled(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)
