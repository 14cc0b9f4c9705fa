"""What is said of a finished run, from files of today and of before."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from tunesmith.cli.eval import _skipped
from tunesmith.cli.report import _forgetting

NEW: dict[str, Any] = {
    "parent": "faq",
    "titles": {"perplexity": "perplexity", "token_f1": "token F1"},
    "shares": ["token_f1"],
    "tasks": [
        {
            **{"task": "faq", "is_new": False, "rows": 9},
            "before": {"perplexity": 12.5, "token_f1": 0.5},
            "after": {"perplexity": 14.0, "token_f1": 0.25},
            "change": {"perplexity": {"verdict": "worse"}, "token_f1": {"verdict": "no evidence"}},
        }
    ],
    "not_measured": {},
}
OLD = {name: value for name, value in NEW.items() if name != "shares"}


def text(content: dict[str, Any]) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        for part in _forgetting(content):
            console.print(part)
    return captured.get()


@pytest.mark.parametrize("content", [NEW, OLD])
def test_the_forgetting_table(content: dict[str, Any]) -> None:
    lines = text(content).splitlines()
    assert [re.findall(r"[-+]?\d+\.\d+", line) for line in lines if "perplexity" in line] == [
        ["12.50", "14.00", "+1.50"]
    ]
    (share,) = [line for line in lines if "token F1" in line]
    assert re.findall(r"[-+]?\d+\.\d+", share) == ["50.0", "25.0", "-25.0"]


def test_rows_that_were_not_measured_are_named() -> None:
    assert _skipped([7]) == "1 test row is not among them, without question or answer or too long for the model: row 7"
    many = _skipped(range(1, 8))
    assert many.startswith("7 test rows are not among them")
    assert many.endswith("model: rows 1, 2, 3, 4, 5, ...")
