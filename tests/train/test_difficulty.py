"""What a curriculum goes by: losses of rows, measured in batches and kept in the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunesmith.config import RunConfig, load_config
from tunesmith.evaluate import mean_nll
from tunesmith.model import load_base
from tunesmith.runs import Run
from tunesmith.train.budget import MicroBatches
from tunesmith.train.device import ALONE
from tunesmith.train.difficulty import curriculum_of, row_losses, stored_losses
from tunesmith.train.resolve import with_curriculum_settings
from tunesmith.types import Encoded


def make_rows(count: int) -> list[Encoded]:
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 20, count).tolist()
    return [
        Encoded(draw.integers(4, 300, length), np.arange(length) >= length // 2, row=index, difficulty=-index)
        for index, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_loss_of_a_row_is_that_of_a_validation_of_it_alone(
    arch: str, tiny_model_dir: Callable[[str], Path]
) -> None:
    model = load_base(str(tiny_model_dir(arch)), dtype="float32", device="cpu").model
    rows = make_rows(9)
    model.train()
    found = row_losses(model, rows, sizes=MicroBatches(30, longest=20), autocast=nullcontext, processes=ALONE)
    assert found == pytest.approx([mean_nll(model, [row]).mean for row in rows], rel=1e-5)
    assert len(set(found)) == 9
    assert model.training


def config_of(by: str) -> RunConfig:
    settings = {"train.order": "curriculum", "train.curriculum_by": by}
    extra = {"train.curriculum_column": "level"} if by == "column" else {}
    return with_curriculum_settings(load_config(overrides={**settings, **extra}))


def test_what_makes_a_row_hard() -> None:
    rows = make_rows(4)

    def never() -> list[float]:
        raise AssertionError("nobody asked for the loss")

    assert curriculum_of(config_of("length").train, rows, never).difficulties == tuple(map(len, rows))
    assert curriculum_of(config_of("column").train, rows, never).difficulties == (0, -1, -2, -3)
    assert curriculum_of(config_of("loss").train, rows, lambda: [4.0, 1.0, 3.0, 2.0]).difficulties == (4, 1, 3, 2)


def test_what_a_curriculum_leaves_open_is_told() -> None:
    config = config_of("length")
    assert (config.train.curriculum_pacing, config.train.curriculum_start) == ("root", 0.1)
    assert config.origin("train.curriculum_pacing").startswith("detected: ")
    plain = with_curriculum_settings(load_config(overrides={}))
    assert (plain.train.curriculum_by, plain.train.curriculum_pacing, plain.train.curriculum_start) == (None,) * 3


def test_losses_are_kept_for_the_same_rows_and_model_only(tmp_path: Path) -> None:
    rows, calls = make_rows(3), []

    def measure() -> list[float]:
        calls.append(1)
        return [0.1 + len(calls), 2.0, 1 / 3]

    def ask(rows: list[Encoded], base: str = "b") -> list[float]:
        return stored_losses(Run(tmp_path), rows, measure, base=base, processes=ALONE)

    first = ask(rows)
    assert ask(rows) == first == [1.1, 2.0, 1 / 3]
    assert json.loads((tmp_path / "row_losses.json").read_text())["losses"] == first
    assert len(calls) == 1
    other = [replace(rows[0], supervised=~rows[0].supervised), *rows[1:]]
    assert ask(other)[0] == 2.1
    assert ask(other, base="c")[0] == 3.1
    assert ask(rows, base="c")[0] == 4.1
