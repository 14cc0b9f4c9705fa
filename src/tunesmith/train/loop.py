"""The one training loop. Methods, schedules, validation, observers and stopping come in as arguments.

Loss = sum of negative log-likelihood / number of supervised tokens over the whole accumulation window, so that 8x1, 4x2
and 2x4 batches take the same step. Knows nothing of files, templates or configuration. What follows a NaN is decided in
health, how much is computed at once in budget; a stop is answered between two steps.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from tunesmith.data import RowPlan, batches, collate
from tunesmith.errors import ResourceError
from tunesmith.model import Lanes, memory_errors, seeded_dropout, token_nll
from tunesmith.train.budget import MEMORY_FIX, MicroBatches, within_memory
from tunesmith.train.checkpoint import Checkpoints, TrainingState
from tunesmith.train.device import ALONE, Processes
from tunesmith.train.ewc import Ewc
from tunesmith.train.health import NonFinite, Overflow, answer_to, raise_on_all, remembered, spike, with_loss_scale
from tunesmith.train.observe import Event, EventKind, Observer
from tunesmith.train.optimizer import build_optimizer
from tunesmith.train.schedule import Plateau
from tunesmith.train.signals import PutOff, StopRequest
from tunesmith.types import Batch, Encoded

Autocast = Callable[[], AbstractContextManager[object]]

_ODD = 0x9E3779B97F4A7C15  # multiplying by it spreads neighbours (Steele et al. 2014)


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How a step is computed and how often the loop looks up.

    schedule: learning rate of each step. autocast: context that every forward pass is computed in.
    tokens_per_batch: most tokens of a forward pass, fewer where memory runs out.
    patience: validations without a gain over `threshold` before stopping early. plateau: before the rate is lowered.
    processes: those that compute a step together. They take the same steps as one would.
    lanes: the passes of a step that are computed side by side. rate_factors: what the schedule's rate is multiplied by
    for groups of parameters. penalty: what is minimised beside the loss. loss_scale: what the loss of the first step is
    multiplied by for its backward pass.
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
    plateau: Plateau | None = None
    processes: Processes = ALONE
    lanes: Lanes = field(default_factory=Lanes)
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    penalty: Ewc | None = None
    loss_scale: float = 1.0


def fit(
    model: nn.Module,
    rows: Sequence[Encoded],
    *,
    plan: RowPlan,
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
        validate: mean validation loss in nats per token. It may raise PutOff when `stop` is asked for.
        observers: of several processes, the first has them.
        stop: checked after every step; the state is saved before the loop returns. One process that is asked stops all.

    Returns:
        The state after the last step; `step < plan.total_steps`, or a validation is pending, when it was stopped.

    Raises:
        TrainingError: losses or gradients are not finite, and neither skipping nor rolling back helped.
        ResourceError: a single row does not fit into memory, or the last state cannot be saved.
        SettingsError: the checkpoints belong to another run.
    """
    processes = settings.processes
    optimizer = build_optimizer(
        model,
        settings.optimizer,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        rate_factors=settings.rate_factors,
    )
    state = checkpoints.restore(model, optimizer) or TrainingState()
    most = min(settings.tokens_per_batch, state.tokens_per_batch or settings.tokens_per_batch)
    lanes = 1 if state.one_lane else settings.lanes.count
    micro = MicroBatches(most, longest=max(map(len, rows)), lanes=lanes)

    def tell(kind: EventKind, **values: float | int | str | None) -> None:
        for observe in observers:
            observe(Event(kind, state.step, plan.total_steps, values))

    def tell_notices() -> None:
        while checkpoints.messages:
            tell("notice", message=checkpoints.messages.pop(0))

    def stopping() -> bool:
        if stop is None:
            return False
        stop.signal_number = processes.highest(stop.signal_number or 0) or None
        return stop.signal_number is not None

    def validated() -> float | None:
        try:
            return validate() if validate is not None else math.nan
        except PutOff:  # it stays pending
            return None

    def gradients(window: Sequence[int], scale: float) -> dict[str, float]:
        def attempt() -> tuple[float, NonFinite | None]:
            optimizer.zero_grad(set_to_none=True)  # nothing stays of an attempt that ran out of memory
            # dropout follows from the step: no RNG state to save
            seed = _step_seed(plan.seed, state.step, processes.rank)
            return _accumulate(
                model, rows, window, settings=settings, sizes=micro, step=state.step, seed=seed, scale=scale
            )

        def halved() -> None:
            state.tokens_per_batch, state.one_lane = micro.limit, micro.lanes < settings.lanes.count
            tell(
                "memory", message=f"out of memory: at most {micro.limit} tokens at once from here on, in the same steps"
            )

        total, problem = within_memory(micro, attempt, halved=halved, processes=processes)
        raise_on_all(problem, processes)
        processes.add_up(model)
        found = {"loss": processes.total([total])[0]}
        if settings.penalty is not None:  # once a step, after the sum over passes and processes
            found["penalty"] = settings.penalty.add_gradient(model)
        return {**found, "grad_norm": _clip(model, rows, window, settings=settings, step=state.step)}

    tell("start", resumed_from=state.step, validation_pending=state.validation_pending)
    tell_notices()
    model.train()
    if state.step < plan.total_steps and not state.stopped_early:
        # The longest rows first, and twice, so that the second pass meets the gradients of the first: if memory runs
        # out, it does so now and not hours from now.
        with suppress(NonFinite):  # if these rows are bad, the step that they belong to will tell
            longest = _longest(rows, plan.rows_per_step, tokens=2 * micro.limit * processes.world)
            gradients(longest, state.loss_scale or settings.loss_scale)

    unsaved = False  # whether there is something that no checkpoint holds
    while True:
        is_best, before = False, (state.best_loss, state.best_step, state.anchor)
        started = time.perf_counter()
        validation_loss = validated() if state.validation_pending and not stopping() else None
        if validation_loss is not None:
            model.train()
            state.seconds += time.perf_counter() - started
            state.validation_pending = False
            is_best = _judge(state, validation_loss, settings)
            lowered = _lowered(state, settings.plateau) if state.step < plan.total_steps else {}
            epoch = plan.epoch_at(state.step)
            tell("eval", validation_loss=validation_loss, epoch=epoch, seconds=state.seconds, **lowered)
            if state.stopped_early:
                tell("early_stop", best_step=state.best_step, validation_loss=state.best_loss)
            unsaved = True
        leaving = stopping()
        ended = state.step == plan.total_steps or state.stopped_early
        is_planned = is_best or ended or state.step % settings.save_steps == 0
        if unsaved and (is_planned or leaving):
            if is_planned:
                state.anchor = state.step
            try:
                processes.first(lambda: tell("saving"))
                folder = checkpoints.save(model, optimizer, state)
            except ResourceError as error:
                if ended or leaving:
                    raise
                state.best_loss, state.best_step, state.anchor = before  # what was not saved cannot be gone back to
                tell("save_failed", message=f"step {state.step} is not saved, trying again later: {error.message}")
            else:
                unsaved = False
                tell("checkpoint", path=str(folder))
                if is_best:
                    tell("best", validation_loss=state.best_loss)
        if ended or leaving:
            break

        started = time.perf_counter()
        window = plan.rows_of(state.step).tolist()
        rate = settings.schedule(state.step) * state.rate_factor
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        try:
            found = with_loss_scale(state, settings.loss_scale, partial(gradients, window))
        except NonFinite as problem:
            answer = answer_to(state, model, processes)
            if answer == "roll back":
                state, failed = _rolled_back(checkpoints, model, optimizer, state, problem), state
                message = f"{problem.summary}: back to step {state.step}, at half the learning rate"
                pending = state.validation_pending
                tell("rollback", message=message, failed_step=failed.step + 1, validation_pending=pending)
                tell_notices()
                unsaved = False
                continue
            _advance(state, plan, settings, validates=validate is not None)
            message = f"{problem.summary}: {'step skipped' if answer == 'skip' else 'stopping'}"
            # seen in the log and the pictures, never smoothed away
            tell("train", loss=math.nan, learning_rate=rate, skipped=True, message=message)
            if answer == "stop":
                raise
            state.skipped = sorted({*state.skipped, state.step})
            unsaved = True
            continue
        with memory_errors("the optimizer's state", fix=MEMORY_FIX):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _advance(state, plan, settings, validates=validate is not None)
        unsaved = True
        tokens = sum(len(rows[index]) for index in window)
        seconds = time.perf_counter() - started
        state.tokens += tokens
        state.seconds += seconds
        jump = spike(found["loss"], state.recent_losses)
        news: dict[str, str | bool] = {"spike": True, "message": jump} if jump else {}
        state.recent_losses = remembered(state.recent_losses, found["loss"])
        tell(
            "train",
            **found,
            learning_rate=rate,
            tokens=tokens,
            tokens_per_second=tokens / seconds,
            epoch=plan.epoch_at(state.step),
            seconds=state.seconds,
            **news,
        )
    tell("end")
    return state


