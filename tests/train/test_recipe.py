"""The main path of fine-tuning, with another process beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith import api
from tunesmith.config import dump_config, load_config
from tunesmith.errors import SettingsError
from tunesmith.runs import Run


def test_a_run_that_another_process_trains_is_left_as_it_is(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [f"What is the code of colour {n}?,The code is {n * 7}.\n" for n in range(20)]
    (tmp_path / "faq.csv").write_text("question,answer\n" + "".join(rows))
    overrides = {"data.path": str(tmp_path / "faq.csv"), "model.path": str(tiny_model_dir("llama"))}
    config = load_config(overrides={**overrides, "method.name": "lora", "train.max_steps": 2})
    run = Run.create(tmp_path / "run", config_text=dump_config(config), manifest={"kind": "finetune"})
    with run.claimed():
        before = {path.name: path.read_bytes() for path in run.path.iterdir()}
        with pytest.raises(SettingsError, match="being trained by another process"):
            api.train(
                config.replaced("train.max_steps", 3, "flag"),
                resume=str(run.path),
                announce=lambda plan: pytest.fail("the plan of a run that is refused was told"),
            )
        assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
