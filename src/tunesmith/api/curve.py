"""The learning rate of a run before it is trained: step by step, to be looked at.

Knows no model and no data: where the peak or the number of steps depends on these, the curve says what it assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.config import RunConfig
from tunesmith.train import Span, schedule_for

ASSUMED_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Curve:
    """A schedule drawn out: `rates[step]` for each optimizer step, counted from 0, and its named parts.

    is_share: the peak depends on a model that was not looked at, so rates are shares of it. is_assumed: the number of
    steps depends on data that were not looked at, so it is ASSUMED_STEPS. group_rates: groups of parameters
    with a peak of their own, as train.learning_rates has them; their curves have the same shape.
    """

    schedule: str
    rates: list[float]
    spans: list[Span]
    is_share: bool
    is_assumed: bool
    group_rates: dict[str, float | str]

    def to_json(self) -> dict[str, object]:
        """What `tunesmith schedule --json` prints."""
        return {
            "schedule": self.schedule,
            "total_steps": len(self.rates),
            "steps_are_assumed": self.is_assumed,
            "unit": "share of the peak" if self.is_share else "learning rate",
            "phases": [{"name": span.name, "first_step": span.first, "end_step": span.end} for span in self.spans],
            "group_rates": self.group_rates,
            "points": [
                {"step": step, "learning_rate": self.rates[step], "phase": span.name}
                for span in self.spans
                for step in range(span.first, span.end)
            ],
        }


def schedule_curve(config: RunConfig) -> Curve:
    """The rates that a run with these settings would have. The steps are `train.max_steps`, where that is set."""
    train = config.train
    is_share = train.learning_rate is None and train.schedule != "phases"
    if is_share:
        config = config.resolved("train.learning_rate", 1.0, "a share of the peak")
    steps = train.max_steps or ASSUMED_STEPS
    schedule = schedule_for(config, steps)
    rates = [schedule(step) for step in range(steps)]
    return Curve(
        train.schedule,
        rates,
        schedule.spans(),
        is_share=is_share,
        is_assumed=train.max_steps is None,
        group_rates=train.learning_rates,
    )
