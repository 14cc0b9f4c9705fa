"""What the loop tells the outside: events, and the observer that writes them to the run's metrics log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import ResourceError
from tunesmith.runs import MetricsLog

# notice: something about the checkpoints; rollback: back to one after NaN; memory: a smaller micro-batch;
# save_failed: the disk. These four, and train events worth a line, have a `message`.
EventKind = Literal[
    "start", "train", "eval", "saving", "checkpoint", "best", "early_stop", "end",
    "notice", "rollback", "memory", "save_failed",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened after `step` of `total_steps` optimizer steps. `values` are plain numbers and texts."""

    kind: EventKind
    step: int
    total_steps: int
    values: Mapping[str, float | int | str | None]


Observer = Callable[[Event], None]


def log_metrics(log: MetricsLog) -> Observer:
    """An observer that appends what happened to metrics.jsonl.

    At the start and at a roll-back it drops lines after the step that training goes on from, so no step is missing or
    twice. What the disk refuses is kept and written with the next line; before a checkpoint it has to go through.

    Raises:
        ResourceError: at a `saving` event, lines cannot be written.
    """
    waiting: list[Mapping[str, object]] = []

    def write() -> None:
        while waiting:
            log.append(waiting[0])
            del waiting[0]

    def observe(event: Event) -> None:
        if event.kind in ("start", "rollback"):
            waiting.clear()
            log.truncate_after(event.step, validated=not event.values.get("validation_pending"))
        if event.kind == "saving":
            write()
            log.sync()  # a checkpoint never outlives the lines before it
        elif event.kind in ("train", "eval"):
            waiting.append({"step": event.step, "kind": event.kind, **event.values})
        elif event.kind in ("notice", "rollback", "memory", "save_failed"):
            message = event.values["message"]
            waiting.append({"step": event.step, "kind": "event", "event": event.kind, "message": message})
        with suppress(ResourceError):
            write()

    return observe