def _accumulate(
    model: nn.Module,
    rows: Sequence[Encoded],
    window: Sequence[int],
    *,
    settings: LoopSettings,
    sizes: MicroBatches,
    step: int,
    seed: int,
    scale: float,
) -> tuple[float, NonFinite | None]:
    """Gradient of the window's mean token loss, as far as this process's rows go, into `.grad`. The loss is multiplied
    by `scale` for the backward pass, and the gradient divided by it afterwards.

    Returns:
        Its part of the loss, and what was not finite, if anything.
    """
    processes = settings.processes
    targets = sum(rows[index].target_tokens for index in window)
    own = [window[position] for position in processes.share([len(rows[index]) for index in window])]
    lanes = settings.lanes.for_step(sum(len(rows[index]) for index in own)) if sizes.lanes > 1 else Lanes()
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.manual_seed(seed)  # what the model itself draws

    def compute(numbered: tuple[int, tuple[Batch, bool]]) -> tuple[float, Sequence[Tensor | None], Sequence[int]]:
        number, (batch, counts) = numbered
        # the same numbers in whatever lane, and however many there are
        with settings.autocast(), seeded_dropout((seed + number * _ODD) % (1 << 63)):
            loss = token_nll(model, batch).sum() / targets * counts
        value = loss.item()
        if not math.isfinite(value) and not processes.sharded:
            return value, (), batch.rows
        loss = loss * scale
        if lanes.count > 1:  # added up below, in the order of the batches
            return value, torch.autograd.grad(loss, trained, allow_unused=True), batch.rows
        loss.backward()
        return value, (), batch.rows

    total, problem = 0.0, None
    own_batches = batches(rows, rows=own, tokens=sizes.limit, lanes=lanes.count, device=device)
    passes = processes.even(own_batches, lambda: collate([rows[window[0]]], device))
    with closing(lanes.map(compute, enumerate(passes))) as results:
        for value, gradients, of_rows in results:
            if not math.isfinite(value):
                problem = problem or NonFinite(f"the loss is {value}", step + 1, of_rows)
                if not processes.sharded:
                    break
            for parameter, gradient in zip(trained, gradients, strict=False):
                if parameter.grad is None or gradient is None:
                    parameter.grad = parameter.grad if gradient is None else gradient
                else:
                    parameter.grad += gradient
            total += value
    for parameter in trained:
        if parameter.grad is not None and scale != 1:
            parameter.grad /= scale
    return total, problem


