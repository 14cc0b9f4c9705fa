"""What else a run can be, on two processes: every mode takes the steps of one process, or is refused before the start.

MODES is the table; a new mode of training is one more row. Each runs with whole and with divided weights (FSDP2).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from process_runs import (
    ACCUMULATE,
    KILL,
    TERM,
    Project,
    assert_equal_within_rounding,
    fault,
    losses,
    weights,
)
from tests.processes import environment
from tunesmith.runs import Run

FULL = {"method__name": "full"}
# name -> settings that differ from those of every run. Those that keep the suite quick are run by it, the rest is slow.
MODES: dict[str, dict[str, Any]] = {
    "muon": {**FULL, "train__optimizer": "muon", "train__learning_rate": 1e-3},
    "8 bit": {**FULL, "train__optimizer": "adamw_8bit"},
    "bfloat16": {**FULL, "model__dtype": "bfloat16"},
    "recomputed": {**FULL, "train__gradient_checkpointing": "true"},
    "recomputed lora": {"method__name": "lora", "train__gradient_checkpointing": "true"},
    "tied": {**FULL, "model__path": "tied"},
    "dora": {"method__name": "dora"},
    "rslora": {"method__name": "rslora"},
    "pissa": {"method__name": "pissa"},
    "ia3": {"method__name": "ia3"},
    "whole modules": {"method__name": "lora", "method__modules_to_save": "both"},
    "qlora": {"method__name": "qlora"},
}
QUICK = {("muon", "none"), ("recomputed", "full"), ("tied", "full")}
UNDIVIDED = {"muon", "8 bit", "qlora"}  # refused with divided weights
NEED_BITSANDBYTES = {"8 bit", "qlora"}
# relative difference of losses, and of weights: Muon orthogonalises in bfloat16
TOLERANCES = {"muon": (1e-5, 1e-3), "bfloat16": (1e-3, 1e-3)}


def cases() -> list[Any]:
    return [
        pytest.param(mode, sharding, marks=() if (mode, sharding) in QUICK else pytest.mark.slow)
        for mode in MODES
        for sharding in (("none",) if mode in UNDIVIDED else ("none", "full"))
    ]


def folder_name(mode: str, kind: object) -> str:
    return f"{mode}-{kind}".replace(" ", "-")


def single(project: Project, mode: str) -> Run:
    """The run of one process."""
    if mode in NEED_BITSANDBYTES:
        pytest.importorskip("bitsandbytes")
    name = folder_name(mode, "alone")
    if not project.run(name).path.exists():
        assert project.train(name, world=1, **MODES[mode]) == [0], project.crew.said(0)
    return project.run(name)


@pytest.mark.parametrize(("mode", "sharding"), cases())
def test_two_processes_take_the_steps_of_one(project: Project, mode: str, sharding: str) -> None:
    alone, name = single(project, mode), folder_name(mode, sharding)
    codes = project.train(name, world=2, train__sharding=sharding, **MODES[mode])
    assert codes == [0, 0], project.crew.said(0) + project.crew.said(1)
    of_losses, of_weights = TOLERANCES.get(mode, (1e-5, 2e-5))
    assert_equal_within_rounding(project.run(name), alone, of_losses=of_losses, of_weights=of_weights)
    if mode == "8 bit":  # the large matrices at least: bitsandbytes leaves small ones in float32
        (latest,) = alone.checkpoints_dir.glob("step-000010")
        moments = load_file(latest / "optimizer.safetensors")
        assert any(moment.dtype == torch.uint8 for moment in moments.values())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["muon", "8 bit", "recomputed", "dora"])
def test_a_mode_goes_on_with_another_number_of_processes(project: Project, mode: str) -> None:
    """After two processes were killed, by one and then by three."""
    alone, name = single(project, mode), folder_name(mode, "changed")
    settings = {**MODES[mode], "train__save_steps": 1}
    codes = project.train(name, world=2, faults=fault(ACCUMULATE, rank=1, call=5, signals=KILL), **settings)
    assert codes == [4, -9]
    term = fault(ACCUMULATE, rank=0, call=4, signals=TERM)
    assert project.resume(name, world=1, faults=term) == [143], project.crew.said(0)
    assert project.resume(name, world=3) == [0, 0, 0], project.crew.said(0)
    of_losses, of_weights = TOLERANCES.get(mode, (1e-5, 2e-5))
    found, wanted = losses(project.run(name)), losses(alone)
    assert [line[2] for line in found] == pytest.approx([line[2] for line in wanted], rel=of_losses)
    torch.testing.assert_close(weights(project.run(name)), weights(alone), rtol=1e-4, atol=of_weights)


@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_a_signal_while_they_validate(project: Project, alone: Callable[[str], Run], sharding: str) -> None:
    """One of two gets it. With whole weights the validation is left, with divided ones it is brought to its end."""
    name = f"validating-{sharding}"
    term = fault("tunesmith.train.trainer:measured", rank=1, call=1, signals=TERM)
    codes = project.train(name, world=2, faults=term, train__sharding=sharding, **FULL)
    assert codes == [143, 143], project.crew.said(0)
    run = project.run(name)
    validated = [line for line in losses(run) if line[1] == "eval"]
    assert len(validated) == (sharding == "full")
    assert (run.checkpoints_dir / "step-000005").exists()
    assert project.resume(name, world=2) == [0, 0], project.crew.said(0)
    assert_equal_within_rounding(run, alone("full"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (MODES["muon"], "sharding full works with optimizer adamw, found muon"),
        (MODES["8 bit"], "sharding full works with optimizer adamw, found adamw_8bit"),
        (MODES["qlora"], "a quantised base cannot be divided: set train.sharding to none"),
        ({"method__name": "prefix"}, "prefix does not work with divided weights: set train.sharding to none"),
    ],
    ids=["muon", "8 bit", "qlora", "prefix"],
)
def test_what_cannot_be_divided_is_refused_before_the_start(
    project: Project, settings: dict[str, Any], expected: str
) -> None:
    assert project.train("refused", world=2, train__sharding="full", **settings) == [2, 2]
    assert expected in project.crew.said(0)
    assert not project.run("refused").path.exists()


PRETRAINING = {
    "pretrain.vocab_size": 300,
    "pretrain.context": 32,
    "pretrain.hidden_size": 32,
    "pretrain.intermediate_size": 64,
    "pretrain.layers": 2,
    "pretrain.heads": 4,
    "pretrain.holdout": 0.1,
    "train.max_steps": 8,
    "train.batch_size": 4,
    "train.eval_steps": 4,
    "train.save_steps": 2,
    "model.device": "cpu",
    "model.dtype": "float32",
}


def write_texts(project: Project) -> None:
    lines = [json.dumps({"text": f"The press number {n} prints {n * 3} sheets. " * 4}) for n in range(60)]
    (project.folder / "texts.jsonl").write_text("\n".join(lines))


def pretrain(project: Project, name: str, *, world: int, faults: Any = (), **settings: object) -> list[int]:
    write_texts(project)
    changed = {**PRETRAINING, **{key.replace("__", "."): value for key, value in settings.items()}}
    flags = [part for key, value in changed.items() for part in (f"--{key}", str(value))]
    arguments = ("pretrain", "texts.jsonl", "--output-dir", name, *flags)
    return project.crew.run(project.folder, *arguments, world=world, faults=faults)


@pytest.mark.parametrize(
    ("optimizer", "sharding"),
    [("muon", "none"), ("adamw", "full"), pytest.param("adamw", "none", marks=pytest.mark.slow)],
)
def test_pretraining(project: Project, optimizer: str, sharding: str) -> None:
    """On two processes as on one, and again after one of the two was killed and another number goes on."""
    alone, two = f"scratch-{optimizer}-alone", f"scratch-{optimizer}-{sharding}"
    settings = {"train__optimizer": optimizer}
    if not project.run(alone).path.exists():
        assert pretrain(project, alone, world=1, **settings) == [0], project.crew.said(0)
    term = fault(ACCUMULATE, rank=0, call=6, signals=KILL)
    codes = pretrain(project, two, world=2, faults=term, train__sharding=sharding, **settings)
    assert codes == [-9, 4], project.crew.said(1)
    assert project.crew.run(project.folder, "pretrain", "--resume", two, world=2) == [0, 0], project.crew.said(0)
    assert project.crew.said(1) == ""
    one, both = project.run(alone), project.run(two)
    assert_equal_within_rounding(both, one, of_weights=1e-2)  # saved in bfloat16
    assert both.manifest["bits_per_byte"] == pytest.approx(one.manifest["bits_per_byte"], rel=1e-4)
    assert both.manifest["held_out_bytes"] == one.manifest["held_out_bytes"] > 0


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_pretraining_from_a_base(project: Project, sharding: str) -> None:
    write_texts(project)
    shape = ("vocab_size", "hidden_size", "intermediate_size", "layers", "heads")
    changed = {name: value for name, value in PRETRAINING.items() if name.removeprefix("pretrain.") not in shape}
    changed |= {"pretrain.base": "model", "pretrain.epochs_before": 0.5, "train.sharding": sharding}
    flags = [part for key, value in changed.items() for part in (f"--{key}", str(value))]
    runs = []
    for world in (1, 2):
        name = f"further-{sharding}-{world}"
        arguments = ("pretrain", "texts.jsonl", "--output-dir", name, *flags)
        assert project.crew.run(project.folder, *arguments, world=world) == [0] * world, project.crew.said(0)
        runs.append(project.run(name))
    assert_equal_within_rounding(runs[1], runs[0], of_weights=1e-2)  # saved in bfloat16
    assert runs[1].manifest["bits_per_byte"] == pytest.approx(runs[0].manifest["bits_per_byte"], rel=1e-4)


@pytest.mark.parametrize("settings", [{"method__r": 4}, {"pretrain__base": "no/model"}], ids=["method", "base"])
def test_what_pretraining_refuses_is_told_once(project: Project, settings: dict[str, Any]) -> None:
    assert len(set(pretrain(project, "refused", world=2, **settings))) == 1
    assert "fix:" in project.crew.said(0)
    assert "fix:" not in project.crew.said(1)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_torchrun_itself_with_compiled_layers(project: Project, command: str) -> None:
    """The commands of docs/distributed.md as they are typed, with whole and with divided weights.

    A compiler does not start in a forked process as the crew's are.
    """
    flags = {"train.compile": "on", "train.max_steps": 3, "model.device": "cpu", "model.dtype": "float32"}
    if command == "train":
        flags |= {"method.name": "full", "train.batch_size": 8, "train.eval_steps": 3}
        words = [command, "faq.csv", "--model", "model"]
    else:
        write_texts(project)
        flags = {**PRETRAINING, **flags}
        words = [command, "texts.jsonl"]
    written = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tunesmith"]
    runs = []
    for start in ([sys.executable, "-m", "tunesmith"], torchrun):
        name = f"typed-{command}-{len(runs)}"
        subprocess.run(
            [*start, *words, "--output-dir", name, *written], cwd=project.folder, env=environment(), check=True
        )
        runs.append(project.run(name))
    of_weights = 1e-2 if command == "pretrain" else 2e-5  # saved in bfloat16
    for several in runs[1:]:
        assert_equal_within_rounding(several, runs[0], of_losses=1e-4, of_weights=of_weights)
        assert "compile: 'on'" in several.config_path.read_text()
