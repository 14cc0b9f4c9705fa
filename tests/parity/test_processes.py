"""Several processes that train one model take the steps of one process, and agree on everything that can go wrong.

Each run is the whole command line. Losses and weights are float32 sums in another order, so they are equal within
rounding; what is decided (steps, skipped, best) is equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from process_runs import (
    ACCUMULATE,
    KILL,
    STEPS,
    TERM,
    Project,
    assert_equal_within_rounding,
    fault,
    losses,
    weights,
)
from tunesmith.runs import MetricsLog, Run


def test_going_on_from_a_run_takes_the_same_steps_on_two_processes(
    alone: Callable[[str], Run], project: Project
) -> None:
    """Fisher information and penalty are those of one process: each has a share of the rows, and all have the sum."""
    parent = alone("lora")
    ours = {"continual__parent": parent.path, "continual__ewc_lambda": 500, "seed": 8}
    for world in (1, 2):
        assert project.train(f"on-{world}", world=world, **ours) == [0] * world, project.crew.said(0)
    one, two = project.run("on-1"), project.run("on-2")
    assert_equal_within_rounding(one, two)
    penalties = [[line["penalty"] for line in MetricsLog(run.metrics_path).read("train")] for run in (one, two)]
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-3, abs=1e-9)
    assert penalties[0][-1] > 0
    assert (two.eval_dir / "forgetting.json").exists()


def test_a_mixture_with_a_curriculum_by_loss_is_the_same_on_two_processes_and_after_a_kill(project: Project) -> None:
    settings = {
        **{"files": ("faq.csv", "more.csv"), "data__temperature": 2, "method__name": "lora"},
        **{"train__order": "curriculum", "train__curriculum_by": "loss", "train__save_steps": 2},
    }
    assert project.train("mixed", world=1, **settings) == [0], project.crew.said(0)
    alone, killed = project.run("mixed"), project.run("mixed-killed")
    faults = fault(ACCUMULATE, rank=0, call=6, signals=KILL)
    codes = project.train("mixed-killed", world=2, faults=faults, **settings)
    assert codes[0] == -9
    kept = (killed.path / "row_losses.json").read_bytes()
    ours, theirs = (json.loads((run.path / "row_losses.json").read_text())["losses"] for run in (alone, killed))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(set(ours)) == len(ours) == 43
    assert project.resume("mixed-killed", world=2) == [0, 0], project.crew.said(0)
    assert (killed.path / "row_losses.json").read_bytes() == kept
    assert_equal_within_rounding(killed, alone)
    evals = MetricsLog(alone.metrics_path).read("eval")
    assert all({"validation_loss/faq", "validation_loss/more"} <= line.keys() for line in evals)
    others = MetricsLog(killed.metrics_path).read("eval")
    for task in ("faq", "more"):
        name = f"validation_loss/{task}"
        assert [line[name] for line in evals] == pytest.approx([line[name] for line in others], rel=1e-5)


@pytest.mark.parametrize(
    ("method", "sharding"),
    [
        *(("lora", "none"), ("lora", "full"), ("full", "none"), ("full", "full")),
        *(("prompt", "none"), ("prefix", "none"), ("ptuning", "none")),
    ],
)
def test_two_processes_take_the_steps_of_one(
    project: Project, alone: Callable[[str], Run], method: str, sharding: str
) -> None:
    name = f"two-{method}-{sharding}"
    codes = project.train(name, world=2, method__name=method, train__sharding=sharding)
    assert codes == [0, 0], project.crew.said(0) + project.crew.said(1)
    assert project.crew.said(1) == ""  # the first alone speaks
    run, single = project.run(name), alone(method)
    assert_equal_within_rounding(run, single)
    assert len({loss for _, _, loss in losses(run)}) == STEPS + 2  # and it does train
    config, other = (json.loads(next(r.model_dir.glob("*config.json")).read_text()) for r in (run, single))
    assert config == other
    written = {path.relative_to(run.path) for path in run.path.rglob("*")}
    assert written == {path.relative_to(single.path) for path in single.path.rglob("*")}


CONTINUED = [  # processes and sharding before and after
    pytest.param((2, "none"), (1, "none"), id="2 to 1"),
    pytest.param((1, "none"), (2, "none"), id="1 to 2"),
    pytest.param((2, "none"), (2, "full"), id="DDP to FSDP2"),
    pytest.param((2, "full"), (1, "none"), id="FSDP2 to 1", marks=pytest.mark.slow),
    pytest.param((1, "none"), (3, "full"), id="1 to FSDP2 on 3", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("before", "after"), CONTINUED)
def test_a_run_goes_on_with_another_number_of_processes(
    project: Project, alone: Callable[[str], Run], before: tuple[int, str], after: tuple[int, str]
) -> None:
    """And a signal that one process alone gets stops all."""
    name = f"{before}-{after}".replace(" ", "")
    world, sharding = before
    term = fault(ACCUMULATE, rank=world - 1, call=4, signals=TERM)
    codes = project.train(name, world=world, faults=term, method__name="full", train__sharding=sharding)
    assert codes == [143] * world, project.crew.said(0)
    assert project.run(name).manifest["status"] == "stopped"
    assert "stopped after step 3 of 10" in project.crew.said(0)
    assert world == 1 or project.crew.said(1) == ""
    world, sharding = after
    assert project.resume(name, world=world, train__sharding=sharding) == [0] * world, project.crew.said(0)
    left, right = losses(project.run(name)), losses(alone("full"))
    assert [line[2] for line in left] == pytest.approx([line[2] for line in right], rel=1e-5)
    torch.testing.assert_close(weights(project.run(name)), weights(alone("full")), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others(project: Project, alone: Callable[[str], Run], rank: int) -> None:
    name = f"killed-{rank}"
    codes = project.train(name, world=2, faults=fault(ACCUMULATE, rank=rank, call=8, signals=KILL), method__name="full")
    assert codes[rank] == -9
    assert codes[1 - rank] == 4
    said = project.crew.said(1 - rank)
    assert f"process {1 - rank} of 2 cannot reach the others" in said
    assert "Traceback" not in said
    assert project.resume(name, world=2) == [0, 0]
    assert [x[2] for x in losses(project.run(name))] == pytest.approx([x[2] for x in losses(alone("full"))], rel=1e-5)


def test_memory_that_runs_out_on_one_halves_all(project: Project, alone: Callable[[str], Run]) -> None:
    memory = fault(ACCUMULATE, rank=1, call=4, raises="memory")
    codes = project.train("memory", world=2, faults=memory, method__name="full", train__tokens_per_batch=300)
    assert codes == [0, 0], project.crew.said(0)
    assert project.run("memory").manifest["training"]["tokens_per_batch"] == 150
    assert [x[2] for x in losses(project.run("memory"))] == pytest.approx(
        [x[2] for x in losses(alone("full"))], rel=1e-5
    )


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_loss_that_is_nan_on_one_is_skipped_by_all(project: Project, sharding: str) -> None:
    name = f"nan-{sharding}"
    nan = fault("tunesmith.train.loop:token_nll", rank=1, call=8, nan=True)
    codes = project.train(name, world=2, faults=nan, method__name="full", train__sharding=sharding)
    assert codes == [0, 0], project.crew.said(0)
    run = project.run(name)
    skipped = [line for line in MetricsLog(run.metrics_path).read("train") if line.get("skipped")]
    assert len(skipped) == 1
    assert "the loss is nan" in skipped[0]["message"]
    assert "in source row" in skipped[0]["message"]
    assert run.manifest["training"]["step"] == STEPS


def test_a_save_that_fails_is_tried_again(project: Project, alone: Callable[[str], Run]) -> None:
    disk = fault("tunesmith.train.checkpoint:save_file", rank=0, call=1, raises="disk")
    assert project.train("disk", world=2, faults=disk, method__name="full") == [0, 0], project.crew.said(0)
    events = [line["event"] for line in MetricsLog(project.run("disk").metrics_path).read("event")]
    assert events == ["save_failed"]
    assert [x[2] for x in losses(project.run("disk"))] == pytest.approx([x[2] for x in losses(alone("full"))], rel=1e-5)


def test_an_error_is_told_once(project: Project) -> None:
    """All processes meet it; one tells it, and all end with its exit code."""
    codes = project.train("wrong", world=2, method__name="lora", method__target_modules="nothing")
    assert codes == [2, 2]
    assert "error: method.target_modules" in project.crew.said(0)
    assert project.crew.said(1) == ""
    assert not project.run("wrong").path.exists()


def test_dropout_differs_between_processes_and_not_between_runs(project: Project) -> None:
    """A process that draws as the other one, in a single step, is noticed."""
    alike = fault("tunesmith.train.loop:_step_seed", rank=1, call=5, sets={"2": 0})
    for name, faults in (("drop-a", ()), ("drop-b", ()), ("drop-alike", alike)):
        codes = project.train(name, world=2, faults=faults, method__name="lora", method__dropout=0.3)
        assert codes == [0, 0], project.crew.said(0)
    first, again, alike = (losses(project.run(name)) for name in ("drop-a", "drop-b", "drop-alike"))
    assert again == first
    assert alike != first
