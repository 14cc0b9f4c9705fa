"""Which settings a call of `tunesmith ollama` may have beside those of the run that it goes on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.api import pipeline
from tunesmith.api.pipeline import Stage, Watch, _same_run
from tunesmith.api.records import asked_with
from tunesmith.config import RunConfig, dump_config, load_config
from tunesmith.errors import SettingsError
from tunesmith.runs import Run

SETTINGS = {"data": {"path": "/faq.csv"}, "method": {"r": 4, "layers": "2"}, "train": {"max_steps": 6}}
STEPS = load_config().train.save_steps
FLAGS = {"train.save_steps": "2"}
Call = Callable[..., RunConfig]


def made(folder: Path, config: RunConfig) -> Run:
    return Run.create(folder, config_text=dump_config(config), manifest={})


@pytest.fixture
def again(tmp_path: Path) -> Call:
    """again(settings, flags) -> the settings with which a run of SETTINGS goes on."""
    file = tmp_path / "faq.json"
    file.write_text(json.dumps(SETTINGS))
    begun = load_config(file=file, overrides=FLAGS)
    begun = begun.resolved("train.epochs", 3.0, "few rows").resolved("model.device", "cpu", "there is no other")
    run = made(tmp_path / "run", begun)

    def call(settings: dict[str, Any], flags: dict[str, str] = FLAGS) -> RunConfig:
        file.write_text(json.dumps(settings))
        now = load_config(stored=run.config_path, file=file, overrides=flags)
        return _same_run(run, load_config(file=file, overrides=flags), now)

    return call


def test_the_same_settings_go_on_with_what_was_detected(again: Call) -> None:
    found = again(SETTINGS)
    assert (found.method.r, found.train.epochs, found.model.device) == (4, 3.0, "cpu")
    assert again({**SETTINGS, "model": {"device": "auto"}}).model.device == "cpu"
    assert again({**SETTINGS, "export": {"prompts": 5}}).export.prompts == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": {"r": 8, "layers": "2"}}, "method.r is 8, the run has 4"),
        ({"method": {"layers": "2"}}, "method.r is no longer set (without it 16), the run has 4"),
        ({"method": {"r": 4}}, "method.layers is no longer set (without it None), the run has '2'"),
        ({"train": {}}, "train.max_steps is no longer set (without it None), the run has 6"),
        ({"train": {"max_steps": None}}, "train.max_steps is None, the run has 6"),
        ({"train": {"max_steps": 6, "epochs": 5}}, "train.epochs is 5.0, the run has 3.0"),
    ],
)
def test_what_is_wanted_otherwise_is_told(change: dict[str, Any], said: str, again: Call) -> None:
    with pytest.raises(SettingsError) as caught:
        again({**SETTINGS, **change})
    assert caught.value.problems == (said,)


def test_a_flag_left_out_is_told(again: Call) -> None:
    with pytest.raises(SettingsError) as caught:
        again(SETTINGS, {})
    assert caught.value.problems == (f"train.save_steps is no longer set (without it {STEPS}), the run has 2",)


def test_what_equals_the_default_need_not_be_said(tmp_path: Path) -> None:
    default = load_config().method.r
    run = made(tmp_path / "run", load_config(overrides={"method.r": default, "data.path": "/faq.csv"}))
    given = {"data.path": "/faq.csv"}
    now = load_config(stored=run.config_path, overrides=given)
    assert _same_run(run, load_config(overrides=given), now).method.r == default


def test_a_measurement_is_done_only_with_the_settings_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(overrides={"data.path": "/faq.csv"})
    run = Run.create(tmp_path / "run", config_text=dump_config(config), manifest={"data": {"split": {"test": 3}}})
    for folder in (run.eval_dir, run.model_dir):
        folder.mkdir(exist_ok=True)
    (run.eval_dir / "summary.json").write_text(json.dumps({"asked_with": asked_with(config)}))
    (run.model_dir / "README.md").write_text("card")
    told: list[Stage] = []
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(pipeline, "evaluate", lambda reference, overrides, on_progress: asked.append(overrides))
    quicker = config.replaced("eval.batch_size", 7, "flag")  # of which no score depends
    pipeline._evaluate(run, quicker, told.append, Watch())
    assert [stage.is_done for stage in told] == [True]
    assert asked == []
    pipeline._evaluate(run, config.replaced("eval.max_rows", 5, "flag"), told.append, Watch())
    assert told[-1].is_done is False
    assert asked[0]["eval.max_rows"] == 5


@pytest.mark.parametrize(
    ("create", "types"),
    [("größe", ["q8_0"]), ("two words", ["q8_0"]), ("faq:1", ["q8_0", "f16"])],
    ids=["umlaut", "space", "tag"],
)
def test_a_name_that_ollama_does_not_take_is_told_before_training(
    create: str, types: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "_train", lambda *_: pytest.fail("it was trained"))
    file = tmp_path / "faq.json"
    file.write_text(json.dumps({"data.path": "faq.csv", "export": {"create": create, "quantize": types}}))
    with pytest.raises(SettingsError, match=r"is no name of a model in Ollama|names one model"):
        pipeline.to_ollama(file)
