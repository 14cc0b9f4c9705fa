"""What is measured of the defaults, and what the page says of made-up runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from bench import defaults, defaults_report, tuning
from tunesmith.config import load_config


def options(**changed: Any) -> argparse.Namespace:
    every = {"seeds": [1, 2], "tasks": list(defaults.COMPARED), "settings": list(defaults.SETTINGS), "base": None}
    return argparse.Namespace(**every | changed)


def run(name: str, task: str, seed: int, score: float) -> dict[str, Any]:
    scores = {"accuracy": score} if task == "sms" else {"exact_match": 0.0, "token_f1": score}
    return {
        **{"name": name, "task": task, "seed": seed, "scores": scores, "steps": 100, "passes": 10.0, "tokens": 20_000},
        **{"validation": [(50, 2.0), (60, 1.0), (100, 3.0)], "rows": {"train": 80, "test": 10}, "cpu_seconds": 60.0},
    }


def content() -> dict[str, Any]:
    """`lora` is 10 points better on one file, with each seed, and 20 worse on the other."""
    pairs = {"defaults": {"faq": 0.5, "sms": 0.9}, "lora": {"faq": 0.6, "sms": 0.7}}
    return {
        **{"command": "x", "date": "2026-01-01", "threads": 1, "versions": {"torch": "2"}},
        "files": {"faq": "faq.xlsx", "sms": "sms.tsv"},
        "runs": [
            run(name, task, seed, score + seed / 100)
            for seed in (1, 2, 3)
            for name, of_task in pairs.items()
            for task, score in of_task.items()
        ],
    }


def test_each_setting_is_changed_alone_and_seeds_come_first() -> None:
    jobs = list(defaults.jobs(options()))
    assert [job["seed"] for job in jobs] == sorted(job["seed"] for job in jobs)
    assert all(len(job["settings"]) == (job["name"] != "defaults") for job in jobs)
    assert {job["task"] for job in jobs} <= {*tuning.TASKS}
    for changed in defaults.SETTINGS.values():
        load_config(overrides=dict(changed))  # every name and value is a setting's


def test_another_base_is_in_every_job() -> None:
    jobs = defaults.jobs(options(base=Path("/some/model")))
    assert {job["settings"]["model.path"] for job in jobs} == {"/some/model"}


def test_what_the_page_says() -> None:
    text = defaults_report.tables(content())
    assert "| lora | 6 | -5.0 | " in text  # three pairs of +10, three of -20
    assert "| defaults | 10.0 (6.0) | 20 | 60 | 1.00 (1.00–1.00) | 52.0 (51.0–53.0) |" in text
    assert "| lora | 10.0 (6.0) | 20 | 60 | 1.00 (1.00–1.00) | 72.0 (71.0–73.0) |" in text
    assert "**sms** (`sms.tsv`): 80 rows, 10 asked" in text
    assert "accuracy |" in text


def test_a_failed_run_ends_it_and_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = [{"error": "RuntimeError: no room"}, run("lora", "sample FAQ", 1, 0.5)]
    monkeypatch.setattr(tuning, "measured_apart", lambda *words, **more: answers.pop(0))
    ledger = defaults.Ledger(tmp_path / "log.jsonl", "code")
    job = next(defaults.jobs(options(settings=["lora"])))
    with pytest.raises(SystemExit, match="sample FAQ, lora, seed 1: RuntimeError: no room"):
        defaults.measured(job, tmp_path, ledger, 1)
    first = defaults.measured(job, tmp_path, ledger, 1)
    assert defaults.measured(job, tmp_path, ledger, 1) == first  # nothing is left to be started
    assert first["name"] == "lora"


def test_the_page_agrees_with_the_results() -> None:
    """Fails when bench/defaults.json or the page was changed alone: python -m bench.defaults_report."""
    assert defaults_report.REPORT.is_up_to_date()
