"""Several processes that train one model take the steps of one process, and agree on everything that can go wrong.

Each run is the whole command line. Losses and weights are float32 sums in another order, so they are equal within
rounding; what is decided (steps, skipped, best) is equal.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tunesmith
from tunesmith.runs import MetricsLog, Run

STEPS = 10
ROWS = 41  # 33 to train on: 8 a step, so that the last step of an epoch has a single row
SETTINGS = {
    "train.max_steps": STEPS,
    "train.batch_size": 4,
    "train.gradient_accumulation_steps": 2,
    "train.learning_rate": 0.003,
    "train.eval_steps": 5,
    "train.save_steps": 5,
    "train.tokens_per_batch": 60,
    "data.max_length": 64,
    "model.dtype": "float32",
    "model.device": "cpu",
    "method.dropout": 0,
    "seed": 7,
}
ACCUMULATE = "tunesmith.train.loop:_accumulate"
# the longest rows are tried first: the call for step n, counted from 1, is n + 1
SIGTERM, SIGKILL = "15", "9"


@dataclass
class Crew:
    """Runs command lines on any number of processes."""

    process: subprocess.Popen[str]
    output: Path

    def run(self, folder: Path, *arguments: str, world: int, faults: tuple[dict[str, object], ...] = ()) -> list[int]:
        request = {
            "folder": str(folder),
            "output": str(self.output),
            "arguments": arguments,
            "world": world,
            "faults": faults,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> list[int]:
        assert self.process.stdout is not None
        codes: list[int] = json.loads(self.process.stdout.readline())["codes"]
        return codes

    def said(self, rank: int) -> str:
        """What the process of a rank wrote to its terminal in the last run."""
        return Path(f"{self.output}.{rank}").read_text()


@dataclass
class Project:
    """A folder with data and a model, and the runs in it."""

    folder: Path
    crew: Crew

    def train(
        self, name: str, *, world: int, faults: tuple[dict[str, object], ...] = (), **settings: object
    ) -> list[int]:
        changed = {key.replace("__", "."): value for key, value in settings.items()}
        flags = [part for key, value in {**SETTINGS, **changed}.items() for part in (f"--{key}", str(value))]
        arguments = ["train", "faq.csv", "--model", "model", "--output-dir", name, *flags]
        return self.crew.run(self.folder, *arguments, world=world, faults=faults)

    def resume(self, name: str, *, world: int, **settings: object) -> list[int]:
        flags = [part for key, value in settings.items() for part in (f"--{key.replace('__', '.')}", str(value))]
        return self.crew.run(self.folder, "train", "--resume", name, *flags, world=world)

    def run(self, name: str) -> Run:
        return Run(self.folder / name)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    source = str(Path(tunesmith.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, str(Path(__file__).with_name("crew.py"))]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
    with process:
        crew = Crew(process, tmp_path_factory.mktemp("output") / "text")
        assert crew.answer() == []
        yield crew
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def project(crew: Crew, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Callable[[str], Path]) -> Project:
    folder = tmp_path_factory.mktemp("project")
    (folder / "model").symlink_to(tiny_model_dir("llama"))
    draw = random.Random(1)
    words = [
        "press",
        "machine",
        "prints",
        "oil",
        "wheel",
        "belt",
        "lamp",
        "green",
        "red",
        "stop",
        "start",
        "heat",
        "cold",
    ]
    with (folder / "faq.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["question", "answer"])
        for number in range(ROWS):
            answer = " ".join(draw.choices(words, k=draw.randint(2, 12)))
            lines.writerow([f"What is {draw.choice(words)} {number}?", answer + "."])
    return Project(folder, crew)


@pytest.fixture(scope="module")
def alone(project: Project) -> Callable[[str], Run]:
    """alone("lora") -> the run of one process."""

    def made(method: str) -> Run:
        if not project.run(f"alone-{method}").path.exists():
            assert project.train(f"alone-{method}", world=1, method__name=method) == [0], project.crew.said(0)
        return project.run(f"alone-{method}")

    return made


def fault(what: str, where: str, *, rank: int, call: int) -> tuple[dict[str, object], ...]:
    return ({"what": what, "where": where, "rank": rank, "call": call},)


def losses(run: Run) -> list[tuple[int, str, float]]:
    lines = [line for line in MetricsLog(run.metrics_path).read() if line["kind"] != "event"]
    return [(line["step"], line["kind"], line.get("loss", line.get("validation_loss"))) for line in lines]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(next(run.model_dir.glob("*.safetensors")))


def assert_equal_within_rounding(left: Run, right: Run) -> None:
    ours, theirs = losses(left), losses(right)
    assert [line[:2] for line in ours] == [line[:2] for line in theirs]
    assert [line[2] for line in ours] == pytest.approx([line[2] for line in theirs], rel=1e-5)
    tensors, others = weights(left), weights(right)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=2e-5)
    kept = [folder.name for folder in sorted((left.checkpoints_dir).iterdir())]
    assert kept == [folder.name for folder in sorted((right.checkpoints_dir).iterdir())]
    state, other = left.manifest["training"], right.manifest["training"]
    for counter in ("step", "tokens", "best_step", "skipped", "anchor", "stopped_early"):
        assert state[counter] == other[counter], counter


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
    term = fault(SIGTERM, ACCUMULATE, rank=world - 1, call=4)
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
    codes = project.train(name, world=2, faults=fault(SIGKILL, ACCUMULATE, rank=rank, call=8), method__name="full")
    assert codes[rank] == -9
    assert codes[1 - rank] == 4
    said = project.crew.said(1 - rank)
    assert f"process {1 - rank} of 2 cannot reach the others" in said
    assert "Traceback" not in said
    assert project.resume(name, world=2) == [0, 0]
    assert [x[2] for x in losses(project.run(name))] == pytest.approx([x[2] for x in losses(alone("full"))], rel=1e-5)


def test_memory_that_runs_out_on_one_halves_all(project: Project, alone: Callable[[str], Run]) -> None:
    memory = fault("memory", ACCUMULATE, rank=1, call=4)
    codes = project.train("memory", world=2, faults=memory, method__name="full", train__tokens_per_batch=300)
    assert codes == [0, 0], project.crew.said(0)
    assert project.run("memory").manifest["training"]["tokens_per_batch"] == 150
    assert [x[2] for x in losses(project.run("memory"))] == pytest.approx(
        [x[2] for x in losses(alone("full"))], rel=1e-5
    )


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_loss_that_is_nan_on_one_is_skipped_by_all(project: Project, sharding: str) -> None:
    name = f"nan-{sharding}"
    nan = fault("nan", "tunesmith.train.loop:token_nll", rank=1, call=8)
    codes = project.train(name, world=2, faults=nan, method__name="full", train__sharding=sharding)
    assert codes == [0, 0], project.crew.said(0)
    run = project.run(name)
    skipped = [line for line in MetricsLog(run.metrics_path).read("train") if line.get("skipped")]
    assert len(skipped) == 1
    assert "the loss is nan" in skipped[0]["message"]
    assert "in source row" in skipped[0]["message"]
    assert run.manifest["training"]["step"] == STEPS


def test_a_save_that_fails_is_tried_again(project: Project, alone: Callable[[str], Run]) -> None:
    disk = fault("disk", "tunesmith.train.checkpoint:save_file", rank=0, call=1)
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
    for name in ("drop-a", "drop-b"):
        assert project.train(name, world=2, method__name="lora", method__dropout=0.3) == [0, 0]
    assert losses(project.run("drop-a")) == losses(project.run("drop-b"))
