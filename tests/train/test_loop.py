"""The loop's invariants, on a tiny model: token weighting, resume, early stopping, refusal of NaN."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.config import load_config
from tunesmith.data import StepPlan
from tunesmith.errors import ResourceError, TrainingError
from tunesmith.model import Lanes, apply_method, autocast, load_base, loss_scale
from tunesmith.train import fit
from tunesmith.train.budget import MicroBatches
from tunesmith.train.checkpoint import Checkpoints, TrainingState, trainable_weights
from tunesmith.train.loop import LoopSettings, _accumulate
from tunesmith.train.observe import Event
from tunesmith.train.schedule import Schedule
from tunesmith.train.signals import StopRequest
from tunesmith.types import Encoded

STEPS = 6


def make_rows(count: int = 24) -> list[Encoded]:
    draw = np.random.default_rng(3)
    rows = []
    for index in range(count):
        length = int(draw.integers(4, 20))
        supervised = np.arange(length) >= length // 2
        rows.append(Encoded(draw.integers(4, 300, length), supervised, row=index + 2))
    return rows


class Trial:
    """One small run; keeps what the observers saw."""

    def __init__(self, folder: Path, model_dir: Path, **changes: Any) -> None:
        method = str(changes.pop("method", "lora"))
        overrides = {"method.name": method, "method.dropout": changes.pop("dropout", 0.1 if method == "lora" else 0)}
        config = load_config(overrides=overrides)
        base = load_base(str(model_dir), dtype="float32", device="cpu")
        torch.manual_seed(0)
        self.model = apply_method(base.model, config.method, dtype=torch.float32)
        self.rows = changes.pop("rows", None) or make_rows()
        self.events: list[Event] = []
        total_steps = changes.pop("total_steps", STEPS)
        self.settings = LoopSettings(
            schedule=Schedule("cosine", peak=1e-2, total_steps=total_steps, warmup_steps=2),
            autocast=nullcontext,
            tokens_per_batch=changes.pop("tokens_per_batch", 40),
            optimizer=changes.pop("optimizer", "adamw"),
            weight_decay=0.01,
            betas=(0.9, 0.999),
            max_grad_norm=1.0,
            eval_steps=changes.pop("eval_steps", 2),
            save_steps=changes.pop("save_steps", 1),
            patience=changes.pop("patience", None),
            threshold=0.0,
            lanes=changes.pop("lanes", Lanes()),
            loss_scale=changes.pop("loss_scale", 1.0),
        )
        self.plan = StepPlan(len(self.rows), 8, total_steps, seed=5)
        self.checkpoints = Checkpoints(folder, identity={"data": changes.pop("data", "x")}, keep=50)
        self.validate = changes.pop("validate", None)
        assert not changes, changes

    def fit(self, *, stop_after: int | None = None) -> TrainingState:
        stop = StopRequest()

        def observe(event: Event) -> None:
            self.events.append(event)
            if event.kind == "train" and event.step == stop_after:
                stop.signal_number = 15

        with self.settings.lanes:
            return fit(
                self.model,
                self.rows,
                plan=self.plan,
                settings=self.settings,
                checkpoints=self.checkpoints,
                validate=self.validate,
                observers=[observe],
                stop=stop,
            )

    def losses(self) -> list[float]:
        return [float(event.values["loss"] or 0) for event in self.events if event.kind == "train"]


def assert_same(left: torch.nn.Module, right: torch.nn.Module) -> None:
    ours, theirs = trainable_weights(left), trainable_weights(right)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_only_the_division_into_batches_differs(tmp_path: Path, tiny_model_dir: Any, method: str) -> None:
    model = tiny_model_dir("llama")
    divisions = [(1000, 1), (40, 1), (20, 1), (1, 1), (1000, 2), (40, 2), (40, 3)]
    trials = [
        Trial(
            tmp_path / f"{size} {lanes}", model, tokens_per_batch=size, lanes=Lanes(lanes), dropout=0.0, method=method
        )
        for size, lanes in divisions
    ]
    for trial in trials:
        trial.fit()
    for other in trials[1:]:
        assert other.losses() == pytest.approx(trials[0].losses(), rel=2e-5)
    assert len(set(trials[0].losses())) == STEPS  # and it does train


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_scale_of_the_backward_pass_changes_nothing_but_what_is_lost(
    tmp_path: Path, tiny_model_dir: Any, lanes: int
) -> None:
    trials = [
        Trial(tmp_path / str(scale), tiny_model_dir("llama"), dropout=0.0, lanes=Lanes(lanes), loss_scale=scale)
        for scale in (1.0, 1024.0)
    ]
    for trial in trials:
        trial.fit()
    assert trials[0].losses() == trials[1].losses()
    assert_same(trials[0].model, trials[1].model)


def test_gradients_of_a_large_step_in_float16(tmp_path: Path, tiny_model_dir: Any) -> None:
    """What a mean over 6,400 tokens gives each of them would be rounded, or nothing."""
    draw = np.random.default_rng(0)
    rows = [Encoded(draw.integers(4, 300, 101), np.ones(101, dtype=bool), row=row) for row in range(64)]
    wanted = _gradients(tmp_path, tiny_model_dir, rows, torch.float32, scale=1.0)

    def error(scale: float) -> float:
        found = _gradients(tmp_path, tiny_model_dir, rows, torch.float16, scale=scale)
        return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))

    assert error(1.0) > 0.05
    assert error(loss_scale(torch.float16)) < 0.01


def test_gradients_that_overflow_in_float16_cost_no_step(tmp_path: Path, tiny_model_dir: Any) -> None:
    def trial(name: str, dtype: torch.dtype, scale: float) -> tuple[Trial, TrainingState]:
        one = Trial(tmp_path / name, tiny_model_dir("llama"), method="full", loss_scale=scale)
        one.settings = replace(one.settings, autocast=lambda: autocast(torch.device("cpu"), dtype))
        return one, one.fit()

    exact, _ = trial("float32", torch.float32, 1.0)
    half, state = trial("float16", torch.float16, 2.0**30)
    assert state.skipped == []
    assert 1024 <= (state.loss_scale or 0) < 2.0**30
    assert half.losses() == pytest.approx(exact.losses(), rel=1e-2)


def _gradients(
    folder: Path, tiny_model_dir: Any, rows: list[Encoded], dtype: torch.dtype, *, scale: float
) -> list[torch.Tensor]:
    trial = Trial(folder, tiny_model_dir("llama"), method="full", rows=rows, loss_scale=scale)
    with torch.no_grad():
        for parameter in trial.model.parameters():  # as small as they are in a model that begins to learn
            parameter.mul_(0.1 if parameter.ndim > 1 else 1)
    mixed = replace(trial.settings, autocast=lambda: autocast(torch.device("cpu"), dtype))
    sizes = MicroBatches(800, longest=101)
    _accumulate(trial.model, rows, range(64), settings=mixed, sizes=sizes, step=0, seed=0, scale=scale)
    return [parameter.grad for parameter in trial.model.parameters() if parameter.grad is not None]


def test_loss_is_the_mean_over_supervised_tokens(tmp_path: Path, tiny_model_dir: Any) -> None:
    trial = Trial(tmp_path, tiny_model_dir("qwen2"), dropout=0.0, total_steps=1)
    window = [trial.rows[index] for index in trial.plan.rows_of(0)]
    nll, tokens = 0.0, 0
    with torch.no_grad():
        for row in window:  # one by one, through the model's own forward
            logits = trial.model(torch.from_numpy(row.input_ids)[None]).logits[0, :-1].double().log_softmax(-1)
            picked = -logits[torch.arange(len(row) - 1), torch.from_numpy(row.input_ids[1:])]
            nll += float(picked[torch.from_numpy(row.supervised[1:])].sum())
            tokens += int(row.supervised[1:].sum())
    trial.fit()
    assert trial.losses()[0] == pytest.approx(nll / tokens, rel=1e-5)


@pytest.mark.parametrize(("method", "optimizer"), [("lora", "adamw"), ("full", "muon")])
@pytest.mark.parametrize("stop_after", range(1, STEPS))
def test_resumed_equals_uninterrupted(
    tmp_path: Path, tiny_model_dir: Any, stop_after: int, method: str, optimizer: str
) -> None:
    def trial(name: str) -> Trial:
        folder = tmp_path / name
        model = tiny_model_dir("llama")
        return Trial(folder, model, validate=lambda: 1.0, method=method, optimizer=optimizer)

    whole = trial("whole")
    whole.fit()
    first = trial("parts")
    state = first.fit(stop_after=stop_after)
    assert state.step == stop_after
    second = trial("parts")
    final = second.fit()
    assert final.step == STEPS
    assert first.losses() + second.losses() == whole.losses()
    assert_same(second.model, whole.model)


def test_dropout_differs_between_steps_and_not_between_runs(tmp_path: Path, tiny_model_dir: Any) -> None:
    again = [Trial(tmp_path / name, tiny_model_dir("llama"), dropout=0.5) for name in "ab"]
    without = Trial(tmp_path / "c", tiny_model_dir("llama"), dropout=0.0)
    for trial in [*again, without]:
        trial.fit()
    assert again[0].losses() == again[1].losses()
    assert again[0].losses()[1:] != without.losses()[1:]


def test_early_stopping_and_best(tmp_path: Path, tiny_model_dir: Any) -> None:
    readings = iter([3.0, 2.0, 2.0, 2.5, 2.4, 9.0])
    trial = Trial(
        tmp_path, tiny_model_dir("llama"), validate=lambda: next(readings), eval_steps=1, patience=3, total_steps=6
    )
    state = trial.fit()
    assert (state.best_step, state.best_loss) == (2, 2.0)  # an equal later loss does not win
    assert state.stopped_early
    assert state.step == 5
    best = trial.checkpoints.best(state)
    assert best is not None
    assert best.name == "step-000002"


def test_a_nan_validation_is_never_the_best(tmp_path: Path, tiny_model_dir: Any) -> None:
    readings = iter([math.nan, 2.0, math.nan, 3.0, 3.0, 3.0])
    trial = Trial(tmp_path, tiny_model_dir("llama"), validate=lambda: next(readings), eval_steps=1)
    assert trial.fit().best_step == 2


def test_nothing_of_a_nan_is_applied_and_the_rows_are_named(tmp_path: Path, tiny_model_dir: Any) -> None:
    broken = Trial(tmp_path, tiny_model_dir("llama"))
    with torch.no_grad():
        next(p for p in broken.model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(TrainingError, match="the loss is nan at step 1") as caught:
        broken.fit()
    assert "rows" in (caught.value.cause or "")
    assert broken.checkpoints.list() == []


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("fault", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, tiny_model_dir: Any, file: str, fault: str
) -> None:
    trial = Trial(tmp_path, tiny_model_dir("llama"))
    trial.fit(stop_after=3)
    path = tmp_path / "step-000003" / file
    content = bytearray(path.read_bytes())
    if fault == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif fault == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    again = Trial(tmp_path, tiny_model_dir("llama"))
    again.fit()
    assert again.events[0].step == 2
    assert (tmp_path / "damaged-step-000003").is_dir()
    assert "step-000003 is damaged" in str(again.events[1].values["message"])


def test_old_checkpoints_go_but_never_the_best_or_the_newest(tmp_path: Path, tiny_model_dir: Any) -> None:
    readings = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    trial = Trial(tmp_path, tiny_model_dir("llama"), validate=lambda: next(readings), eval_steps=1)
    trial.checkpoints.keep = 2
    trial.fit()
    assert [path.name for path in trial.checkpoints.list()] == ["step-000001", "step-000005", "step-000006"]


def test_what_could_not_be_saved_is_no_place_to_go_back_to(
    tmp_path: Path, tiny_model_dir: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 4 of 2, 4, 6 meets a full disk: the checkpoint of a stop at 5 must not take the place of step 2."""
    trial = Trial(tmp_path, tiny_model_dir("llama"), save_steps=2)
    trial.checkpoints.keep = 1
    save = trial.checkpoints.save

    def full_at_4(model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> Path:
        if state.step == 4:
            raise ResourceError("the disk is full")
        return save(model, optimizer, state)

    monkeypatch.setattr(trial.checkpoints, "save", full_at_4)
    state = trial.fit(stop_after=5)
    assert "save_failed" in [event.kind for event in trial.events]
    assert state.anchor == 2
    assert [path.name for path in trial.checkpoints.list()] == ["step-000002", "step-000005"]
