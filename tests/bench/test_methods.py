"""What is measured of each method, and what the page says of made-up runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import methods, methods_report, tuning
from bench.ledger import measured_apart
from bench.pages import is_picture_of, write_picture
from tunesmith.config import METHODS


def run(method: str, seed: int, loss: float, trainable: int) -> dict[str, Any]:
    return {
        **{"method": method, "seed": seed, "steps": 100, "tokens": 1, "trainable": trainable},
        **{"parameters": 15_000_000 + (0 if method == "full" else trainable), "step_cpu_seconds": 0.1 * seed},
        **{"validation": [(100, loss)], "scores": {"token_f1": 0.5, "exact_match": 0.5}},
        **{"rows": {"train": 320, "validation": 24, "test": 56}},
        **{"loaded_bytes": 500 * 2**20, "peak_bytes": (700 + seed) * 2**20},
    }


def content() -> dict[str, Any]:
    sizes = {"full": 15_000_000, "lora": 600_000, "prompt": 10_000}
    return {
        **{"command": "x", "date": "2026-01-01", "threads": 1, "versions": {"torch": "2"}},
        **{"task": {"name": methods.TASK, "file": "some.csv"}, "settings": {**tuning.COMMON, **methods.SETTINGS}},
        "runs": [run(name, seed, 1.0 + seed, size) for seed in (1, 2, 3) for name, size in sizes.items()],
    }


def test_every_method_is_measured_at_its_own_rate() -> None:
    jobs = list(methods.jobs(list(METHODS), [1, 2]))
    assert [job["settings"]["method.name"] for job in jobs] == [*METHODS] * 2
    assert not any(name.startswith("train.learning_rate") for job in jobs for name in job["settings"])


def test_what_the_page_says() -> None:
    text = methods_report.tables(content())
    assert "the built-in model (15 M parameters)" in text
    assert "| lora | 600,000 | 4.00% | 3.000 (2.000–4.000) | 0.50 (0.50–0.50) | 200 | 202 | 702 |" in text
    assert "| full | 15,000,000 | 100.00% |" in text


def test_a_failed_run_ends_it_and_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    answers = [{"error": "RuntimeError: no room"}, {**run("lora", 1, 1.0, 1)}]
    monkeypatch.setattr(tuning, "measured_apart", lambda *words, **more: answers.pop(0))
    ledger = methods.Ledger(tmp_path / "log.jsonl", "code")
    job = next(methods.jobs(["lora"], [1]))
    with pytest.raises(SystemExit, match="lora, seed 1: RuntimeError: no room"):
        methods.measured(job, tmp_path, ledger, 1)
    first = methods.measured(job, tmp_path, ledger, 1)
    assert methods.measured(job, tmp_path, ledger, 1) == first  # nothing is left to be started
    assert first["method"] == "lora"


def test_a_picture_knows_its_results(tmp_path) -> None:
    write_picture(tmp_path / "methods.png", methods_report.picture(content()), content())
    assert is_picture_of(tmp_path / "methods.png", content())


def test_the_page_agrees_with_the_results() -> None:
    """Fails when bench/methods.json, page or picture was changed alone: python -m bench.methods_report."""
    assert methods_report.REPORT.is_up_to_date()


@pytest.mark.slow
def test_one_real_run(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: a loss, scores, a number of trained weights, processor time and memory."""
    rows = "\n".join(f"turn the light {number} on;lights" for number in range(60))
    (tmp_path / "nlu_home_domain_semicolon.csv").write_text(f"answer_from_user;scenario\n{rows}\n", encoding="utf-8")
    job = next(methods.jobs(["ia3"], [1]))
    job["settings"] |= {"train.max_steps": 6, "train.eval_steps": 3}
    found = measured_apart("bench.tuning", [json.dumps(job), str(tmp_path)], tmp_path, OMP_NUM_THREADS="1")
    assert [step for step, _ in found["validation"]] == [3, 6]
    assert found["scores"]["rows"] > 0
    assert 0 < found["trainable"] < 100_000
    assert found["step_cpu_seconds"] > 0
    assert found["peak_bytes"] >= found["loaded_bytes"] > 2**20
