"""The table of what types lose is made from the results, and says what they say."""

from __future__ import annotations

from typing import Any

from bench import export, export_report
from tunesmith.export import FILE_TYPES


def row(kind: str, *, imatrix: bool, divergence: float) -> dict[str, Any]:
    scores = {"perplexity": 1.2, "argmax_agreement": 0.98, "token_f1": 0.51, "ended": 0.99}
    reference = {"reference_perplexity": 1.1, "reference_token_f1": 0.5, "reference_ended": 1.0}
    counts = {"rows": 49.0, "prompts": 209.0, "bytes": 10_300_000}
    return {
        "type": kind,
        "imatrix": imatrix,
        "status": "verified",
        "divergence": divergence,
        **scores,
        **reference,
    } | counts


def test_the_table_has_a_line_for_each_type_and_says_what_the_matrix_did() -> None:
    content = {
        "date": "2026-01-01",
        "command": "python -m bench.export",
        "versions": {"llama-cpp-python": "0.3.36"},
        "steps": 450,
        "split": {"train": 400},
        "files": [
            row("q8_0", imatrix=False, divergence=1e-4),
            row("q4_k_m", imatrix=False, divergence=4e-3),
            row("q2_k", imatrix=False, divergence=1e-1),
            row("q4_k_m", imatrix=True, divergence=3e-3),
            row("q2_k", imatrix=True, divergence=2e-1),
        ],
    }
    text = export_report.table(content)
    lines = [line for line in text.splitlines() if line.startswith("| q")]
    assert [line.split(" | ")[0] for line in lines] == ["| q8_0", "| q4_k_m", "| q2_k"]
    assert "| q8_0 | 10.3 | verified | 1.0e-04 |  | 1.200 |  |" in lines[0]
    assert "| 4.0e-03 | 3.0e-03 |" in lines[1]
    assert text.endswith("lowers the divergence in 1 of 2 types: q4_k_m -25%, q2_k +100%.")


def test_what_is_measured_can_be_made() -> None:
    assert set(export.TYPES) <= set(FILE_TYPES)
    assert set(export.SMALL) == {name for name in export.TYPES if FILE_TYPES[name].bits < 8}


def test_the_page_is_made_from_the_results() -> None:
    """Fails when bench/export.json or the page was changed alone: python -m bench.export_report."""
    assert export_report.REPORT.is_up_to_date()
