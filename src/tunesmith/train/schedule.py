"""Learning-rate schedules: pure functions of the step, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    """Half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _constant(progress: float) -> float:
    return 1.0


# progress 0..1 after warm-up -> share of the way from the floor to the peak
SHAPES: Mapping[str, Callable[[float], float]] = {"linear": _linear, "cosine": _cosine, "constant": _constant}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up from peak / warmup_steps to the peak, then `shape` down to peak * floor at the last step."""

    shape: str
    peak: float
    total_steps: int
    warmup_steps: int
    floor: float = 0.0

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        span = max(1, self.total_steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        return self.peak * (self.floor + (1.0 - self.floor) * SHAPES[self.shape](progress))
