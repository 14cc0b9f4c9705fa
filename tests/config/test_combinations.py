"""What of method, base and loop does not go together is refused with the rest of the problems, each with its fix."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.config import MethodConfig, load_config, quantize_of, rate_factor
from tunesmith.errors import SettingsError

IMPOSSIBLE = [
    ({"method": "full", "load_in_4bit": True}, "full cannot train a base in nf4: set model.quantize to none"),
    ({"method": "pissa", "quantization_bit": 8}, "pissa cannot train a base in int8"),
    ({"method": "qlora", "model.quantize": "none"}, "qlora trains beside a quantised base: leave out model.quantize"),
    ({"method": "qlora", "model.device": "mps"}, "set model.device to cpu"),
    ({"method": "qlora", "train.sharding": "full"}, "a quantised base cannot be divided"),
    ({"method": "prefix", "gradient_checkpointing": True}, "prefix cannot recompute activations"),
    ({"method": "ptuning", "train.sharding": "full"}, "ptuning does not work with divided weights"),
    ({"method": "prompt", "method.layers": "0-1"}, "leave out method.layers"),
    ({"method": "prompt", "modules_to_save": "head"}, "leave out method.modules_to_save"),
    ({"method": "lora", "num_virtual_tokens": 8}, "lora has no num_virtual_tokens"),
    ({"init_text": "Answer."}, "set method.name to prompt or prefix"),
    ({"method": "ptuning", "init_text": "Answer."}, "ptuning has no init_text"),
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
]


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
    told = ["train.epochs = -1", "full trains every weight", "no earlier run", "full cannot train a base in nf4"]
    told.append("a quantised base cannot be divided")
    assert len(refused.value.problems) == len(told)
    assert all(any(part in problem for problem in refused.value.problems) for part in told)


@pytest.mark.parametrize("settings", POSSIBLE)
def test_what_goes_together_is_taken(settings: dict[str, Any]) -> None:
    load_config(overrides=settings)


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
