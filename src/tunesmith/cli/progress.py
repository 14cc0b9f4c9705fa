"""Progress of training and of an evaluation, on standard error: a moving bar on a terminal, else one line now and then.

Observers of the training loop: they see its events and know nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tunesmith.cli.streams import live, unread
from tunesmith.cli.terminal import console, count_text, seconds_text, tell

_LINES_PER_RUN = 10


class Event(Protocol):
    """What the loop tells: something happened after `step` of `total_steps`."""

    @property
    def kind(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def values(self) -> Mapping[str, float | int | str | None]: ...


Watch = Callable[[Event], None]


@contextmanager
def watch_training() -> Iterator[Watch]:
    """An observer for `api.train` and `api.pretrain` that shows how far they are."""
    if not live(sys.stderr):
        yield _Lines()
        return
    bar = _Bar()

    def observe(event: Event) -> None:
        with unread():
            bar(event)

    try:
        yield observe
    finally:
        with unread():
            bar.close()


_TIMED_STEPS = 2  # after which the time of the rest is worth telling; the first is slower than others


class _Pace:
    """Seconds left, from the wall clock since the first event: validations and checkpoints are in it."""

    def __init__(self, first_step: int) -> None:
        self._started = time.monotonic()
        self._first_step = first_step

    def seconds_left(self, event: Event) -> float | None:
        done = event.step - self._first_step
        if not done:
            return None
        return (time.monotonic() - self._started) / done * (event.total_steps - event.step)


def _number(event: Event, name: str) -> float | None:
    value = event.values.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _news(event: Event) -> str | None:
    """What is worth a line of its own whatever else is shown."""
    message = event.values.get("message")
    if isinstance(message, str):
        return f"step {event.step}: {message}" if event.kind == "train" else message
    if event.kind == "start" and event.step:
        return f"resumed after step {event.step} of {event.total_steps}"
    if event.kind == "early_stop":
        loss = _number(event, "validation_loss")
        best = f" ({loss:.4f})" if loss is not None else ""
        return (
            f"stopped early after step {event.step} of {event.total_steps}: the validation loss has not improved "
            f"since step {event.values.get('best_step')}{best}"
        )
    return None


class _Lines:
    """One line at every validation and about ten in a run, for logs and pipes; in a long run one soon, for its time."""

    def __init__(self) -> None:
        self._pace = _Pace(0)
        self._printed_at = self._started_at = 0
        self._train: Event | None = None  # held back until it is clear that no validation of the same step follows

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self._pace = _Pace(event.step)
            self._printed_at = self._started_at = event.step
        if event.kind == "eval":
            self._print(self._train or event, validation=_number(event, "validation_loss"))
        elif self._train is not None and event.kind != "best":
            due = (self._train.step - self._printed_at) * _LINES_PER_RUN >= self._train.total_steps
            if due or (event.kind == "end" and self._train.step != self._printed_at):
                self._print(self._train, validation=None)
        if event.kind == "train":
            self._train = event
            if event.step - self._started_at == _TIMED_STEPS and event.total_steps > _LINES_PER_RUN * _TIMED_STEPS:
                self._print(event, validation=None)
                self._printed_at = self._started_at
        news = _news(event)
        if news:
            tell(news)

    def _print(self, event: Event, *, validation: float | None) -> None:
        width = len(str(event.total_steps))
        parts = [f"step {event.step:{width}d}/{event.total_steps}"]
        loss, rate, left = _number(event, "loss"), _number(event, "tokens_per_second"), self._pace.seconds_left(event)
        if loss is not None:
            parts.append(f"loss {loss:.4f}")
        if validation is not None:
            parts.append(f"validation {validation:.4f}")
        if rate is not None:
            parts.append(f"{count_text(rate)} tokens/s")
        if left:
            parts.append(f"{seconds_text(left)} left")
        tell("  ".join(parts))
        self._printed_at = event.step


class _Bar:
    """A live bar; losses and speed beside it."""

    def __init__(self) -> None:
        self._pace = _Pace(0)
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[loss]}", style="bold"),
            TextColumn("{task.fields[speed]}", style="dim"),
            TextColumn("{task.fields[left]}", style="cyan"),
            console=console(sys.stderr),
            expand=True,
        )
        self._task: Any = None
        self._losses: dict[str, float] = {}
        self._speeds: list[float] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self._pace = _Pace(event.step)
            self._task = self._progress.add_task(
                "", total=event.total_steps, completed=event.step, loss="", speed="", left=""
            )
            self._progress.start()
        for name, label in (("loss", "loss"), ("validation_loss", "val")):
            value = _number(event, name)
            if value is not None and event.kind in ("train", "eval"):
                self._losses[label] = value
        rate = _number(event, "tokens_per_second")
        if rate is not None:
            self._speeds = [*self._speeds[-19:], rate]
        left = self._pace.seconds_left(event)
        self._progress.update(
            self._task,
            completed=event.step,
            loss="  ".join(f"{label} {value:.3f}" for label, value in self._losses.items()),
            speed=f"{count_text(sum(self._speeds) / len(self._speeds))} tok/s" if self._speeds else "",
            left=f"{seconds_text(left)} left" if left else "",
        )
        news = _news(event)
        if news:
            self._progress.console.print(news)
        if event.kind == "end":
            self.close()

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()


class Bars:
    """`on_progress` for work in named parts: a bar for each on a terminal, else a line when one is done.

    Bars start with the first call, since training may be showing one of its own, and again after `stop`.
    """

    def __init__(self, *, unit: str, describe: Callable[[str], str], line: Callable[[str, int], str]) -> None:
        self._unit, self._describe, self._line = unit, describe, line
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if not live(sys.stderr):
            if done == total:
                tell(self._line(what, total))
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn(f"{{task.completed}}/{{task.total}}{self._unit}"),
                TimeElapsedColumn(),
                console=console(sys.stderr),
                expand=True,
            )
            self._progress.start()
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(self._describe(what), total=total)
        self._progress.update(self._tasks[what], completed=done)

    def stop(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks = None, {}


@contextmanager
def watch_evaluation() -> Iterator[Bars]:
    """`on_progress` for `api.evaluate` and `api.train`: answers written, by whom or to what."""
    bars = Bars(
        unit=" answers",
        describe=lambda who: f"asking {who}",
        line=lambda who, total: f"{total} answer{'s' if total > 1 else ''} by {who}",
    )
    try:
        yield bars
    finally:
        bars.stop()


@contextmanager
def watch_work() -> Iterator[Bars]:
    """`on_progress` for work in named stages, such as `api.export`."""
    bars = Bars(unit="", describe=lambda what: what, line=lambda what, total: what)
    try:
        yield bars
    finally:
        bars.stop()
