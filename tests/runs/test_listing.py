"""The list of runs, damaged ones included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.runs import MetricsLog, Run, list_runs
from tunesmith.runs.listing import RunSummary

CONFIG = "model:\n  path: org/tiny\nmethod:\n  name: full\n"


def make(folder: Path, name: str, created: str) -> Run:
    run = Run.create(folder / name, config_text=CONFIG, manifest={"created": created})
    log = MetricsLog(run.metrics_path)
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        log.append({"step": step, "kind": "train", "loss": loss})
        log.append({"step": step, "kind": "eval", "validation_loss": loss + 0.5})
    return run


def test_an_absent_folder_has_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_runs() == []
    make(Path("runs"), "faq", "2026-01-01")
    assert [summary.name for summary in list_runs()] == ["faq"]


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    make(tmp_path, "b", "2026-01-02")
    make(tmp_path, "a", "2026-01-01").update_manifest(status="finished")
    make(tmp_path, "c", "2026-01-03")
    summaries = list_runs(tmp_path)
    assert [summary.name for summary in summaries] == ["c", "b", "a"]
    assert summaries[2] == RunSummary(
        name="a",
        path=tmp_path / "a",
        status="finished",
        created="2026-01-01",
        model="org/tiny",
        method="full",
        best_validation_loss=1.5,
        steps=3,
    )


def test_damaged_runs_are_listed_as_damaged_and_last(tmp_path: Path) -> None:
    make(tmp_path, "good", "2026-01-01")
    damages = {
        "no-config": ("config.yaml", None, "it has no config.yaml"),
        "no-manifest": ("manifest.json", None, "it has no manifest.json"),
        "torn-manifest": ("manifest.json", "{", "cannot read the manifest"),
        "newer": ("manifest.json", '{"format_version": 7, "created": "", "status": ""}', "newer tunesmith"),
        "torn-config": ("config.yaml", "a: [", "cannot read the settings"),
        "torn-log": ("metrics.jsonl", '{"step": 1, "kind": "eval"\n', "metrics.jsonl:1 is damaged"),
    }
    for name, (file, text, _) in damages.items():
        path = make(tmp_path, name, "2026-01-05").path / file
        path.unlink() if text is None else path.write_text(text)
    summaries = list_runs(tmp_path)
    assert summaries[0].name == "good"
    assert summaries[0].problem is None
    problems = {summary.name: summary.problem or "" for summary in summaries[1:]}
    assert problems.keys() == damages.keys()
    for name, (_, _, words) in damages.items():
        assert words in problems[name]
    assert {summary.status for summary in summaries[1:]} == {"damaged"}


def test_a_run_whose_process_was_killed_is_not_running(tmp_path: Path) -> None:
    run = make(tmp_path, "faq", "2026-01-01")
    statuses = []
    with run.claimed():
        run.update_manifest(status="running")
        statuses.append(list_runs(tmp_path)[0].status)
    statuses.append(list_runs(tmp_path)[0].status)
    (run.path / ".lock").touch()  # what a kill leaves: nobody holds it
    statuses.append(list_runs(tmp_path)[0].status)
    run.update_manifest(status="stopped")
    statuses.append(list_runs(tmp_path)[0].status)
    assert statuses == ["running", "interrupted", "interrupted", "stopped"]


def test_a_date_that_is_none_damages_one_run_alone(tmp_path: Path) -> None:
    make(tmp_path, "good", "2026-01-01")
    make(tmp_path, "edited", "2026-01-02").config_path.write_text("data:\n  sheet: 2024-13-45\n")
    assert {summary.name: summary.status for summary in list_runs(tmp_path)} == {"good": "created", "edited": "damaged"}


def test_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("")
    make(tmp_path, ".tmp-faq.01234567", "2026-01-01")
    assert list_runs(tmp_path) == []


def test_a_run_without_settings_or_steps_is_listed(tmp_path: Path) -> None:
    Run.create(tmp_path / "new", config_text="seed: 1\n", manifest={})
    (summary,) = list_runs(tmp_path)
    assert (summary.status, summary.model, summary.method) == ("created", None, None)
    assert (summary.best_validation_loss, summary.steps) == (None, 0)
