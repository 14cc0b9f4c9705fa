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


def _inverse_of_root(progress: float) -> float:
    """1 - sqrt(x), the cooldown that lost least in Hägele et al. 2024 (arXiv:2405.18392, section 4)."""
    return 1.0 - math.sqrt(progress)


# progress 0..1 through the falling part -> share of the way from the floor to the peak
SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
    "warmup_stable_decay": _inverse_of_root,
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up from peak / warmup_steps to the peak, then `shape` down to peak * floor at the last step.

    The rate stays at the peak until the last `decay_ratio` of the steps after warm-up; 1 starts to fall at once.
    """

    shape: str
    peak: float
    total_steps: int
    warmup_steps: int
    floor: float = 0.0
    decay_ratio: float = 1.0

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        span = max(1, self.total_steps - self.warmup_steps)
        remaining = 1.0 - min(1.0, (step - self.warmup_steps) / span)
        progress = 1.0 - min(1.0, remaining / self.decay_ratio)
        return self.peak * (self.floor + (1.0 - self.floor) * SHAPES[self.shape](progress))
