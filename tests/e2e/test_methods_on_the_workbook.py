"""`tunesmith train examples/presscrafters_faq.xlsx --method NAME`, and on from there, for every name of the table."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tunesmith.api import open_session
from tunesmith.config import METHODS
from tunesmith.model import load_base
from tunesmith.runs import MetricsLog, Run

WORKBOOK = Path(__file__).resolve().parents[2] / "examples" / "presscrafters_faq.xlsx"
IDS = torch.tensor([[5, 6, 7, 8]])
SHORT = {
    "model.dtype": "float32",  # in bfloat16, the run's own answers come from rounded weights
    **{"data.max_rows": 40, "train.max_steps": 6, "train.eval_steps": 3, "train.batch_size": 2},
    **{"train.gradient_accumulation_steps": 1, "generate.max_new_tokens": 4, "eval.max_rows": 2},
}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *words],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def tunesmith(folder: Path, *words: str, code: int = 0) -> str:
    process = start(folder, *words)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_train_stop_resume_eval_ask_and_plain_peft(tmp_path: Path, name: str) -> None:
    if METHODS[name].is_quantized:
        pytest.importorskip("bitsandbytes")
    flags = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
    process = start(tmp_path, "train", str(WORKBOOK), "--method", name, "--name", "faq", *flags)
    metrics, deadline = tmp_path / "runs" / "faq" / "metrics.jsonl", time.monotonic() + 500
    while not metrics.exists() or not MetricsLog(metrics).read("train"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=500)
    assert process.returncode in (0, 143), err  # its last step may have been faster than the signal
    if process.returncode:
        tunesmith(tmp_path, "train", "--resume", "faq")
    run = Run.open(str(tmp_path / "runs" / "faq"))
    steps = [line["step"] for line in MetricsLog(run.metrics_path).read("train")]
    assert steps == [1, 2, 3, 4, 5, 6]  # none is missing or twice
    assert run.manifest["method"] == name

    scores = json.loads(tunesmith(tmp_path, "eval", "faq", "--json"))
    assert scores["tuned"]["perplexity"] != scores["base"]["perplexity"]
    answer = tunesmith(tmp_path, "ask", "faq", "What is a press?")
    assert answer == tunesmith(tmp_path, "ask", "faq", "What is a press?")

    if METHODS[name].is_quantized:  # plain PEFT would put it beside the whole base, which computes something else
        return
    with open_session(str(run.path), {"model.dtype": "float32"}).engine() as engine, torch.no_grad():
        ours = engine.model(IDS).logits
        if METHODS[name].is_adapter:
            base = load_base(run.manifest["model"]["path"], dtype="float32", device="cpu").model
            theirs = PeftModel.from_pretrained(base, str(run.model_dir)).eval()(IDS).logits
        else:
            theirs = AutoModelForCausalLM.from_pretrained(run.model_dir, dtype=torch.float32).eval()(IDS).logits
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)
