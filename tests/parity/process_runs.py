"""Command lines on several processes: a project, what can be planted in it, and how two runs are compared."""

from __future__ import annotations

import csv
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import Crew
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
TERM, KILL = [signal.SIGTERM], [signal.SIGKILL]


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


def fault(where: str, *, rank: int, call: int, **what: object) -> tuple[dict[str, object], ...]:
    """fault("module:function", rank=1, call=4, signals=[9]): what happens then is told to warm.plant."""
    module, name = where.split(":")
    return ({"module": module, "name": name, "rank": rank, "call": call, **what},)


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