def _clip(
    model: nn.Module, rows: Sequence[Encoded], window: Sequence[int], *, settings: LoopSettings, step: int
) -> float:
    """Scale the gradients down to `max_grad_norm`, all together. Returns their norm before.

    Raises:
        Overflow: the norm is NaN or infinite.
    """
    limit = settings.max_grad_norm or math.inf
    total = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], limit)
    norm: float = settings.processes.one(total).item()
    if not math.isfinite(norm):
        problem = Overflow("the gradient is not finite", step + 1, [rows[index].row for index in window])
        raise settings.processes.echo(problem)
    return norm


def _advance(state: TrainingState, plan: RowPlan, settings: LoopSettings, *, validates: bool) -> None:
    """Count a step, and note whether a validation is due after it."""
    state.step += 1
    state.validation_pending = validates and (state.step % settings.eval_steps == 0 or state.step == plan.total_steps)


def _rolled_back(
    checkpoints: Checkpoints,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    problem: NonFinite,
) -> TrainingState:
    """The state at the last planned checkpoint, with what was learned since about bad steps and memory.

    Raises:
        NonFinite: `problem`, when no checkpoint is good.
    """
    optimizer.zero_grad(set_to_none=True)
    earlier = checkpoints.roll_back(model, optimizer, step=state.anchor or 0)
    if earlier is None:
        raise problem
    earlier.skipped, earlier.tokens_per_batch, earlier.one_lane = state.skipped, state.tokens_per_batch, state.one_lane
    earlier.rollbacks, earlier.rate_factor = state.rollbacks + 1, earlier.rate_factor / 2
    return earlier


def _longest(rows: Sequence[Encoded], count: int, *, tokens: int) -> list[int]:
    """Indices of the longest rows: `count` of them at most, and no more than it takes to fill `tokens`."""
    chosen: list[int] = []
    for index in heapq.nlargest(count, range(len(rows)), key=lambda index: len(rows[index])):
        if tokens <= 0:
            break
        chosen.append(index)
        tokens -= len(rows[index])
    return chosen


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


def _lowered(state: TrainingState, plateau: Plateau | None) -> dict[str, float | str]:
    """Lower the rate where a validation shows a plateau. Returns what there is to tell of it, nothing most times."""
    if plateau is None or state.stopped_early:
        return {}
    count, before = state.evaluations_without_gain, state.rate_factor
    state.rate_factor = plateau.rate_factor(before, without_gain=count)
    if state.rate_factor == before:
        return {}
    validations = "1 validation" if count == 1 else f"{count} validations"
    message = f"{validations} without gain: the rate is {state.rate_factor:.3g} of the schedule's from here on"
    return {"rate_factor": state.rate_factor, "message": message}


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed of a step in a process."""
    return (((seed << 32) + step) * _ODD + rank * 0xBF58476D1CE4E5B9) % (1 << 63)
