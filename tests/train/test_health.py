"""NaN: skip once, go back once, then stop; and losses that stand out. In the loop, with bad steps planted."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tunesmith.data import StepPlan
from tunesmith.errors import TrainingError
from tunesmith.runs import MetricsLog
from tunesmith.train import fit, health, loop
from tunesmith.train.checkpoint import Checkpoints, TrainingState
from tunesmith.train.health import spike
from tunesmith.train.loop import LoopSettings
from tunesmith.train.observe import Event, log_metrics
from tunesmith.train.schedule import Plateau
from tunesmith.train.signals import StopRequest
from tunesmith.types import Batch, Encoded

ROWS = [Encoded(np.array([4, 5, 6, index]), np.ones(4, dtype=bool), row=index + 2) for index in range(24)]
STEPS = 12


class Bowl(torch.nn.Module):
    """Loss is the squared distance of two weights from the target of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[3.0, -2.0]]))


class Trial:
    """A run of 12 steps of 2 rows, saved every 3. `bad`: source rows whose loss is `value`.

    With a `plateau`, every validation (at 4, 8, 12) finds the same loss.
    """

    plateau: Plateau | None = None
    loss_scale = 1.0

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, bad: set[int], value: float = math.nan
    ) -> None:
        self.folder, self.bad, self.value, self.events = folder, bad, value, []
        self.weights_at: dict[int, list[float]] = {}
        self.plan = StepPlan(len(ROWS), 2, STEPS, seed=5)
        monkeypatch.setattr(loop, "token_nll", self.token_nll)

    def token_nll(self, model: Any, batch: Batch) -> torch.Tensor:
        rows = torch.tensor(batch.rows)[:, None] / 10.0
        factor = torch.tensor([[self.value if row in self.bad else 1.0] for row in batch.rows])
        return (factor * ((model.weight - rows) ** 2).sum(1, keepdim=True)).expand(-1, 3)

    def fit(self, *, stop_after: int | None = None) -> TrainingState:
        stop, model = StopRequest(), Bowl()

        def observe(event: Event) -> None:
            self.events.append(event)
            if event.kind == "train":
                self.weights_at[event.step] = model.weight.flatten().tolist()
                if event.step == stop_after:
                    stop.signal_number = 15

        self.folder.mkdir(exist_ok=True)
        settings = LoopSettings(
            schedule=lambda step: 0.1,
            autocast=nullcontext,
            tokens_per_batch=1,
            optimizer="adamw",
            weight_decay=0.0,
            betas=(0.9, 0.999),
            max_grad_norm=0.0,
            eval_steps=4,
            save_steps=3,
            patience=None,
            threshold=0.0,
            plateau=self.plateau,
            loss_scale=self.loss_scale,
        )
        return fit(
            model,
            ROWS,
            plan=self.plan,
            settings=settings,
            checkpoints=Checkpoints(self.folder / "checkpoints", identity={}, keep=2),
            validate=(lambda: 1.0) if self.plateau else None,
            observers=[log_metrics(self.log), observe],
            stop=stop,
        )

    @property
    def log(self) -> MetricsLog:
        return MetricsLog(self.folder / "metrics.jsonl")

    def row_of(self, step: int) -> int:
        """A source row that step `step`, counted from 1, sees."""
        return ROWS[int(self.plan.rows_of(step - 1)[0])].row

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def lines_without_time(trial: Trial) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in trial.log.read()]


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    """trial("name", bad_steps=[5]) -> a run in which a row of those steps is bad."""

    def make(name: str, *, bad_steps: list[int], value: float = math.nan) -> Trial:
        one = Trial(tmp_path / name, monkeypatch, bad=set(), value=value)
        one.bad = {one.row_of(step) for step in bad_steps}
        return one

    return make


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_bad_step_is_skipped_and_its_row_named(trial: Callable[..., Trial], value: float) -> None:
    one = trial("a", bad_steps=[5], value=value)
    state = one.fit()
    assert (state.step, state.skipped, state.rollbacks, state.rate_factor) == (STEPS, [5], 0, 1.0)
    assert one.weights_at[5] == one.weights_at[4]  # nothing of the step was applied
    assert one.weights_at[6] != one.weights_at[5]
    line = one.log.read("train")[4]
    assert (line["step"], line["loss"], line["nonfinite"], line["skipped"]) == (5, None, ["loss"], True)
    assert f"in source row {one.row_of(5)}: step skipped" in line["message"]


