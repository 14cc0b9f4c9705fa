"""Runs that are killed or told to stop at random times, resumed each time, and compared at their end."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Sequence
from itertools import count

import pytest

from fault_runs import SEED, STEPS, Project, Reference, Signal, assert_whole, result_of

CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


RECIPE = "tunesmith.train.recipe"
CHECKPOINT = "tunesmith.train.checkpoint"


def interrupt(project: Project, reference: Reference, *, times: int, signals: Sequence[int], name: str) -> None:
    """Start and interrupt until it was done `times` times; every run that is begun is brought to its end.

    Three in four arrive while it trains, validates and saves (config.yaml is the last thing written before that), and
    soon enough that a run takes several; the others at any time, loading and finishing included. Every fifth kill is
    aimed at the middle of a save, which time alone rarely hits.
    """
    draw = random.Random(SEED)
    starts, interrupted, torn, aimed = 0, 0, 0, 0
    for number in count():
        run = project.run(f"{name}-{number}")
        code, has_last = -1, 0
        while code != 0:
            chosen = draw.choice(signals)
            after = Signal(chosen, draw.uniform(0, reference.seconds))
            if draw.random() < 0.75:
                after = Signal(chosen, draw.uniform(0, reference.loop_seconds / 2), written=run.config_path)
            is_spared = interrupted >= times or has_last > 1  # nothing can be lost after the last step: not often there
            is_aimed = chosen == signal.SIGKILL and not is_spared and starts % 5 == 0
            hook = {"module": CHECKPOINT, "name": "save_file", "call": draw.randint(1, 6), "signals": [chosen]}
            code, output = project.start(
                run.name, signal_after=None if is_spared or is_aimed else after, hook=hook if is_aimed else None
            )
            starts += 1
            assert "Traceback" not in output
            assert_whole(run)
            assert code in (0, CODES[signal.Signals(chosen)]), output
            interrupted += code != 0
            aimed += code != 0 and is_aimed
            torn += code != 0 and bool(list(run.checkpoints_dir.glob(".tmp-*")))
            has_last += (run.checkpoints_dir / f"step-{STEPS:06d}").exists()
        assert result_of(run) == reference.result
        if interrupted >= times:
            break
    assert signals != [signal.SIGKILL] or torn >= aimed > 0  # what a torn save leaves was met


@pytest.mark.parametrize("times", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9(times: int, project: Project, reference: Reference) -> None:
    interrupt(project, reference, times=times, signals=[signal.SIGKILL], name=f"killed-{times}")


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_signals_at_any_time(times: int, project: Project, reference: Reference) -> None:
    interrupt(project, reference, times=times, signals=[signal.SIGTERM, signal.SIGINT], name=f"stopped-{times}")


TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    ("module", "function", "call", "steps", "number"),
    [
        (RECIPE, "prepare", 1, None, TERM),
        (RECIPE, "load_base", 1, None, INT),
        (RECIPE, "encode", 1, None, TERM),
        ("tunesmith.train.loop", "_accumulate", 1, 0, INT),  # the try for memory, before the first step
        ("tunesmith.train.loop", "_accumulate", 5, 4, TERM),
        ("tunesmith.train.loop", "_accumulate", 7, 6, signal.SIGHUP),
        ("tunesmith.train.trainer", "measured", 1, 3, INT),
        (CHECKPOINT, "save_file", 3, 3, TERM),
    ],
    ids=["read", "load", "tokenise", "try", "train", "hang up", "validate", "save"],
)
def test_a_signal_in_each_phase(
    module: str, function: str, call: int, steps: int | None, number: int, project: Project, reference: Reference
) -> None:
    """`steps`: steps done when it stops; None when there is no run yet."""
    name = f"phase-{function}-{call}-{number}"
    hook = {"module": module, "name": function, "call": call, "signals": [number]}
    code, output = project.start(name, hook=hook)
    assert code == 128 + number, output
    run = project.run(name)
    if steps is None:
        assert not run.path.exists()
        assert output.splitlines()[-1] == "stopped; nothing is half-written"
    else:
        assert run.manifest["status"] == "stopped"
        assert f"stopped after {f'step {steps} of {STEPS}' if steps else 'no step'}" in output
        assert f"resume with: tunesmith train --resume {run.path}" in output
        assert_whole(run)
        latest = sorted(run.checkpoints_dir.glob("step-*"))
        assert [folder.name for folder in latest][-1:] == ([f"step-{steps:06d}"] if steps else [])
    assert project.start(name)[0] == 0
    assert result_of(run) == reference.result


@pytest.mark.parametrize(("function", "number"), [("prepare", TERM), ("load_base", INT)])
def test_a_signal_before_a_resumed_run_goes_on(
    function: str, number: int, project: Project, reference: Reference
) -> None:
    name = f"again-{function}"
    stop = {"module": "tunesmith.train.loop", "name": "_accumulate", "call": 5, "signals": [TERM]}
    assert project.start(name, hook=stop)[0] == 143
    run = project.run(name)
    code, output = project.start(name, hook={"module": RECIPE, "name": function, "call": 1, "signals": [number]})
    assert code == 128 + number, output
    words = "stopped before it went on; nothing has changed\n  resume with: tunesmith train --resume"
    assert f"{words} {run.path}" in output
    assert run.manifest["status"] == "stopped"
    assert project.start(name)[0] == 0
    assert result_of(run) == reference.result


def test_a_signal_while_the_model_is_saved_is_too_late(project: Project, reference: Reference) -> None:
    hook = {"module": RECIPE, "name": "save_adapter", "call": 1, "signals": [signal.SIGTERM]}
    assert project.start("late", hook=hook)[0] == 0
    assert result_of(project.run("late")) == reference.result


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_stops_at_once(number: int, project: Project, reference: Reference) -> None:
    name = f"twice-{number}"
    hook = {"module": CHECKPOINT, "name": "save_file", "call": 6, "signals": [number, number]}
    code, output = project.start(name, hook=hook)
    assert code == 128 + number
    run = project.run(name)
    assert f"stopped at once; what was saved last is kept\n  resume with: tunesmith train --resume {run.path}" in output
    assert_whole(run)
    assert not list(run.checkpoints_dir.glob("step-000003"))  # it was being written
    assert project.start(name)[0] == 0
    assert result_of(run) == reference.result


@pytest.mark.parametrize(
    ("module", "function", "number"),
    [
        ("tunesmith.export.workshop", "open_trained", TERM),
        ("tunesmith.export.merged", "save_file", INT),
    ],
)
def test_a_signal_while_a_model_is_exported(
    module: str, function: str, number: int, project: Project, reference: Reference
) -> None:
    run = project.run("reference")
    hook = {"module": module, "name": function, "call": 1, "signals": [number]}
    export = ("export", str(run.path), "--to", "merged")
    code, output = project.call(*export, hook=hook)
    assert code == 128 + number, output
    assert output.splitlines()[-1] == "stopped; nothing is half-written"
    assert [*run.exports_dir.glob("merged*"), *run.exports_dir.glob(".tmp*")] == []
    assert project.call(*export)[0] == 0
    assert (run.exports_dir / "merged" / "verification.json").exists()
    shutil.rmtree(run.exports_dir)


def test_a_finished_run_is_left_alone(project: Project, reference: Reference) -> None:
    run = project.run("reference")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    code, output = project.start("reference")
    assert code == 0
    assert "already complete" in output
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
