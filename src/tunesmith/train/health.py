"""What to do when a loss or gradient is not finite, and which loss stands out. Decides; the loop acts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal, TypeVar

from torch import nn

from tunesmith.errors import TrainingError
from tunesmith.train.checkpoint import TrainingState
from tunesmith.train.device import ALONE, Processes

Found = TypeVar("Found")
Answer = Literal["skip", "roll back", "stop"]

_COMPARED_LOSSES = 32
_FEWEST_LOSSES = 8
_SPIKE_DEVIATIONS = 8.0
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_SMALLEST_SPREAD = 0.02  # as a share of the median: losses that hardly differ have no spikes of a hundredth
_HIGHEST_SCALE = 2.0**16  # with as many tokens in a step, each has the gradient that it has by itself
_STEPS_TO_RAISE = 2000


class NonFinite(TrainingError):
    """A loss or gradient is NaN or infinite. Raised before the optimizer step, so nothing of it was applied."""

    def __init__(self, what: str, step: int, rows: Sequence[int]) -> None:
        self.what, self.step, self.rows = what, step, list(rows)
        super().__init__(
            f"{what} at step {step}",
            cause=f"in source row{'s' if len(rows) > 1 else ''} {', '.join(map(str, sorted(rows)))}",
            fix="look at these rows, or lower train.learning_rate",
        )

    @property
    def summary(self) -> str:
        """What and where in one line."""
        return f"{self.message} {self.cause}"


class Overflow(NonFinite):
    """The gradient is NaN or infinite and the loss is not: with the loss scaled less the gradient may be finite."""


def with_loss_scale(state: TrainingState, first: float, compute: Callable[[float], Found]) -> Found:
    """`compute(scale)` for a step, tried again at half the scale for as long as the gradient overflows.

    What fits is remembered, and doubled after 2,000 steps in which it did: the numbers of torch.amp.GradScaler, which
    leaves out a step that overflows, as Micikevicius et al. 2018 do (arXiv:1710.03740, section 3.2). Here it is
    computed, and a power of two changes no digit, so the run is one without overflow.

    Args:
        first: what the run begins with; 1 where nothing is scaled.

    Raises:
        Overflow: at scale 1 too; the scale stays what it was.
    """
    before = scale = state.loss_scale or first
    while True:
        try:
            found = compute(scale)
            break
        except Overflow:
            if scale <= 1:
                raise
        scale /= 2
    if first != 1:
        state.scaled_steps = state.scaled_steps + 1 if scale == before else 1
        if state.scaled_steps >= _STEPS_TO_RAISE and scale < _HIGHEST_SCALE:
            scale, state.scaled_steps = 2 * scale, 0
        state.loss_scale = scale
    return found


def raise_on_all(problem: NonFinite | None, processes: Processes) -> None:
    """Raise the problem of the first process that has one, on every process.

    Raises:
        NonFinite: there is one.
    """
    own = json.dumps([problem.what, problem.step, problem.rows]) if problem else ""
    texts = [text for text in processes.exchange(own) if text]
    if texts:
        raise processes.echo(NonFinite(*json.loads(texts[0])))


def answer_to(state: TrainingState, model: nn.Module, processes: Processes = ALONE) -> Answer:
    """What follows a step from `state` that was not finite.

    The first such step of a run is skipped, and skipped again when it is met again. The second, or one with weights
    that are not finite themselves, sends the run back to the last checkpoint at half the learning rate. The next, or
    one without a checkpoint, ends it.
    """
    is_new = bool(state.skipped) and state.step + 1 not in state.skipped
    if not is_new and processes.all_finite(p for p in model.parameters() if p.requires_grad):
        return "skip"
    return "roll back" if state.rollbacks == 0 and state.anchor is not None else "stop"


def spike(loss: float, recent: Sequence[float]) -> str | None:
    """A sentence when `loss` is far above the recent ones, else None.

    Far is 8 standard deviations over the median, estimated from the median absolute deviation (Hampel 1974), which
    earlier spikes do not move.
    """
    if len(recent) < _FEWEST_LOSSES:
        return None
    middle = median(recent)
    deviation = _MAD_TO_SIGMA * median(abs(value - middle) for value in recent)
    if loss <= middle + _SPIKE_DEVIATIONS * max(deviation, _SMALLEST_SPREAD * abs(middle)):
        return None
    return f"the loss jumped to {loss:.4g}, {middle:.4g} was usual"


def remembered(recent: Sequence[float], loss: float) -> list[float]:
    """The losses that the next one is compared with."""
    return [*recent, loss][-_COMPARED_LOSSES:]
