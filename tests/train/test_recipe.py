"""The main path of fine-tuning: another process beside it, signals and memory before the first step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import stop_at
from tunesmith import api
from tunesmith.config import RunConfig, dump_config, load_config
from tunesmith.errors import ResourceError, SettingsError, Stopped
from tunesmith.kernels.native import is_native, why_not_native
from tunesmith.model import speed
from tunesmith.runs import Run
from tunesmith.train import Event, Plan, continual, difficulty


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


def test_a_system_prompt_of_every_row_is_kept_by_the_run_and_asked_with(config: RunConfig, tmp_path: Path) -> None:
    rows = [f"Be brief.,What is the code of colour {n}?,The code is {n * 7}.\n" for n in range(20)]
    (tmp_path / "faq.csv").write_text("system,question,answer\n" + "".join(rows))
    api.train(config)
    session = api.open_session(config.output_dir)
    assert [(turn.role, turn.content) for turn in session.conversation("Why?")] == [
        ("system", "Be brief."),
        ("user", "Why?"),
    ]


def test_a_finished_run_comes_back_with_the_settings_that_it_had(config: RunConfig) -> None:
    asked = config.replaced("method.name", "auto", "test")
    first = api.train(asked)
    again = api.train(asked.replaced("train.max_steps", 9, "test"), resume=config.output_dir)
    assert first.config.method.name == again.config.method.name == "full"
    assert (again.config.train.max_steps, again.state) == (2, first.state)


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


@pytest.mark.parametrize(
    ("arch", "method", "reason"),
    [
        ("llama", "lora", None),
        ("gpt_neo", "lora", "packing is not proven for the architecture 'gpt_neo'"),
        ("mistral, window 8", "lora", "tokens are longer than the model's sliding window"),
        ("llama", "prefix", "the keys and values of a prefix stand before each"),
    ],
)
def test_rows_that_are_padded_are_told_and_why(
    config: RunConfig, tiny_model_dir: Callable[[str], Path], arch: str, method: str, reason: str | None
) -> None:
    plans: list[Plan] = []
    changed = config.replaced("model.path", str(tiny_model_dir(arch)), "test").replaced("method.name", method, "test")
    api.train(changed, announce=plans.append)
    told = [finding.message for finding in plans[0].findings if finding.code == "padded"]
    assert len(told) == (reason is not None)
    assert all(message.startswith("rows are padded to equal length: ") for message in told)
    assert all(message.endswith(reason or "") for message in told)


def test_a_run_with_kernels_in_cpp_is_not_resumed_without_them_unasked(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = why_not_native()
    if reason:
        pytest.skip(f"no kernels in C++: {reason}")
    folder, used = str(tmp_path / "run"), set[bool]()

    def watch(event: Event) -> None:
        used.add(is_native(torch.zeros(1, dtype=torch.bfloat16)))

    with pytest.raises(Stopped):
        api.train(config.replaced("model.dtype", "bfloat16", "flag"), observers=[stop_at(1), watch])
    assert used == {True}
    stored = api.run_config(folder)
    assert stored.train.native == "on"
    assert stored.origin("train.native") == "detected: this CPU has avx512_bf16, and there is a C++ compiler"

    monkeypatch.setattr(speed, "why_not_native", lambda: "this CPU has no avx512_bf16")
    with pytest.raises(ResourceError, match="here: this CPU has no avx512_bf16") as refused:
        api.train(stored, resume=folder)
    assert str(refused.value.fix).endswith("--train.native off --allow-drift")
    without = api.run_config(folder, {"train.native": "off"})
    with pytest.raises(SettingsError, match="cannot be resumed") as drifted:
        api.train(without, resume=folder)
    assert drifted.value.problems == ('train.native was "on", is "off"',)
    used.clear()
    api.train(without, resume=folder, allow_drift=True, observers=[watch])
    assert used == {False}
    ended = api.run_config(folder)
    assert (ended.train.native, ended.origin("train.native")) == ("off", "flag")
