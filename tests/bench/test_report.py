"""The published numbers are those of results.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report
from bench.summary import Measurement, summarize


@pytest.mark.parametrize("path", [report.PAGE, report.README], ids=lambda path: path.name)
def test_the_page_agrees_with_results_json(path) -> None:
    """Fails when results.json or a page was changed alone: python -m bench.report writes them anew."""
    assert path.read_text(encoding="utf-8") == report.pages(report.read_results())[path]


def test_the_readme_has_a_place_for_the_numbers() -> None:
    text = report.README.read_text(encoding="utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_what_is_said(measurements: list[Measurement]) -> None:
    summary = summarize(measurements, warmup=1, command="python -m bench.train", date="2026-01-01")
    assert (
        "- llama-135m: 750 tokens/s, 10.0x TRL's defaults, 3.0x TRL's best settings, with 50% of the memory of the last"
        in report.readme_section(summary)
    )
    page = " ".join(report.performance_page(summary).split())
    assert "| trl-best | 250 | 167–333 | 1.00 | 4.00 |" in page
    assert "| speed against TRL's best, at least | 4 | 3.00 | missed |" in page
    assert "| trl-best | 2.50e-02 | 2 | 0.00e+00 | NO |" in page
    assert "| ours | 24 | 64 | 500 | 2.00 |" in page
    assert "cpu 400 GFLOP/s float32, 2,000 bfloat16" in page
    share = summary["sizes"]["llama-135m"]["contenders"]["ours"]["ceiling_share"]
    words = f"which would take {share * 4 / 3:.0%} of the ceiling; ours is at {share:.0%}"
    assert f"- speed against TRL's best: 25% short of the goal, {words}" in page
    assert "TRL's defaults:" not in page  # that one is met


def test_what_limits_a_step_stands_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rates = {"cpu": {"float32": 1e11, "bfloat16": 2e11}}
    machine = {"cpu": "Some CPU", "threads": 2, "memory_bytes": 2**34, "gpu": None, "flops_per_second": rates}
    found = {"date": "2026-01-01", "command": "python -m bench.limits", "machine": machine}
    found["sizes"] = {"tiny": {"tokens": 3000, "step_seconds": 4.0, "products_seconds": 3.0}}
    monkeypatch.setattr(report, "LIMITS", tmp_path / "limits.json")
    assert "What limits" not in report.pages(None)[report.PAGE]
    report.LIMITS.write_text(json.dumps(found))
    row = report.pages(None)[report.PAGE].splitlines()[-1]
    assert row.replace(" ", "") == "|tiny|4.00|3.00|75%|750|1,000|"


def test_other_machines_follow_with_their_own_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measurements: list[Measurement]
) -> None:
    summary = summarize(measurements, warmup=1, command="python -m bench.train", date="2026-01-01")
    other = json.loads(json.dumps(summary))
    other["machine"]["cpu"] = "Some CPU"
    other["sizes"]["llama-135m"]["contenders"]["ours"]["tokens_per_second"] = 1234
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    (tmp_path / "results-some.json").write_text(json.dumps(other))
    page = report.pages(summary)[report.PAGE]
    first, _, second = page.partition("\n## On Some CPU, ")
    assert first == report.performance_page(summary)
    assert "| 1,234 " in second
    assert "| met" in second
    assert "- llama-135m: 1,234 tokens/s" in report.readme_section(summary)


def test_a_changed_number_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path, measurements, capsys) -> None:
    page = tmp_path / "performance.md"
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    results = tmp_path / "results.json"
    for name, path in {"ROOT": tmp_path, "PAGE": page, "README": readme, "RESULTS": results}.items():
        monkeypatch.setattr(report, name, path)
    summary = summarize(measurements, warmup=1, command="x", date="2026-01-01")
    monkeypatch.setattr(report, "read_results", lambda: summary)
    assert report.main([]) == 0
    assert report.main(["--check"]) == 0
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("after\n")
    summary["sizes"]["llama-135m"]["contenders"]["ours"]["tokens_per_second"] = 751
    assert report.main(["--check"]) == 1
    assert capsys.readouterr().err.count("does not agree") == 2
