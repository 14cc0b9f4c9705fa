"""Which of several exported files is recommended, and the report: its table, its picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.api.sizes import Measured, recommend, write_report


def made(
    name: str, size: int, *, f1: float = 0.5, perplexity: float = 2.0, status: str = "verified", lost: float = 1e-3
) -> Measured:
    numbers = {
        "divergence": lost,
        "token_f1": f1,
        "reference_token_f1": 0.5,
        "perplexity": perplexity,
        "reference_perplexity": 2.0,
        "prompts": 20.0,
        "rows": 8.0,
    }
    return Measured(name, size, status, numbers)


FILES = [
    made("f32", 40_000_000, lost=0.0),
    made("q8_0", 10_000_000, f1=0.48, perplexity=2.05),
    made("q5_0", 6_000_000, perplexity=2.2),
    made("q4_0", 5_000_000, f1=0.46),
    made("q3_k_m", 4_000_000, status="failed", lost=3.0),
]


def test_the_smallest_file_that_keeps_its_quality_is_recommended() -> None:
    assert recommend(FILES) == "q8_0"
    assert recommend(FILES[:1]) is None  # there is no choice
    assert recommend(FILES[2:]) is None  # each lost too much, or is broken
    unmeasured = Measured("q4_0", 5, "verified", {})
    assert recommend([FILES[0], unmeasured]) == "q4_0"


def test_the_report_is_a_table_and_a_picture(tmp_path: Path) -> None:
    paths = write_report(FILES, recommend(FILES), tmp_path, title="faq")
    assert [path.name for path in paths] == ["quantisation.md", "quantisation.png"]
    lines = paths[0].read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert rows[0] == "| export | MB | verdict | divergence (nats) | perplexity | token F1 |"
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| f32", "| **q8_0**", "| q5_0", "| q4_0", "| q3_k_m"]
    assert rows[2] == "| **q8_0** | 10.0 | verified | 1.0e-03 | 2.050 | 0.480 |"
    assert "perplexity 2.000 on 8 held-out rows, token F1 0.500" in lines[-3]
    assert lines[-1].startswith("Recommended: q8_0, the smallest that loses at most 0.03 of token F1 and 5% of")
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert write_report(FILES[:1], None, tmp_path, title="faq") == ()


@pytest.mark.parametrize("lost", [float("inf"), float("nan")])
def test_a_file_that_answers_with_nothing_finite_has_no_place_in_the_picture(lost: float, tmp_path: Path) -> None:
    broken = made("q2_k", 3, status="failed", lost=lost)
    paths = write_report([broken, broken], None, tmp_path, title="faq")
    assert [path.name for path in paths] == ["quantisation.md"]
    assert "None is recommended" in paths[0].read_text()
