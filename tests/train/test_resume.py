"""A run that is stopped and resumed is the run that was not, to the last bit, in every mode of resume_runs.MODES."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from resume_runs import (
    COMMON,
    COMPILED_MODES,
    MODES,
    OWN,
    STEPS,
    Harness,
    assert_equal,
    contents,
    make_rows,
    stop_at_every_step,
)
from tunesmith.config import METHODS, RunConfig, load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.kernels import attention
from tunesmith.model.packing import base_of, packing, packs
from tunesmith.train import resolve
from tunesmith.train.checkpoint import Checkpoints, TrainingState


def test_every_method_and_every_schedule_is_a_mode() -> None:
    modes = [{key: value for key, value in {**COMMON, **mode}.items() if key not in OWN} for mode in MODES.values()]
    configs = [load_config(overrides=mode) for mode in modes]
    assert {config.method.name for config in configs} == {*METHODS}
    schedules = get_args(type(configs[0].train).model_fields["schedule"].annotation)
    assert {config.train.schedule for config in configs} == {*schedules}


@pytest.mark.parametrize("mode", MODES)
def test_stopped_at_every_step(mode: str, harness: Callable[[str], Any], tmp_path: Path) -> None:
    stop_at_every_step(mode, *harness(mode), tmp_path)


def test_losses_are_measured_once_for_a_run(harness: Callable[[str], Any], tmp_path: Path) -> None:
    """The trained weights would give another order; a resumed run has that of the untrained ones."""
    one, whole = harness("curriculum by loss")
    before = one.scored
    for step in (1, 2, 3):
        one.start(tmp_path, stop_after=step)
    assert one.scored == before + 1
    (tmp_path / "row_losses.json").write_text("torn")  # and is measured again where the file is lost
    assert_equal(contents(tmp_path, one.start(tmp_path)), whole)
    assert one.scored == before + 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_stopped_once_at_any_step(mode: str, harness: Callable[[str], Any], tmp_path: Path) -> None:
    """A run for every step: stopped there, resumed, and then left alone."""
    one, whole = harness(mode)
    for step in range(1, whole["state"]["step"]):
        folder = tmp_path / str(step)
        assert one.start(folder, stop_after=step).step == step
        assert_equal(contents(folder, one.start(folder)), whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler does is not ours to mend
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("mode", COMPILED_MODES)
def test_compiled_layers_go_on_to_the_bit(mode: str, harness: Callable[[str], Any], tmp_path: Path) -> None:
    """The second process compiles anew."""
    one, whole = harness(mode)
    assert one.start(tmp_path, stop_after=17).step == 17
    assert_equal(contents(tmp_path, one.start(tmp_path)), whole)


def test_scaling_the_loss_changes_no_digit(harness: Callable[[str], Any]) -> None:
    scaled, plain = harness("scaled")[1], harness("lora")[1]
    assert 1 < scaled["state"]["loss_scale"] < 2.0**128
    assert scaled["weights"] == plain["weights"]
    assert scaled["metrics"] == plain["metrics"]


def test_a_plateau_lowers_the_rate_of_the_schedule_and_is_told(harness: Callable[[str], Any]) -> None:
    one, whole = harness("plateau on phases")
    schedule = resolve.schedule_for(one.config, STEPS)
    factors = [1.0]
    for line in whole["metrics"]:
        if line["kind"] == "train":
            assert line["learning_rate"] == schedule(line["step"] - 1) * factors[-1]
        elif "rate_factor" in line:
            factors.append(line["rate_factor"])
            assert "without gain: the rate is" in line["message"]
    assert factors == [1.0, 0.5, 0.3]  # the second stops at the floor
    assert whole["state"]["rate_factor"] == 0.3


@pytest.mark.parametrize("put_off", [False, True])
@pytest.mark.parametrize("step", [4, 28, 30])
def test_stopped_while_it_validates(step: int, put_off: bool, harness: Callable[[str], Any], tmp_path: Path) -> None:
    one, whole = harness("dropout")
    state = one.start(tmp_path, stop_in_validation=step, put_off=put_off)
    assert (state.step, state.validation_pending) == (step, put_off)
    assert (tmp_path / "checkpoints" / f"step-{step:06d}").exists()
    assert_equal(contents(tmp_path, one.start(tmp_path)), whole)


@pytest.mark.parametrize("before", [17, 18])
def test_stopped_as_it_goes_back(before: int, harness: Callable[[str], Any], tmp_path: Path) -> None:
    """Stopped shortly before as well: it goes back to where it would have, not to where it was stopped."""
    one, whole = harness("back after NaN")
    assert whole["state"]["skipped"] == [9]
    (back,) = (line for line in whole["metrics"] if line.get("event") == "rollback")
    assert back["step"] < before
    assert one.start(tmp_path, stop_after=before).step == before
    assert one.start(tmp_path, stop_as="rollback").step == back["step"]
    assert not list((tmp_path / "checkpoints").glob(f"step-*{before}"))
    assert_equal(contents(tmp_path, one.start(tmp_path)), whole)


def test_back_to_a_checkpoint_that_knows_no_validation(
    harness: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 16 is saved with its validation put off, and cannot be saved after it: going back makes it again."""
    one, whole = harness("back after NaN")
    assert one.start(tmp_path, stop_after=16).validation_pending
    real, failed = Checkpoints.save, list[int]()

    def save(self: Checkpoints, model: Any, optimizer: Any, state: TrainingState) -> Path:
        if state.step == 16 and not failed:
            failed.append(state.step)
            raise ResourceError("the disk is full")
        return real(self, model, optimizer, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    found = contents(tmp_path, one.start(tmp_path))
    assert failed == [16]
    kinds = [line["kind"] for line in found["metrics"] if line["step"] == 16]
    assert kinds == ["train", "event", "eval"]  # the way back comes before the validation, otherwise after it
    by_step = [sorted(each["metrics"], key=lambda line: (line["step"], line["kind"])) for each in (found, whole)]
    assert by_step[0] == by_step[1]
    assert_equal({**found, "metrics": whole["metrics"]}, whole)


def test_modes_whose_rows_are_padded(tiny_model_dir: Callable[[str], Path]) -> None:
    def is_packed(mode: str) -> list[bool]:
        model = Harness(mode, tiny_model_dir).model
        with packing(model):
            return [packs(base_of(model), longest) for longest in (8, 9)]

    assert is_packed("lora") == [True, True]
    assert is_packed("a sliding window") == [True, False]
    assert is_packed("no packing") == is_packed("prefix") == [False, False]


def test_native_modes_attend_in_cpp(
    harness: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = harness("native")
    real, calls = attention.native_attention, list[int]()

    def counted(*tensors: Any) -> torch.Tensor:
        calls.append(1)
        return real(*tensors)

    monkeypatch.setattr(attention, "native_attention", counted)
    one.start(tmp_path, stop_after=1)
    assert calls


def test_killed_before_its_next_checkpoint(harness: Callable[[str], Any], tmp_path: Path) -> None:
    """Lines of steps that no checkpoint knows, and a validation that it does not know of, are made again once."""
    one, whole = harness("dropout")
    one.start(tmp_path, stop_after=8)  # the validation of step 8 is put off
    shutil.copytree(tmp_path, tmp_path / "saved")
    one.start(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.copytree(tmp_path / "saved" / "checkpoints", tmp_path / "checkpoints")
    assert_equal(contents(tmp_path, one.start(tmp_path)), whole)


def test_a_finished_run_is_left_alone(harness: Callable[[str], Any], tmp_path: Path) -> None:
    one, whole = harness("dropout")
    one.start(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    assert_equal(contents(tmp_path, one.start(tmp_path)), whole)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == before


def config_of(**changes: object) -> RunConfig:
    return load_config(overrides={**COMMON, **changes})


def identity(config: RunConfig, **changes: Any) -> dict[str, Any]:
    facts = {"data": "d1", "ids": "i1", "base": "b1", "device": "cpu", "rows": 21, **changes}
    plan = resolve.plan_steps(config, make_rows(0, facts.pop("rows")))
    return resolve.identity_of(config, plan, **facts)


def saved_as(folder: Path, stored: dict[str, object]) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    Checkpoints(folder, identity=stored, keep=1).save(model, optimizer, TrainingState(step=1))
    return model, optimizer


def test_all_differences_are_named_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(config_of())
    other = config_of(**{"train.learning_rate": 1e-3, "prompt.system": "Be kind.", "train.max_steps": 9, "seed": 1})
    versions = {**resolve.package_versions(), "torch": "9.9", "python": "3.99", "safetensors": "9.9"}
    monkeypatch.setattr(resolve, "package_versions", lambda: versions)
    now = identity(other, data="d2", ids="i2", base="b2", device="cuda", rows=22)
    parts = saved_as(tmp_path, before)
    with pytest.raises(SettingsError, match="--allow-drift") as refused:
        Checkpoints(tmp_path, identity=now, keep=1).restore(*parts)
    assert {problem.split(" was ")[0] for problem in refused.value.problems} == {
        *("data SHA-256", "token ids SHA-256", "base model", "device", "seed", "rows", "total_steps"),
        *("train.learning_rate", "prompt.system", "versions.torch"),
    }
    assert "train.learning_rate was 0.01, is 0.001" in refused.value.problems
    accepting = Checkpoints(tmp_path, identity=now, keep=1, allow_drift=True)
    assert accepting.restore(*parts) == TrainingState(step=1)
    assert accepting.messages == [f"resuming although {problem}" for problem in refused.value.problems]


def test_a_run_from_before_kernels_in_cpp_has_none(tmp_path: Path) -> None:
    stored = identity(config_of(**{"train.native": "off"}))
    del stored["train"]["native"]
    parts = saved_as(tmp_path, stored)
    same = Checkpoints(tmp_path, identity=identity(config_of(**{"train.native": "off"})), keep=1)
    assert same.restore(*parts) == TrainingState(step=1)
    assert same.messages == []
    with pytest.raises(SettingsError, match="--allow-drift") as refused:
        Checkpoints(tmp_path, identity=identity(config_of(**{"train.native": "on"})), keep=1).check(parts[0])
    assert refused.value.problems == ('train.native was "off", is "on"',)


@pytest.mark.parametrize("model", [torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, bias=False)], ids=["shape", "name"])
def test_weights_of_another_model_are_refused_whatever_is_accepted(model: torch.nn.Module, tmp_path: Path) -> None:
    same, _ = saved_as(tmp_path, {"method": {"r": 4}})
    checkpoints = Checkpoints(tmp_path, identity={"method": {"r": 8}}, keep=1, allow_drift=True)
    checkpoints.check(same)
    with pytest.raises(SettingsError, match="step-000001 do not fit the model that is to be trained") as refused:
        checkpoints.check(model)
    assert refused.value.fix


def test_another_optimizer_is_refused_whatever_is_accepted(tmp_path: Path) -> None:
    model, _ = saved_as(tmp_path, identity(config_of(**{"train.optimizer": "muon"})))
    now = identity(config_of(seed=1))
    with pytest.raises(SettingsError, match="cannot be resumed with another optimizer") as refused:
        Checkpoints(tmp_path, identity=now, keep=1, allow_drift=True).check(model)
    assert refused.value.problems == ('train.optimizer was "muon", is "adamw"',)


def test_settings_of_pretraining_are_none_of_a_run_that_is_no_pretraining() -> None:
    section = {"pretrain.documents": ["docs.jsonl"], "pretrain.context": 64}
    assert identity(config_of(**section)) == identity(config_of())


@pytest.mark.parametrize(
    "changes",
    [
        {"train.batch_size": 1, "train.gradient_accumulation_steps": 4},
        {"train.save_steps": 3, "train.save_total_limit": 9, "train.gradient_checkpointing": True},
        {"data.path": "moved.csv", "generate.max_new_tokens": 7, "eval.batch_size": 1, "name": "other"},
    ],
)
def test_what_changes_no_step_may_be_changed(changes: dict[str, object], tmp_path: Path) -> None:
    parts = saved_as(tmp_path, identity(config_of()))
    again = Checkpoints(tmp_path, identity=identity(config_of(**changes)), keep=1)
    assert again.restore(*parts) == TrainingState(step=1)
    assert again.messages == []
