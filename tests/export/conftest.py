"""What the tests of exports share: tiny tuned runs, each trained once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.api import Export, train
from tunesmith.config import METHODS, load_config
from tunesmith.runs import Run


def statuses(result: Export) -> dict[str, str]:
    """Of each product."""
    return {one.product.name: one.verdict.status for one in result.products}


def faults(result: Export) -> dict[str, str]:
    """The failed checks of all products, and what they found."""
    return {check.name: check.detail for one in result.products for check in one.verdict.faults}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for products, not there yet."""
    return tmp_path / "out"


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Callable[[str], Path]) -> Callable[..., Run]:
    """tuned("llama", **settings) -> a run of a few steps on 24 rows, of a tiny model or of a folder."""
    home = tmp_path_factory.mktemp("tuned")
    rows = [f"What is the code of colour {number}?,The code is {number * 7}." for number in range(24)]
    (home / "colours.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    made: dict[str, Run] = {}

    def make(base: str, **settings: Any) -> Run:
        shared = {
            "data.path": str(home / "colours.csv"),
            "model.path": base if Path(base).exists() else str(tiny_model_dir(base)),
            "model.dtype": "float32",
            "model.device": "cpu",
            "train.max_steps": 3,
            "train.learning_rate": 1e-2,
            "generate.max_new_tokens": 8,
        }
        name = settings.pop("method.name", "lora")
        shared |= {"method.name": name, **({"method.r": 4} if METHODS[name].has_rank else {})}
        key = repr((base, name, settings))
        if key not in made:
            folder = str(home / f"run-{len(made)}")
            made[key] = train(load_config(overrides={**shared, **settings, "output_dir": folder})).run
        return made[key]

    return make


@pytest.fixture(scope="session")
def own_stops(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Callable[[str], Path]) -> Path:
    """A tiny llama whose tokenizer ends turns and texts by tokens that no other program knows by name."""
    folder = tmp_path_factory.mktemp("stops") / "model"
    shutil.copytree(tiny_model_dir("llama"), folder)
    for file in (*folder.glob("*.json"), *folder.glob("*.jinja")):
        text = file.read_text(encoding="utf-8").replace("<|im_end|>", "<|done|>")
        file.write_text(text.replace("<|endoftext|>", "<|fin|>"), encoding="utf-8")
    return folder
