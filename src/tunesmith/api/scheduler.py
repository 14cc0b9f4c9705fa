"""`AdvancedLRScheduler` and `create_mlx_compatible_scheduler`: the schedules of this project for loops of one's own.

scheduler = AdvancedLRScheduler({"max_steps": 2000})
scheduler.get_learning_rate(500), scheduler.get_phase_info()["phase_name"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.config import RunConfig, load_config
from tunesmith.errors import SettingsError
from tunesmith.optional import need
from tunesmith.train import schedule_for

RECIPE = "three-phases"


class AdvancedLRScheduler:
    """Learning rate and phase of every step. It has no state but the step that was asked for last.

    Args:
        config: settings by our names or anybody's ({"iters": 2000, "schedule": ...}), the path of a file of them, or a
            RunConfig. Where they name no schedule, it is that of the recipe three-phases.

    Raises:
        SettingsError: a setting is wrong, or the number of steps or the peak of the rate is not given.
    """

    def __init__(self, config: RunConfig | Mapping[str, object] | str | Path) -> None:
        resolved = _resolved(config)
        train = resolved.train
        problems = []
        if train.max_steps is None:
            problems.append("there is no number of steps: give max_steps")
        if train.learning_rate is None and train.schedule != "phases":
            problems.append(f"schedule {train.schedule} has no peak: give learning_rate")
        if problems:
            raise SettingsError(
                "the learning rate of a step cannot be told:",
                problems=tuple(problems),
                fix=f"AdvancedLRScheduler({{'max_steps': 2000}}) takes the recipe {RECIPE}",
            )
        self.total_steps = int(train.max_steps or 0)
        self._schedule = schedule_for(resolved, self.total_steps)
        self._step = 0

    def get_learning_rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0. After the last step it stays where it ends.

        Raises:
            SettingsError: `step` is negative.
        """
        if step < 0:
            raise SettingsError(f"there is no step {step}", fix="steps are counted from 0")
        self._step = step
        return self._schedule(step)

    def get_phase_info(self, step: int | None = None) -> dict[str, object]:
        """Where a step is: by default the one that `get_learning_rate` was asked for last, at first step 0.

        Returns:
            phase_name, phase_index (from 0), start_step, end_step (the step after its last), progress (0 to 1 within
            the phase), step, total_steps and learning_rate.

        Raises:
            SettingsError: `step` is negative.
        """
        step = self._step if step is None else step
        rate = self.get_learning_rate(step)
        spans = self._schedule.spans()
        index = next((index for index, span in enumerate(spans) if step < span.end), len(spans) - 1)
        span = spans[index]
        return {
            "phase_name": span.name,
            "phase_index": index,
            "start_step": span.first,
            "end_step": span.end,
            "progress": min(1.0, (step - span.first) / (span.end - span.first)),
            "step": step,
            "total_steps": self.total_steps,
            "learning_rate": rate,
        }


def create_mlx_compatible_scheduler(
    config: RunConfig | Mapping[str, object] | str | Path,
) -> Callable[[Any], Any]:
    """The same schedule as a function that `mlx.optimizers` take for `learning_rate`, also inside mx.compile.

    It maps the step, an mx.array without dimensions, to the rate, an mx.array of the same kind.

    The rates are computed once, in float32, and looked up by step: MLX calls the function with an array that has no
    value yet when a training step is compiled. Needs the extra mlx.

    Raises:
        SettingsError: as AdvancedLRScheduler. ResourceError: mlx is not installed.
    """
    scheduler = AdvancedLRScheduler(config)
    mx = need("mlx.core", extra="mlx")
    last = scheduler.total_steps
    rates = mx.array([scheduler.get_learning_rate(step) for step in range(last + 1)], dtype=mx.float32)

    def rate_of(step: Any) -> Any:
        return rates[mx.minimum(step, last)]

    return rate_of


def _resolved(config: RunConfig | Mapping[str, object] | str | Path) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    load = (
        partial(load_config, file=config) if isinstance(config, (str, Path)) else partial(load_config, overrides=config)
    )
    loaded = load()
    return loaded if loaded.origin("train.schedule") != "default" else load(recipe=RECIPE)
