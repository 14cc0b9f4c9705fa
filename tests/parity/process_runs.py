"""Command lines on several processes: the crew that runs them, a project, and how two runs are compared."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
WORDS = ["press", "machine", "prints", "oil", "wheel", "belt", "lamp", "green", "red", "stop", "start", "heat", "cold"]
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
        self,
        name: str,
        *,
        world: int,
        faults: tuple[dict[str, object], ...] = (),
        files: tuple[str, ...] = ("faq.csv",),
        **settings: object,
    ) -> list[int]:
        changed = {key.replace("__", "."): value for key, value in settings.items()}
        flags = [part for key, value in {**SETTINGS, **changed}.items() for part in (f"--{key}", str(value))]
        arguments = ["train", *files, "--model", "model", "--output-dir", name, *flags]
        return self.crew.run(self.folder, *arguments, world=world, faults=faults)

    def resume(
        self, name: str, *, world: int, faults: tuple[dict[str, object], ...] = (), **settings: object
    ) -> list[int]:
        flags = [part for key, value in settings.items() for part in (f"--{key.replace('__', '.')}", str(value))]
        return self.crew.run(self.folder, "train", "--resume", name, *flags, world=world, faults=faults)

    def run(self, name: str) -> Run:
        return Run(self.folder / name)


def environment() -> dict[str, str]:
    """Of a process that computes with this source, on a single thread."""
    source = str(Path(tunesmith.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@contextmanager
def crew_at_work(output: Path) -> Iterator[Crew]:
    """A crew that writes what its processes say to files beside `output`."""
    program = [sys.executable, str(Path(__file__).with_name("crew.py"))]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
    with process:
        crew = Crew(process, output)
        assert crew.answer() == []
        yield crew
        assert process.stdin is not None
        process.stdin.close()


def write_questions(folder: Path) -> None:
    """faq.csv and more.csv to train on."""
    draw = random.Random(1)
    for name, numbers in (("faq.csv", range(ROWS)), ("more.csv", range(100, 112))):
        with (folder / name).open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["question", "answer"])
            for number in numbers:
                answer = " ".join(draw.choices(WORDS, k=draw.randint(2, 12)))
                lines.writerow([f"What is {draw.choice(WORDS)} {number}?", answer + "."])


def fault(what: str, where: str, *, rank: int, call: int) -> tuple[dict[str, object], ...]:
    return ({"what": what, "where": where, "rank": rank, "call": call},)


def losses(run: Run) -> list[tuple[int, str, float]]:
    lines = [line for line in MetricsLog(run.metrics_path).read() if line["kind"] != "event"]
    return [(line["step"], line["kind"], line.get("loss", line.get("validation_loss"))) for line in lines]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(next(run.model_dir.glob("*.safetensors")))


def assert_equal_within_rounding(left: Run, right: Run, *, of_losses: float = 1e-5, of_weights: float = 2e-5) -> None:
    """`of_losses`: relative. `of_weights`: absolute, beside 1e-4 of each."""
    ours, theirs = losses(left), losses(right)
    assert [line[:2] for line in ours] == [line[:2] for line in theirs]
    assert [line[2] for line in ours] == pytest.approx([line[2] for line in theirs], rel=of_losses)
    tensors, others = weights(left), weights(right)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=of_weights)
    kept = [folder.name for folder in sorted((left.checkpoints_dir).iterdir())]
    assert kept == [folder.name for folder in sorted((right.checkpoints_dir).iterdir())]
    state, other = left.manifest["training"], right.manifest["training"]
    for counter in ("step", "tokens", "best_step", "skipped", "anchor", "stopped_early"):
        assert state[counter] == other[counter], counter
