"""A tiny run that can be started cheaply, killed anywhere, and compared with the run that nothing happened to."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import Crew
from tunesmith.runs import MetricsLog, Run
from tunesmith.train.checkpoint import damage

STEPS = 30
SETTINGS = {
    "method.name": "full",
    "train.max_steps": STEPS,
    "train.batch_size": 4,
    "train.gradient_accumulation_steps": 1,
    "train.learning_rate": 0.003,
    "train.eval_steps": 3,
    "train.save_steps": 1,
    "train.save_total_limit": 2,
    "data.max_length": 64,
    "model.dtype": "float32",
    "model.device": "cpu",
}
SEED = 20_26
TIMING = ("seconds", "tokens_per_second")


@dataclass
class Signal:
    """Sent `seconds` after the start or, with `written`, after that file was written (or after `patience` seconds)."""

    number: int
    seconds: float
    written: Path | None = None
    patience: float = 10.0

    def __post_init__(self) -> None:
        self._before = self._time()

    def send(self, pid: int) -> None:
        until = time.monotonic() + self.patience
        while self.written is not None and self._time() == self._before and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(self.seconds)
        os.kill(pid, self.number)

    def _time(self) -> int:
        return self.written.stat().st_mtime_ns if self.written is not None and self.written.exists() else 0


@dataclass
class Project:
    """A folder with data and a model; `start` begins or resumes the run of a name in it.

    defect: what warm.plant is told of every process that is started.
    """

    folder: Path
    crew: Crew
    defect: dict[str, object] | None = None

    def start(self, name: str, *, at: Path | None = None, **options: Any) -> tuple[int, str]:
        run = (at or self.folder / "runs") / name
        if (run / "manifest.json").exists():
            return self.call("train", "--resume", str(run), **options)
        flags = [part for key, value in SETTINGS.items() for part in (f"--{key}", str(value))]
        return self.call("train", "faq.csv", "--model", "model", "--output-dir", str(run), *flags, **options)

    def call(
        self,
        *arguments: str,
        hook: dict[str, object] | None = None,
        signal_after: Signal | None = None,
        file_bytes: int | None = None,
    ) -> tuple[int, str]:
        """Exit code (negative: killed by that signal) and all output of a command line in the folder."""
        (code,) = self.crew.run(
            self.folder,
            *arguments,
            faults=[fault for fault in (self.defect, hook) if fault],
            file_bytes=file_bytes,
            meanwhile=signal_after.send if signal_after else lambda pid: None,
        )
        return code, self.crew.said(0)

    def run(self, name: str) -> Run:
        return Run(self.folder / "runs" / name)


def result_of(run: Run) -> dict[str, Any]:
    """All of a finished run that has to be equal: weights, log, counters."""
    manifest = run.manifest
    assert manifest["status"] == "finished"
    lines = [{k: v for k, v in line.items() if k not in TIMING} for line in MetricsLog(run.metrics_path).read()]
    training = {name: value for name, value in manifest["training"].items() if name not in TIMING}
    return {
        "model": (run.model_dir / "model.safetensors").read_bytes(),
        "metrics": lines,
        "training": training,
        "card": (run.model_dir / "README.md").exists(),
    }


def assert_whole(run: Run) -> None:
    """Whatever has a final name is complete, so that nothing of it has to be guessed."""
    if not run.path.exists():
        return
    assert run.settings
    assert run.manifest["status"] in ("created", "running", "stopped", "finished")
    steps = [line["step"] for line in MetricsLog(run.metrics_path).read("train")]
    assert steps == list(range(1, len(steps) + 1))
    for folder in run.checkpoints_dir.glob("step-*"):
        assert damage(folder) is None
    assert not list(run.checkpoints_dir.glob("damaged-*"))


@dataclass(frozen=True)
class Reference:
    """`seconds` from start to end; `loop_seconds` of these between the first and the last change of a step."""

    result: dict[str, Any]
    seconds: float
    loop_seconds: float
