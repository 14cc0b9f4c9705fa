"""The main path of fine-tuning: another process beside it, signals and memory before the first step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import api
from tunesmith.config import RunConfig, dump_config, load_config
from tunesmith.errors import ResourceError, SettingsError, Stopped
from tunesmith.runs import Run
from tunesmith.train import continual, difficulty


@pytest.fixture
def config(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> RunConfig:
    rows = [f"What is the code of colour {n}?,The code is {n * 7}.\n" for n in range(20)]
    (tmp_path / "faq.csv").write_text("question,answer\n" + "".join(rows))
    return load_config(
        overrides={
            "data.path": str(tmp_path / "faq.csv"),
            "model.path": str(tiny_model_dir("llama")),
            "method.name": "lora",
            "train.max_steps": 2,
            "output_dir": str(tmp_path / "run"),
        }
    )


def test_a_run_that_another_process_trains_is_left_as_it_is(config: RunConfig, tmp_path: Path) -> None:
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


def test_a_stop_while_rows_are_ranked_does_not_wait_for_all_of_them(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = config.replaced("train.order", "curriculum", "test").replaced("train.curriculum_by", "loss", "test")
    ranked = ranked.replaced("train.tokens_per_batch", 32, "test")
    passes, token_nll = [], difficulty.token_nll

    def terminated(*arguments: Any) -> torch.Tensor:
        passes.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return token_nll(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(difficulty, "token_nll", terminated)
        with pytest.raises(Stopped, match="stopped while the rows were ranked by loss") as caught:
            api.train(ranked)
    assert len(passes) == 1
    assert (caught.value.exit_code, caught.value.fix) == (
        143,
        f"resume with: tunesmith train --resume {ranked.output_dir}",
    )
    assert Run.open(ranked.output_dir).manifest["status"] == "stopped"
    assert api.train(ranked, resume=ranked.output_dir).state.step == 2


def test_memory_that_the_fisher_information_does_not_have_is_told(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    parent = api.train(config).run
    further = load_config(
        overrides={
            "data.path": str(tmp_path / "faq.csv"),
            "continual.parent": str(parent.path),
            "continual.ewc_lambda": 1.0,
            "output_dir": str(tmp_path / "further"),
        }
    )
    monkeypatch.setattr(continual, "diagonal_fisher", full)
    with pytest.raises(ResourceError, match="not enough memory for the Fisher information of the old rows") as refused:
        api.train(further)
    assert refused.value.fix
    assert "continual.replay_share" in refused.value.fix
    assert not (tmp_path / "further").exists()
