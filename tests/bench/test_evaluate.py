"""The numbers of docs/evaluation.md are those of bench/evaluate.json, and the two ways to write them agree."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from bench import evaluate


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(evaluate.RESULTS.read_text(encoding="utf-8"))
    return results


def test_the_page_agrees_with_the_results(found: dict[str, Any]) -> None:
    """Fails when either was changed alone: python -m bench.evaluate writes them anew."""
    text = evaluate.PAGE.read_text(encoding="utf-8")
    assert evaluate.page_of(found, text) == text


def test_a_changed_number_is_seen(found: dict[str, Any]) -> None:
    text = evaluate.PAGE.read_text(encoding="utf-8")
    faster = copy.deepcopy(found)
    faster["speed"]["models"]["nano"]["writers"]["ours"]["rows_per_second"] *= 2
    assert evaluate.page_of(faster, text) != text
    stronger = copy.deepcopy(found)
    stronger["power"]["400"] = 0.01
    assert evaluate.page_of(stronger, text) != text


def test_a_missed_goal_is_told(found: dict[str, Any]) -> None:
    slower = copy.deepcopy(found["speed"])
    slower["models"]["nano"]["writers"]["one by one"]["ours_is_faster"] = 3.9
    assert "| 3.9 x |" in evaluate.speed_table(slower)
    assert "4 x: missed" in evaluate.speed_table(slower)


def test_more_rows_show_smaller_gains(found: dict[str, Any]) -> None:
    gains = [1.0 if gain is None else gain for gain in found["power"].values()]
    assert list(found["power"]) == [str(rows) for rows in evaluate.ROW_COUNTS]
    assert gains == sorted(gains, reverse=True)
