"""Recipes: every value has a reason, every recipe resolves and is in the docs, and the guides' numbers are in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.config import Recipe, list_recipes, load_config, read_recipe, recipe_paths
from tunesmith.errors import SettingsError

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECIPES = {recipe.name: recipe for recipe in list_recipes()}

# What the guides say, written out once more: (batch, accumulation, longest row) of the Phi-2 presets.
PHI_PRESETS = {
    "phi-24gb-gpu-high": (8, 4, 2048),
    "phi-24gb-gpu-balanced": (4, 8, 1024),
    "phi-24gb-gpu-low": (2, 16, 768),
    "phi-18gb-mac-high": (3, 8, 1024),
    "phi-18gb-mac-balanced": (2, 16, 1024),
    "phi-18gb-mac-low": (2, 16, 768),
    "phi-18gb-mac-safe": (1, 32, 768),
    "phi-quick": (2, 8, 1024),
    "phi-production": (4, 16, 1024),
    "phi-low-memory": (2, 32, 768),
    "phi-default": (4, 16, 1024),
}
PHI2_QA = {
    "model.path": "microsoft/phi-2", "model.dtype": "float16", "data.max_length": 512, "method.r": 16,
    "method.alpha": 32, "method.dropout": 0.05, "train.epochs": 5, "train.batch_size": 4,
    "train.gradient_accumulation_steps": 4, "train.learning_rate": 2e-4, "train.warmup_steps": 100,
    "train.weight_decay": 0.01, "train.eval_steps": 50, "train.save_steps": 50, "train.schedule": "linear",
}  # fmt: skip
GUIDES = {
    "phi2-qa": PHI2_QA,
    # the guide's "Modify Hyperparameters": what each variant changes
    "phi2-qa-fast": {
        **PHI2_QA, "train.epochs": 3, "train.batch_size": 8, "train.gradient_accumulation_steps": 2,
    },
    "phi2-qa-quality": {**PHI2_QA, "train.epochs": 10, "train.learning_rate": 1e-4, "method.r": 32},
    "phi2-qa-small": {**PHI2_QA, "train.epochs": 10, "method.dropout": 0.1},
    "phi2-qa-large": {**PHI2_QA, "train.epochs": 2, "train.batch_size": 8},
    "phi-default": {"train.epochs": 20, "train.learning_rate": 2e-4},
    "phi-quick": {"train.epochs": 3, "train.learning_rate": 2e-4},
    "phi-production": {"train.epochs": 20, "train.learning_rate": 1e-4},
    "phi-low-memory": {"train.epochs": 20, "train.gradient_checkpointing": True},
    "gpt2-finetune": {
        "method.r": 16, "method.alpha": 32, "train.learning_rate": 1e-5, "data.max_length": 512, "train.batch_size": 8,
        "train.max_steps": 10000, "train.eval_steps": 500, "train.warmup_ratio": 0.1, "train.schedule": "cosine",
        "train.max_grad_norm": 1.0,
    },
    "gpt2-from-scratch": {
        "train.learning_rate": 3e-4, "pretrain.context": 64, "train.batch_size": 16, "train.max_steps": 5000,
        "train.schedule": "constant",
    },
    "qwen2.5-7b-advanced": {"model.path": "Qwen/Qwen2.5-7B-Instruct", "train.max_steps": 2000},
    "phi3-mini-advanced": {
        "model.path": "microsoft/Phi-3-mini-4k-instruct", "train.max_steps": 1500, "train.order": "curriculum",
    },
    "mistral-7b-balanced": {"model.path": "mistralai/Mistral-7B-Instruct-v0.3"},
}  # fmt: skip
GENERAL = {
    "method.r": 8, "method.alpha": 32, "method.dropout": 0.05, "method.target_modules": "query,value",
    "train.epochs": 3, "train.batch_size": 4, "train.learning_rate": 2e-4,
}  # fmt: skip
for _name in ("lora-basics", "classification", "summarisation", "translation", "multi-task", "continual"):
    GUIDES[_name] = GENERAL


def setting(recipe: str, name: str) -> object:
    value: object = load_config(recipe=recipe)
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", sorted(recipe_paths()))
def test_every_value_has_a_reason(name: str) -> None:
    recipe = RECIPES[name]
    assert [value.name for value in recipe.values if len(value.reason) < 4] == []
    assert recipe.description
    assert recipe.source
    # nothing of the file is missed: what is explained is what is set
    config = load_config(recipe=name)
    from_recipe = {setting for setting, origin in config.origins.items() if origin.startswith(f"recipe {name}")}
    assert {value.name for value in recipe.values} == from_recipe
    for value in recipe.values:
        if value.name != "train.phases":
            assert setting(name, value.name) == value.value


@pytest.mark.parametrize("name", sorted(recipe_paths()))
def test_every_recipe_is_in_the_docs(name: str) -> None:
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert f"## {name}\n\n{RECIPES[name].description}" in page


@pytest.mark.parametrize("name", sorted(PHI_PRESETS))
def test_phi_presets_are_those_of_the_guide(name: str) -> None:
    batch, accumulation, length = PHI_PRESETS[name]
    train = load_config(recipe=name).train
    assert (train.batch_size, train.gradient_accumulation_steps) == (batch, accumulation)
    assert setting(name, "data.max_length") == length
    assert train.tokens_per_batch == (batch * length if "gb" in name else None)
    method = load_config(recipe=name).method
    assert (method.name, method.r, method.alpha, method.dropout) == ("lora", 8, 32, 0.05)
    assert (train.warmup_ratio, train.gradient_checkpointing) == (0.05, True)


@pytest.mark.parametrize("name", sorted(GUIDES))
def test_values_are_those_of_the_guides(name: str) -> None:
    assert {key: setting(name, key) for key in GUIDES[name]} == GUIDES[name]


@pytest.mark.parametrize("name", ["three-phases", "qwen2.5-7b-advanced", "phi3-mini-advanced", "mistral-7b-balanced"])
def test_three_phases_are_those_of_the_guide(name: str) -> None:
    phases = load_config(recipe=name).train.phases
    assert [(phase.name, phase.shape, phase.start, phase.to) for phase in phases] == [
        ("exploration", "linear", 5e-4, 2e-4),
        ("exploitation", "cosine", 2e-4, 5e-6),
        ("refinement", "exponential", 5e-6, 1e-6),
    ]


def test_reasons_are_the_comments_beside_and_above(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "description: mine\n"
        "seed: 7  # lucky\n"
        "train:\n"
        "  # of two\n"
        "  # lines\n"
        "  epochs: 3   # and this\n"
        "\n"
        "  # not of the next: a blank line is between\n"
        "\n"
        "  batch_size: 2\n"
        'data: {split: {train: 0.5, validation: 0.25, test: 0.25}, sheet: "a #1"}  # all of it\n',
        encoding="utf-8",
    )
    recipe = read_recipe(str(path))
    assert isinstance(recipe, Recipe)
    assert (recipe.name, recipe.description, recipe.source, recipe.command) == ("mine", "mine", "", "train")
    assert {value.name: value.reason for value in recipe.values} == {
        "seed": "lucky",
        "train.epochs": "of two lines and this",
        "train.batch_size": "",
        "data.split.train": "all of it",
        "data.split.validation": "all of it",
        "data.split.test": "all of it",
        "data.sheet": "all of it",
    }


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'quickstart'"):
        read_recipe("quikstart")
