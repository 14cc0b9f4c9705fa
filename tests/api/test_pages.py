"""Tables of the page of a run."""

from __future__ import annotations

from pathlib import Path

from tunesmith.api.pages import _data_tables
from tunesmith.config import load_config
from tunesmith.data import prepare


def test_what_was_noticed_in_the_data_says_where_and_what_to_change(tmp_path: Path) -> None:
    rows = "".join(f"What is {n}?,It is <b>{n}</b>.\n" for n in range(20))
    (tmp_path / "faq.csv").write_text(f"question,answer\n{rows}What is nothing?,\n")
    report = prepare(load_config(overrides={"data.path": str(tmp_path / "faq.csv")})).report
    _, noticed = _data_tables(report.to_json(), "read", "noticed")
    facts = dict(noticed.rows)
    assert facts["1 left out"] == "empty answer (row 22)"
    assert facts["answer, characters"].startswith("median ")
    assert facts["warning"].startswith('20 rows have HTML marks, such as "<b>" (rows 2, 3, ')
    assert facts["warning"].endswith("; export the text without them unless the model is to write HTML")