def test_the_second_sends_the_run_back_at_half_the_rate(trial: Callable[..., Trial]) -> None:
    one = trial("a", bad_steps=[5, 8])
    real = one.token_nll

    def bad_until_back(model: Any, batch: Batch) -> torch.Tensor:
        if one.told("rollback"):
            one.bad -= {one.row_of(8)}
        return real(model, batch)

    loop.token_nll = bad_until_back  # the fixture's monkeypatch puts the real one back
    state = one.fit()
    assert (state.step, state.skipped, state.rollbacks, state.rate_factor) == (STEPS, [5], 1, 0.5)
    assert one.told("rollback")[0].step == 6  # the last checkpoint before step 8
    lines = one.log.read("train")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["learning_rate"] for line in lines] == [0.1] * 6 + [0.05] * 6
    assert one.log.read("event")[0]["event"] == "rollback"
    for file in one.folder.rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())


def test_a_plateau_before_the_way_back_is_met_again_and_counts_once(trial: Callable[..., Trial]) -> None:
    one = trial("a", bad_steps=[5, 9])
    one.plateau = Plateau(patience=1, factor=0.5, floor=0.0)
    real = one.token_nll

    def bad_until_back(model: Any, batch: Batch) -> torch.Tensor:
        if one.told("rollback"):
            one.bad -= {one.row_of(9)}
        return real(model, batch)

    loop.token_nll = bad_until_back  # the fixture's monkeypatch puts the real one back
    state = one.fit()
    assert one.told("rollback")[0].step == 6
    assert [line["learning_rate"] for line in one.log.read("train")] == [0.1] * 6 + [0.05] * 2 + [0.025] * 4
    assert [line.get("rate_factor") for line in one.log.read("eval")] == [None, 0.25, None]  # nothing follows the last
    assert state.rate_factor == 0.25


def test_the_third_ends_it_and_everything_saved_is_finite(trial: Callable[..., Trial]) -> None:
    one = trial("a", bad_steps=[5, 8])
    with pytest.raises(TrainingError, match="the loss is nan at step 8") as caught:
        one.fit()
    assert caught.value.exit_code == 3
    assert str(one.row_of(8)) in str(caught.value.cause)
    assert [event.step for event in one.told("rollback")] == [6]
    assert one.log.read("train")[-1]["nonfinite"] == ["loss"]


def test_weights_that_are_nan_are_not_trained_on(trial: Callable[..., Trial]) -> None:
    one = trial("a", bad_steps=[])
    spoilt: list[int] = []
    real = one.token_nll

    def spoil(model: Any, batch: Batch) -> torch.Tensor:
        if len(one.told("train")) == 7 and not spoilt:
            spoilt.append(7)
            with torch.no_grad():
                model.weight[0, 0] = math.nan
        return real(model, batch)

    loop.token_nll = spoil
    state = one.fit()
    assert (state.step, state.skipped, state.rollbacks) == (STEPS, [], 1)
    assert one.told("rollback")[0].step == 6


