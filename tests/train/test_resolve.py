"""Settings that a run fills in itself: method and passes, and why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tunesmith.api import train
from tunesmith.config import RunConfig, commented_yaml, load_config
from tunesmith.data import EncodeReport
from tunesmith.errors import SettingsError
from tunesmith.train.resolve import (
    default_epochs,
    nothing_fits,
    plan_steps,
    resolve_loop,
    resolve_settings,
    resolve_system,
)
from tunesmith.types import Example, Message

NANO, LARGE = 15_300_000, 1_100_000_000


def resolved(overrides: dict[str, object], *, parameters: int = NANO, **places: Any) -> RunConfig:
    base: Any = SimpleNamespace(dtype=torch.bfloat16, dtype_reason="bfloat16: this CPU is fast at it")
    config = load_config(overrides=overrides, **places)
    encoding = EncodeReport(sequences=392, tokens=19_100)
    return resolve_settings(config, base, template_name="chat", parameters=parameters, encoding=encoding)


@pytest.mark.parametrize(
    ("parameters", "rows", "tokens", "passes", "reason"),
    [
        (NANO, 392, 19_100, 18, "18 passes: 392 rows, small model"),
        (NANO, 7, 400, 18, "18 passes: 7 rows, small model"),
        (NANO, 8002, 240_000, 2, "2 passes: 8002 rows, about 600K tokens in all for a small model"),
        (NANO, 6000, 9_000_000, 1, "1 pass: 6000 rows, about 600K tokens in all for a small model"),
        (LARGE, 392, 19_100, 5, "5 passes: 392 rows, larger model"),
        (LARGE, 9000, 2_500_000, 2, "2 passes: 9000 rows, about 5.0M tokens in all for a larger model"),
    ],
)
def test_passes_follow_the_data_and_the_model(
    parameters: int, rows: int, tokens: int, passes: float, reason: str
) -> None:
    assert default_epochs(parameters, rows=rows, tokens=tokens) == (passes, reason)


def test_a_small_model_is_trained_whole_and_says_why() -> None:
    config = resolved({})
    assert (config.method.name, config.train.epochs, config.train.learning_rate) == ("full", 18, 2e-3)
    assert config.origin("method.name") == "detected: a model of 15.3M parameters is cheap to train whole"
    assert config.origin("train.epochs") == "detected: 18 passes: 392 rows, small model"


@pytest.mark.parametrize(
    ("systems", "given", "taken"),
    [
        (["Be brief.", "Be brief.", "Be brief."], None, "Be brief."),
        (["Be brief.", "Be brief.", "Be kind."], None, None),
        (["Be brief.", "Be brief.", None], None, None),
        ([None, None, None], None, None),
        (["Be brief.", "Be brief.", "Be brief."], "Mine.", "Mine."),
    ],
)
def test_the_system_prompt_of_all_rows_is_asked_with(
    systems: list[str | None], given: str | None, taken: str | None
) -> None:
    rows = [
        Example((*([Message("system", text)] if text else []), Message("user", "a?"), Message("assistant", "b")))
        for text in systems
    ]
    prepared: Any = SimpleNamespace(train=rows[:1], validation=rows[1:2], test=rows[2:])
    config = resolve_system(load_config(overrides={"prompt.system": given} if given else {}), prepared)
    assert config.prompt.system == taken
    if taken and not given:
        assert config.origin("prompt.system") == "detected: every row begins with it"
    texts: Any = SimpleNamespace(train=[Example(text="plain")], validation=[], test=[])
    assert resolve_system(load_config(), texts).prompt.system is None


def test_a_run_with_settings_made_in_python_begins_with_the_checks_of_a_file(tmp_path: Path) -> None:
    config = RunConfig(output_dir=str(tmp_path / "run"))
    with pytest.raises(SettingsError, match="1 problem in the settings") as refused:
        train(config.replaced("method.name", "prefix", "a script").replaced("train.sharding", "full", "a script"))
    assert refused.value.problems == (
        "settings: train: prefix does not work with divided weights: set train.sharding to none",
    )


def test_decay_follows_what_is_trained() -> None:
    for overrides, parameters, decay in (({}, NANO, 0.1), ({"method": "lora"}, NANO, 0.01), ({}, LARGE, 0.01)):
        config = resolved(overrides, parameters=parameters)
        assert config.train.weight_decay == decay
        assert config.origin("train.weight_decay").startswith("detected: ")
    for name in ("ia3", "pissa"):  # decay would pull factors to 0, and shrink the weights that were taken over
        assert resolved({"method": name}).train.weight_decay == 0
    assert resolved({"weight_decay": "0.3"}).train.weight_decay == 0.3


def test_a_larger_model_gets_lora_and_says_why() -> None:
    config = resolved({}, parameters=LARGE)
    assert (config.method.name, config.train.epochs) == ("lora", 5)
    assert config.origin("method.name") == "detected: a model of 1.1B parameters would take 16 GiB to train whole"


@pytest.mark.parametrize("parameters", [NANO, LARGE])
def test_explicit_values_win(parameters: int) -> None:
    for name in ("lora", "full"):
        config = resolved({"method": name, "num_train_epochs": "2", "lr": "3e-4"}, parameters=parameters)
        assert (config.method.name, config.train.epochs, config.train.learning_rate) == (name, 2, 3e-4)
        assert config.origin("method.name") == config.origin("train.epochs") == "flag"


def test_a_setting_that_only_lora_has_asks_for_lora(tmp_path: Path) -> None:
    config = resolved({"lora_r": 16})
    assert (config.method.name, config.origin("method.name")) == ("lora", "detected: method.r is set")
    assert resolved({"method.num_virtual_tokens": 20}).method.name == "full"  # a default of another method
    written = tmp_path / "tunesmith.yaml"
    written.write_text(commented_yaml(), encoding="utf-8")  # names every setting, at its default
    assert resolved({}, file=written).method.name == "full"
    assert resolved({"lora_alpha": 8}, file=written).method.name == "lora"


def test_a_number_format_that_was_given_or_stored_keeps_its_origin() -> None:
    assert resolved({}).origin("model.dtype") == "detected: bfloat16: this CPU is fast at it"
    assert resolved({"dtype": "bfloat16"}).origin("model.dtype") == "flag"


@pytest.mark.parametrize("name", ["train.compile", "train.native"])
def test_how_a_step_is_computed_is_chosen_only_where_it_is_open(name: str) -> None:
    plan: Any = SimpleNamespace(total_steps=3, rows_per_step=2)
    sizes = {"parameters": 10**6, "mean_length": 50.0}
    found = []
    for overrides in ({}, {name: "off"}):
        config = load_config(overrides={"method.name": "full", **overrides})
        config = resolve_loop(config, plan, torch.device("cpu"), torch.float32, **sizes)
        section, leaf = name.split(".")
        found.append((getattr(getattr(config, section), leaf), config.origin(name).split(":")[0]))
    assert found == [("off", "detected"), ("off", "flag")]


def test_a_plan_without_passes_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="still open"):
        plan_steps(load_config(), [])


def test_phases_bring_their_own_peak() -> None:
    config = resolved({}, recipe="three-phases")
    assert config.train.learning_rate == 5e-4
    assert config.origin("train.learning_rate") == "detected: the highest of train.phases"


@pytest.mark.parametrize(("context", "fix"), [(2048, "--data.max_length to 900"), (512, "the model reads 512 tokens")])
def test_rows_that_are_all_too_long_are_answered_with_what_helps(context: int, fix: str) -> None:
    report = EncodeReport(longest_whole=900, dropped={"too long": (2, 3)})
    error = nothing_fits(report, max_length=256, context=context)
    assert fix in str(error.fix)
    assert "2 left out (too long: rows 2, 3)" in str(error.cause)
