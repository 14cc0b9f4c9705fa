"""What is measured of reading on, and what the page says of made-up runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench import pretraining, pretraining_report


def test_so_much_of_a_text_is_read_in_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "TEXT_BYTES", 100)
    monkeypatch.setattr(pretraining, "DOCUMENT_BYTES", 30)
    lines, play = tmp_path / "a.jsonl", tmp_path / "b.txt"
    lines.write_text("\n".join(json.dumps({"text": 40 * letter}) for letter in "abcdef"), encoding="utf-8")
    assert pretraining.documents(lines) == [40 * "a", 40 * "b", 40 * "c"]
    play.write_text("\n\n".join(20 * letter for letter in "abcdefghij"), encoding="utf-8")
    found = pretraining.documents(play)
    assert [text[0] for text in found] == ["a", "c", "e"]
    assert found[0] == f"{20 * 'a'}\n\n{20 * 'b'}\n\n"


def test_what_the_page_says() -> None:
    options = argparse.Namespace(texts=["web pages", "Shakespeare"], rows=[16, 4], rates=[2e-4, 2e-3])
    runs = [
        {**job, "steps": 48 // job["rows"], "before": 1.5, "after": 1.4 if job["rate"] < 1e-3 else 2.0}
        for job in pretraining.jobs(options)
    ]
    content = {"date": "2026-01-01", "command": "x", "versions": {"torch": "2"}, "runs": runs[:-1]}
    lines = pretraining_report.tables(content).splitlines()
    assert "| web pages, 3 steps of 16 blocks |" in lines[2]
    assert [line.replace(" ", "") for line in lines[4:]] == [
        "|before|1.500|1.500|1.500|1.500|",
        "|0.0002|1.400|1.400|1.400|1.400|",
        "|0.002|2.000|2.000|2.000||",
    ]


def test_the_page_is_the_one_of_the_results() -> None:
    assert pretraining_report.REPORT.is_up_to_date()
