"""What of method, base and loop does not go together is refused with the rest of the problems, each with its fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import METHODS, MethodConfig, RunConfig, check_config, load_config, quantize_of, rate_factor
from tunesmith.errors import SettingsError

IMPOSSIBLE = [
    ({"method": "full", "load_in_4bit": True}, "full cannot train a base in nf4: set model.quantize to none"),
    ({"method": "pissa", "quantization_bit": 8}, "pissa cannot train a base in int8"),
    ({"method": "qlora", "model.quantize": "none"}, "qlora trains beside a quantised base: leave out model.quantize"),
    ({"method": "qlora", "model.device": "mps"}, "set model.device to cpu"),
    ({"method": "qlora", "train.sharding": "full"}, "a quantised base cannot be divided"),
    ({"method": "prefix", "gradient_checkpointing": True}, "prefix cannot recompute activations"),
    ({"method": "prefix", "gradient_checkpointing": "yes"}, "prefix cannot recompute activations"),
    ({"method": "prefix", "gradient_checkpointing": 1}, "prefix cannot recompute activations"),
    ({"method": "ptuning", "train.sharding": "full"}, "ptuning does not work with divided weights"),
    ({"method": "prompt", "method.layers": "0-1"}, "prompt has no method.layers: leave it out, or set"),
    ({"method": "prompt", "target_modules": "all"}, "prompt has no method.target_modules: leave it out, or set"),
    ({"method": "prompt", "lora_r": 8, "lora_alpha": 9}, "prompt has no method.r and no method.alpha: leave them out"),
    ({"method": "ia3", "lora_dropout": 0.3}, "set method.name to lora, qlora, rslora, dora or pissa"),
    ({"method": "lora", "target_modules": "all-linear"}, "is what PEFT calls it, did you mean 'all'?"),
    ({"method": "lora", "target_modules": ["all-linear"]}, "is what PEFT calls it, did you mean 'all'?"),
    ({"method": "full", "target_modules": "mlp"}, "full has no method.target_modules: leave it out, or set"),
    ({"method": "lora", "num_virtual_tokens": 8}, "lora has no method.num_virtual_tokens"),
    ({"init_text": "Answer."}, "auto takes full or lora, which have no method.init_text: leave it out, or set"),
    ({"method": "ptuning", "init_text": "Answer."}, "set method.name to prompt or prefix"),
    ({"method": "prompt", "encoder_hidden_size": 8}, "set method.name to ptuning"),
    ({"train.learning_rates": {"lora_B": 3.0}}, "lora_B: 3 is no rate: write 0 to 1, or 3x"),
    ({"train.learning_rates": {"lora_B": "much"}}, "'much' is no rate"),
    ({"train.learning_rates": {".*(": 1e-4}}, "is no regular expression"),
]
POSSIBLE: list[dict[str, Any]] = [
    {"method": "qlora", "quantization_bit": 8},
    {"method": "dora", "load_in_4bit": True, "modules_to_save": "both"},
    {"method": "prefix", "load_in_8bit": True, "init_text": "Answer."},
    {"method": "ptuning", "gradient_checkpointing": True, "encoder_hidden_size": 8},
    {"method": "full", "load_in_4bit": False},
    {"method": "full", "target_modules": "all", "lora_dropout": 0},  # it is so anyway
    {"method": "prompt", **{f"method.{name}": getattr(MethodConfig(), name) for name in ("r", "alpha", "layers")}},
]
# A value of each setting that asks for something.
ASKED = {
    **{"r": 3, "alpha": 5, "dropout": 0.25, "target_modules": "key,down", "layers": "1", "modules_to_save": "both"},
    **{"num_virtual_tokens": 7, "init_text": "Answer.", "encoder_hidden_size": 8},
}


@pytest.mark.parametrize(("settings", "told"), IMPOSSIBLE)
def test_it_is_refused_with_every_other_problem(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_config(overrides={**settings, "data.max_length": 1})
    first, *others = refused.value.problems
    assert "data.max_length = 1" in first
    assert len(others) == 1
    assert told in others[0]


def test_what_is_wrong_within_a_section_hides_nothing_between_sections() -> None:
    """full has no layers to choose, does not train a quantised base, and that base cannot be divided."""
    settings = {"method": "full", "load_in_4bit": True, "method.layers": "0-3", "train.sharding": "full"}
    with pytest.raises(SettingsError) as refused:
        load_config(overrides={**settings, "train.epochs": -1, "ewc_lambda": 10.0})
    told = ["train.epochs = -1", "full has no method.layers", "no earlier run", "full cannot train a base in nf4"]
    told.append("a quantised base cannot be divided")
    assert len(refused.value.problems) == len(told)
    assert all(any(part in problem for problem in refused.value.problems) for part in told)


@pytest.mark.parametrize("settings", POSSIBLE)
def test_what_goes_together_is_taken(settings: dict[str, Any]) -> None:
    load_config(overrides=settings)


@pytest.mark.parametrize("settings", POSSIBLE)
def test_what_goes_together_is_taken_from_python(settings: dict[str, Any]) -> None:
    check_config(load_config(overrides=settings))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method.name": "full", "model.quantize": "nf4"}, "settings: method: full cannot train a base in nf4"),
        ({"model.device": "mps", "method.name": "qlora"}, "set model.device to cpu"),
        ({"method.name": "prefix", "train.gradient_checkpointing": True}, "prefix cannot recompute activations"),
        ({"train.sharding": "full", "method.name": "ptuning"}, "ptuning does not work with divided weights"),
        ({"train.schedule": "phases"}, "schedule is phases and there are none"),
        ({"train.plateau_patience": 3, "train.early_stopping_patience": 2}, "the run would stop before"),
    ],
)
def test_settings_changed_in_python_are_refused_as_those_of_a_file(changes: dict[str, Any], told: str) -> None:
    config = RunConfig()
    for name, value in changes.items():
        config = config.replaced(name, value, "a script")
    with pytest.raises(SettingsError) as refused:
        check_config(config)
    assert len(refused.value.problems) == 1
    assert told in refused.value.problems[0]


def test_a_method_has_the_settings_that_it_reads_and_no_other() -> None:
    assert ASKED.keys() == MethodConfig.model_fields.keys() - {"name"}
    for name, facts in METHODS.items():
        for setting, value in ASKED.items():
            asked = {"method.name": name, f"method.{setting}": value}
            if setting in facts.reads:
                load_config(overrides=asked)
            else:
                with pytest.raises(SettingsError, match=f"{name} has no method.{setting}: leave it out, or set"):
                    load_config(overrides=asked)


def test_what_a_recipe_sets_for_its_own_method_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: {name: lora, r: 8, modules_to_save: head}\ntrain: {epochs: 7}\n")
    config = load_config(recipe=str(path), overrides={"method": "full"})
    assert (config.method, config.train.epochs) == (MethodConfig(name="full"), 7)
    assert "method.r" not in config.origins
    kept = load_config(recipe=str(path), overrides={"method": "ia3"}).method
    assert kept == MethodConfig(name="ia3", modules_to_save="head")
    with pytest.raises(SettingsError, match=r"full has no method\.r"):  # what was written by hand stays
        load_config(file=path, overrides={"method": "full"})
    path.write_text("method: {name: prompt, r: 8}\n")
    with pytest.raises(SettingsError, match=r"prompt has no method\.r"):
        load_config(recipe=str(path))


def test_what_a_method_alone_and_a_setting_alone_stand_for() -> None:
    assert [
        quantize_of(*pair) for pair in (("qlora", "auto"), ("lora", "auto"), ("lora", "nf4"), ("qlora", "int8"))
    ] == [*("nf4", "none", "nf4", "int8")]
    assert load_config(overrides={"load_in_4bit": True}).model.quantize == "nf4"
    assert load_config(overrides={"bnb_4bit_compute_dtype": "torch.bfloat16"}).model.dtype == "bfloat16"
    assert load_config(overrides={"prompt_tuning_init_text": "Hi", "method": "prompt"}).method == MethodConfig(
        name="prompt", init_text="Hi"
    )


def test_rates_of_groups_are_written_as_numbers_or_as_multiples() -> None:
    given = {"loraplus_lr_ratio": "16", "embedding_learning_rate": "1e-5", "train.learning_rates.layers.0": "0.5x"}
    rates = load_config(overrides=given).train.learning_rates
    assert rates == {"lora_B": "16x", "embeddings": 1e-5, "layers.0": "0.5x"}
    assert [rate_factor(written, 2e-4) for written in rates.values()] == [16, pytest.approx(0.05), 0.5]
