"""Learning-rate schedules: pure functions of the step, so a resumed run needs no scheduler state.

What depends on how the run goes, the reduction on a plateau, is a factor on top of them and kept in the run's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.config import Phase, RunConfig


@dataclass(frozen=True, slots=True)
class Span:
    """A named part of a schedule: the steps from `first` to before `end`."""

    name: str
    first: int
    end: int


def _linear(progress: float, schedule: Schedule) -> float:
    return 1.0 - progress


def _cosine(progress: float, schedule: Schedule) -> float:
    """Half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _constant(progress: float, schedule: Schedule) -> float:
    return 1.0


def _polynomial(progress: float, schedule: Schedule) -> float:
    return float((1.0 - progress) ** schedule.power)


def _inverse_sqrt(progress: float, schedule: Schedule) -> float:
    """sqrt(warm-up / step), the rate of Vaswani et al. 2017 (arXiv:1706.03762, section 5.3) with a free peak."""
    return 1.0 / math.sqrt(1.0 + progress * schedule.span / max(1, schedule.warmup_steps))


def _inverse_of_root(progress: float, schedule: Schedule) -> float:
    """1 - sqrt(x), the cooldown that lost least in Hägele et al. 2024 (arXiv:2405.18392, section 4)."""
    return 1.0 - math.sqrt(progress)


# progress 0..1 through the falling part -> share of the way from the floor to the peak
SHAPES: Mapping[str, Callable[[float, Schedule], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "constant": _constant,
    "warmup_stable_decay": _inverse_of_root,
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up from peak / warmup_steps to the peak, then `shape` down to peak * floor, which the step after the last
    would have.

    The rate stays at the peak until the last `decay_ratio` of the steps after warm-up; 1 starts to fall at once.
    inverse_sqrt comes down to wherever its formula leads. power: of a polynomial.
    """

    shape: str
    peak: float
    total_steps: int
    warmup_steps: int
    floor: float = 0.0
    decay_ratio: float = 1.0
    power: float = 1.0

    @property
    def span(self) -> int:
        """Steps after warm-up, at least 1."""
        return max(1, self.total_steps - self.warmup_steps)

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        remaining = 1.0 - min(1.0, (step - self.warmup_steps) / self.span)
        progress = 1.0 - min(1.0, remaining / self.decay_ratio)
        return self.peak * (self.floor + (1.0 - self.floor) * SHAPES[self.shape](progress, self))

    def spans(self) -> list[Span]:
        """Warm-up, what comes after it, and where a plateau of the peak ends."""
        turn = self.total_steps - round(self.decay_ratio * self.span) if self.decay_ratio < 1 else self.warmup_steps
        parts = [
            Span("warm-up", 0, self.warmup_steps),
            Span("stable", self.warmup_steps, turn),
            Span("decay" if self.decay_ratio < 1 else self.shape, turn, self.total_steps),
        ]
        return [part for part in parts if part.end > part.first]


def _straight(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _exponential(start: float, end: float, progress: float) -> float:
    return float(start * (end / start) ** progress)


# rate at the start of a phase, at its end, progress 0..1 between them -> rate; a constant phase has equal ends
PHASE_SHAPES: Mapping[str, Callable[[float, float, float], float]] = {
    "linear": _straight,
    "cosine": _half_cosine,
    "exponential": _exponential,
    "constant": _straight,
}


@dataclass(frozen=True, slots=True)
class PhasedSchedule:
    """Phases one after the other, as the user wrote them. A phase begins at its own `from`, whatever came before.

    In a run of so few steps that a phase has none, the phase is left out.
    """

    phases: Sequence[Phase]
    total_steps: int

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0; after the last one, the last `to`.

        The first step of a phase has its `from` (after warm-up), and the first step after it would have its `to`.
        """
        if step >= self.total_steps:
            return self.phases[-1].end
        phase, span = next((phase, span) for phase, span in self._pairs() if step < span.end)
        length, done = span.end - span.first, step - span.first
        warmup = round(phase.warmup * length)
        if done < warmup:
            return phase.start * (done + 1) / warmup
        return PHASE_SHAPES[phase.shape](phase.start, phase.end, (done - warmup) / (length - warmup))

    def spans(self) -> list[Span]:
        """The steps of each phase."""
        return [span for _, span in self._pairs()]

    def _pairs(self) -> list[tuple[Phase, Span]]:
        ends = [round(phase.until * self.total_steps) for phase in self.phases]
        firsts = [0, *ends[:-1]]
        return [
            (phase, Span(phase.name, first, end))
            for phase, first, end in zip(self.phases, firsts, ends, strict=True)
            if end > first
        ]


@dataclass(frozen=True, slots=True)
class Plateau:
    """Reduction on a plateau, on top of any schedule. It keeps nothing: what it needs is in the run's state.

    patience: validations without gain before each reduction. factor: what the rate is then multiplied by.
    floor: the share of the schedule's rate that it goes no lower than.
    """

    patience: int
    factor: float
    floor: float

    def rate_factor(self, current: float, *, without_gain: int) -> float:
        """What the schedule's rate is multiplied by after so many validations in a row without gain.

        As torch's ReduceLROnPlateau, which begins to count anew at a reduction. A factor that is below the floor for
        another reason stays.
        """
        if without_gain == 0 or without_gain % self.patience:
            return current
        return min(current, max(self.floor, current * self.factor))


def schedule_for(config: RunConfig, total_steps: int) -> Schedule | PhasedSchedule:
    """The learning-rate schedule of a run.

    Raises:
        ValueError: `train.learning_rate` is still open, which it may be for phases only.
    """
    train = config.train
    if train.schedule == "phases":
        return PhasedSchedule(train.phases, total_steps)
    if train.learning_rate is None:
        raise ValueError("train.learning_rate is still open: resolve_settings comes first")
    warmup = train.warmup_steps if train.warmup_steps is not None else round(train.warmup_ratio * total_steps)
    return Schedule(
        train.schedule,
        peak=train.learning_rate,
        total_steps=total_steps,
        warmup_steps=min(warmup, total_steps),
        floor=train.min_lr_ratio,
        decay_ratio=train.decay_ratio if train.schedule == "warmup_stable_decay" else 1.0,
        power=train.power,
    )