@pytest.mark.parametrize("bad_steps", [[5], [2, 10], [5, 8]])
def test_stopped_and_resumed_at_every_step_is_the_same(trial: Callable[..., Trial], bad_steps: list[int]) -> None:
    whole, parts = trial("whole", bad_steps=bad_steps), trial("parts", bad_steps=bad_steps)

    def outcome(one: Trial, **stop: int) -> str:
        loop.token_nll = one.token_nll
        try:
            return f"step {one.fit(**stop).step}"
        except TrainingError as error:
            return str(error)

    ended = outcome(whole)
    for step in range(1, STEPS):
        assert outcome(parts, stop_after=step) in (f"step {step}", ended)
    assert outcome(parts) == ended
    kept = ("train", "eval")
    ours, theirs = ([line for line in lines_without_time(one) if line["kind"] in kept] for one in (parts, whole))
    assert ours == theirs
    shared = {path.relative_to(whole.folder) for path in whole.folder.rglob("*.safetensors")}
    shared &= {path.relative_to(parts.folder) for path in parts.folder.rglob("*.safetensors")}
    assert shared  # stops leave other checkpoints besides
    for name in shared:
        assert (whole.folder / name).read_bytes() == (parts.folder / name).read_bytes()


def test_a_gradient_that_overflows_is_computed_again_at_half_the_scale(trial: Callable[..., Trial]) -> None:
    plain, one = trial("plain", bad_steps=[]), trial("scaled", bad_steps=[])
    loop.token_nll = plain.token_nll
    plain.fit()
    loop.token_nll, one.loss_scale = one.token_nll, 2.0**127
    state = one.fit()
    assert one.weights_at == plain.weights_at  # to the last bit
    assert (state.step, state.skipped, state.rollbacks) == (STEPS, [], 0)
    assert 1 < (state.loss_scale or 0) < 2.0**127


def test_steps_without_overflow_raise_the_scale(trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_STEPS_TO_RAISE", 3)
    one = trial("a", bad_steps=[])
    one.loss_scale = 2.0**14
    assert one.fit().loss_scale == 2.0**16  # twice in 12 steps, and no further
    plain = trial("plain", bad_steps=[])
    assert plain.fit().loss_scale is None


def test_a_gradient_that_no_scale_makes_finite_is_skipped(trial: Callable[..., Trial]) -> None:
    one = trial("a", bad_steps=[5])
    one.loss_scale = 4.0
    real, tried = one.token_nll, list[int]()

    def steep(model: Any, batch: Batch) -> torch.Tensor:
        if not set(batch.rows) & one.bad:
            return real(model, batch)
        tried.append(len(one.told("train")))
        return real(model, batch) + (model.weight - model.weight.detach()).sum().sqrt()  # 0, and so steep

    one.value = 1.0
    loop.token_nll = steep  # the fixture's monkeypatch puts the real one back
    state = one.fit()
    assert (state.step, state.skipped, state.loss_scale) == (STEPS, [5], 4.0)
    assert state.scaled_steps == STEPS - 1  # the try for memory and the skipped step do not count
    assert tried.count(4) == 3  # at 4, 2 and 1


def test_a_jump_of_the_loss_is_told_and_nothing_else_happens(trial: Callable[..., Trial]) -> None:
    plain, one = trial("plain", bad_steps=[]), trial("a", bad_steps=[11], value=1e3)
    loop.token_nll = plain.token_nll
    plain.fit()
    loop.token_nll = one.token_nll
    state = one.fit()
    jumps = [line for line in one.log.read("train") if line.get("spike")]
    assert [line["step"] for line in jumps] == [11]
    assert "the loss jumped to" in jumps[0]["message"]
    assert (state.step, state.skipped, state.rollbacks) == (STEPS, [], 0)
    assert not [line for line in plain.log.read("train") if line.get("spike")]


@pytest.mark.parametrize(
    ("recent", "loss", "stands_out"),
    [
        ([2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0], 99.0, False),  # too few to judge by
        ([2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0, 2.1], 2.6, False),
        ([2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0, 2.1], 3.5, True),
        ([2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 90.0, 80.0], 4.0, True),  # earlier spikes do not hide it
        ([2.0] * 32, 2.3, False),  # the smallest spread is a share of the loss
        ([2.0] * 32, 2.4, True),
        ([2.0] * 32, 0.1, False),  # falling is no trouble
    ],
)
def test_which_losses_stand_out(recent: list[float], loss: float, stands_out: bool) -> None:
    assert (spike(loss, recent) is not None) == stands_out
