"""An evaluation that is killed loses at most the answers that it was writing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith import api
from tunesmith.config import load_config
from tunesmith.generate import Engine

pytestmark = pytest.mark.slow
SETTINGS = {"generate.max_new_tokens": 40, "eval.batch_size": 2}


def test_what_was_answered_before_kill_9_is_not_asked_again(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faq.csv").write_text(
        "question,answer\n" + "".join(f"What is the code of colour {n}?,The code is {n * 7}.\n" for n in range(400))
    )
    overrides = {"data.path": str(tmp_path / "faq.csv"), "model.path": str(tiny_model_dir("llama"))}
    settings = {**overrides, "train.max_steps": 2, "method.name": "lora", "output_dir": str(tmp_path / "run")}
    run = api.train(load_config(overrides=settings)).run
    command = [sys.executable, "-m", "tunesmith", "eval", str(run.path)]
    process = subprocess.Popen([*command, *(f"--{name}={value}" for name, value in SETTINGS.items())])
    answers = run.eval_dir / "answers"
    deadline = time.monotonic() + 240
    while not (found := _kept(answers)) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = _kept(answers)
    assert 0 < found < 80, "killed too early or too late to show anything"
    asked: list[int] = []
    generate = Engine.generate
    monkeypatch.setattr(
        Engine,
        "generate",
        lambda engine, part, *rest, **more: asked.append(len(part)) or generate(engine, part, *rest, **more),
    )
    comparison = api.evaluate(str(run.path), overrides={**SETTINGS})
    assert comparison.tuned.row_count == 40
    assert sum(asked) == 80 - found
    assert _kept(answers) == 80


def _kept(folder: Path) -> int:
    """Whole lines of answers, of base and tuned."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_bytes().split(b"\n") if line]
    whole = [line for line in lines if line.endswith(b"}")]
    return sum("text" in json.loads(line) for line in whole)
