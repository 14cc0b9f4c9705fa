"""A tiny run that can be started cheaply, killed anywhere, and compared with the run that nothing happened to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tunesmith
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

    def wait(self) -> None:
        until = time.monotonic() + self.patience
        while self.written is not None and self._time() == self._before and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(self.seconds)

    def _time(self) -> int:
        return self.written.stat().st_mtime_ns if self.written is not None and self.written.exists() else 0


class Workshop:
    """Runs command lines in children of one warm process (warm.py), one at a time."""

    def __init__(self, output: Path) -> None:
        source = str(Path(tunesmith.__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._output = output
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        assert self._answer() == {"ready": True}

    def run(
        self, folder: Path, *arguments: str, signal_after: Signal | None = None, **options: object
    ) -> tuple[int, str]:
        """Exit code (negative: killed by that signal) and all output."""
        request = {"folder": str(folder), "output": str(self._output), "arguments": arguments, **options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid = int(self._answer()["pid"])
        if signal_after is not None:
            signal_after.wait()
            os.kill(pid, signal_after.number)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._answer()["code"]), self._output.read_text(errors="replace")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@dataclass
class Project:
    """A folder with data and a model; `start` begins or resumes the run of a name in it."""

    folder: Path
    workshop: Workshop
    settings: dict[str, object] = field(default_factory=lambda: dict(SETTINGS))

    def start(self, name: str, *, at: Path | None = None, **options: Any) -> tuple[int, str]:
        run = (at or self.folder / "runs") / name
        if (run / "manifest.json").exists():
            return self.workshop.run(self.folder, "train", "--resume", str(run), **options)
        flags = [part for key, value in self.settings.items() for part in (f"--{key}", str(value))]
        arguments = ["train", "faq.csv", "--model", "model", "--output-dir", str(run), *flags]
        return self.workshop.run(self.folder, *arguments, **options)

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
