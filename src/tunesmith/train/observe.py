"""What the loop tells the outside: events, and the observer that writes them to the run's metrics log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.runs import MetricsLog

EventKind = Literal["start", "train", "eval", "saving", "checkpoint", "best", "early_stop", "end"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened after `step` of `total_steps` optimizer steps. `values` are plain numbers and texts."""

    kind: EventKind
    step: int
    total_steps: int
    values: Mapping[str, float | int | str | None]


Observer = Callable[[Event], None]


def log_metrics(log: MetricsLog) -> Observer:
    """An observer that appends every training and evaluation event to metrics.jsonl.

    At the start it drops lines after the step that training resumes from, so no step is missing or twice.
    """

    def observe(event: Event) -> None:
        if event.kind == "start":
            log.truncate_after(event.step)
        elif event.kind == "saving":
            log.sync()  # a checkpoint never outlives the lines before it
        elif event.kind in ("train", "eval"):
            log.append({"step": event.step, "kind": event.kind, **event.values})

    return observe
