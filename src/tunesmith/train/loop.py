"""The one training loop. Methods, schedules, validation, observers and stopping come in as arguments.

Loss = sum of negative log-likelihood / number of supervised tokens over the whole accumulation window, so that 8x1, 4x2
and 2x4 batches take the same step. Knows nothing of files, templates or configuration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.data import StepPlan, batches
from tunesmith.errors import TrainingError
from tunesmith.model import token_nll
from tunesmith.train.checkpoint import Checkpoints, TrainingState
from tunesmith.train.observe import Event, EventKind, Observer
from tunesmith.train.optimizer import build_optimizer
from tunesmith.train.signals import StopRequest
from tunesmith.types import Encoded

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How a step is computed and how often the loop looks up.

    schedule: learning rate of each step. autocast: context that every forward pass is computed in.
    tokens_per_batch: most tokens of a forward pass.
    patience: validations without a gain over `threshold` before stopping early.
    """

    schedule: Callable[[int], float]
    autocast: Autocast
    tokens_per_batch: int
    optimizer: str
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    eval_steps: int
    save_steps: int
    patience: int | None
    threshold: float


def fit(
    model: nn.Module,
    rows: Sequence[Encoded],
    *,
    plan: StepPlan,
    settings: LoopSettings,
    checkpoints: Checkpoints,
    validate: Callable[[], float] | None = None,
    observers: Sequence[Observer] = (),
    stop: StopRequest | None = None,
) -> TrainingState:
    """Train until the plan ends, validation stops improving, or `stop` is asked for; resume where checkpoints left off.

    Args:
        model: trainable parameters have requires_grad; it is left in training mode.
        plan: which rows each step sees.
        validate: mean validation loss in nats per token.
        stop: checked after every step; the state is saved before the loop returns.

    Returns:
        The state after the last step; `step < plan.total_steps` when it was stopped.

    Raises:
        TrainingError: a loss or gradient is not finite; nothing of that step was applied.
    """
    optimizer = build_optimizer(model, settings.optimizer, weight_decay=settings.weight_decay, betas=settings.betas)
    state = checkpoints.restore(model, optimizer) or TrainingState()

    def tell(kind: EventKind, **values: float | int | str | None) -> None:
        for observe in observers:
            observe(Event(kind, state.step, plan.total_steps, values))

    tell("start", resumed_from=state.step)
    model.train()
    while state.step < plan.total_steps and not state.stopped_early:
        started = time.perf_counter()
        window = plan.rows_of(state.step).tolist()
        rate = settings.schedule(state.step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(
            _step_seed(plan.seed, state.step)
        )  # dropout: a function of the step, so resume needs no RNG state
        try:
            loss, norm = _accumulate(model, rows, window, settings=settings, step=state.step)
        except TrainingError:
            state.step += 1
            tell("train", loss=math.nan, learning_rate=rate)  # seen in the log and the pictures, never smoothed away
            raise
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        tokens = sum(len(rows[index]) for index in window)
        seconds = time.perf_counter() - started
        state.tokens += tokens
        state.seconds += seconds
        tell(
            "train",
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=tokens,
            tokens_per_second=tokens / seconds,
            epoch=plan.epoch_at(state.step),
            seconds=state.seconds,
        )

        stopping = stop is not None and stop.signal_number is not None
        last = state.step == plan.total_steps
        is_best = False
        if validate is not None and (state.step % settings.eval_steps == 0 or last) and not stopping:
            started = time.perf_counter()
            validation_loss = validate()
            model.train()
            state.seconds += time.perf_counter() - started
            is_best = _judge(state, validation_loss, settings)
            tell("eval", validation_loss=validation_loss, epoch=plan.epoch_at(state.step), seconds=state.seconds)
        if is_best or stopping or last or state.stopped_early or state.step % settings.save_steps == 0:
            tell("saving")
            folder = checkpoints.save(model, optimizer, state)
            tell("checkpoint", path=str(folder))
        if is_best:
            tell("best", validation_loss=state.best_loss)
        if state.stopped_early:
            tell("early_stop", best_step=state.best_step, validation_loss=state.best_loss)
        if stopping:
            break
    tell("end")
    return state


def _accumulate(
    model: nn.Module,
    rows: Sequence[Encoded],
    window: Sequence[int],
    *,
    settings: LoopSettings,
    step: int,
) -> tuple[float, float]:
    """Gradient of the window's mean token loss into `.grad`, clipped. Returns the loss and the norm before clipping."""
    targets = sum(rows[index].target_tokens for index in window)
    device = next(model.parameters()).device
    total = 0.0
    for batch in batches(rows, rows=window, tokens=settings.tokens_per_batch, device=device):
        with settings.autocast():
            loss = token_nll(model, batch).sum() / targets
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {step + 1}",
                cause=f"in the batch with rows {', '.join(map(str, sorted(batch.rows)))}",
                fix="lower train.learning_rate, or look at these rows",
            )
        loss.backward()
        total += value
    limit = settings.max_grad_norm or math.inf
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], limit).item()
    if not math.isfinite(norm):
        raise TrainingError(
            f"the gradient is not finite at step {step + 1}",
            cause=f"in rows {', '.join(str(rows[index].row) for index in window)}",
            fix="lower train.learning_rate, or set train.max_grad_norm to 1",
        )
    return total, norm


def _judge(state: TrainingState, validation_loss: float, settings: LoopSettings) -> bool:
    """Record a validation. True when it is the best so far; NaN never is. Equal losses keep the earlier step."""
    previous = math.inf if state.best_loss is None else state.best_loss
    is_best = validation_loss < previous
    gained = validation_loss < previous - settings.threshold
    if is_best:
        state.best_loss, state.best_step = validation_loss, state.step
    state.evaluations_without_gain = 0 if gained else state.evaluations_without_gain + 1
    if settings.patience is not None and state.evaluations_without_gain >= settings.patience:
        state.stopped_early = True
    return is_best


def _step_seed(seed: int, step: int) -> int:
    """A 63-bit seed for every step; multiplying by an odd constant spreads neighbours (Steele et al. 2014)."""
    return ((seed << 32) + step) * 0x9E3779B97F4A7C15 % (1 << 63)
