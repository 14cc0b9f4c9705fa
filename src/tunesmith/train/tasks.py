"""What a run of several data sets says of each: the rows it sees, and the validation loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tunesmith.data import StepPlan
from tunesmith.runs import TASK_LOSS
from tunesmith.train.observe import Event, Observer
from tunesmith.train.outcome import Likelihood, TaskPlan
from tunesmith.types import Encoded


def task_plans(plan: StepPlan) -> tuple[TaskPlan, ...]:
    """What a run sees of each group of its mixture; nothing without one."""
    if plan.mixture is None:
        return ()
    times = plan.times_seen()
    seen = [int(times[np.asarray(members)].sum()) for members in plan.mixture.members]
    return tuple(
        TaskPlan(name, len(members), count, count / sum(seen))
        for name, members, count in zip(plan.mixture.names, plan.mixture.members, seen, strict=True)
    )


@dataclass(slots=True)
class TaskLosses:
    """Validation task by task. `measure` gives the likelihood of rows; `latest` holds the loss of each task."""

    measure: Callable[[Sequence[Encoded]], Likelihood]
    latest: dict[str, float] = field(default_factory=dict)

    def mean(self, rows: Sequence[Encoded]) -> float:
        """Loss of all rows in nats per supervised token; of several tasks, `latest` has each one's."""
        by_task: dict[str | None, list[Encoded]] = {}
        for row in rows:
            by_task.setdefault(row.task, []).append(row)
        if len(by_task) == 1:
            return self.measure(rows).mean
        found = {task: self.measure(of_task) for task, of_task in by_task.items()}
        self.latest = {str(task): likelihood.mean for task, likelihood in found.items()}
        return sum(one.nll for one in found.values()) / sum(row.target_tokens for row in rows)

    def told_to(self, observe: Observer) -> Observer:
        """The observer, told the loss of each task with every validation."""

        def with_tasks(event: Event) -> None:
            if event.kind == "eval" and self.latest:
                losses = {f"{TASK_LOSS}{task}": loss for task, loss in self.latest.items()}
                event = replace(event, values={**event.values, **losses})
            observe(event)

        return with_tasks
