"""Exports of help desks, chats and other programs: columns that such programs fill in are no questions and no labels."""

from __future__ import annotations

from typing import Any

from tunesmith.config import DataConfig
from tunesmith.data import Table, detect_columns
from tunesmith.types import Record

ASKED = ["I cannot log in.", "My parcel is late.", "The invoice is wrong.", "Please close my account.", "It is broken."]
SAID = ["Set a new password.", "It comes tomorrow.", "We sent a new one.", "That is done now.", "We send another one."]


def export(columns: dict[str, list[Any]]) -> Table:
    rows = zip(*columns.values(), strict=True)
    records = tuple(Record(row, dict(zip(columns, cells, strict=True))) for row, cells in enumerate(rows, start=2))
    return Table("a.csv", "csv", records, tuple(columns))


def test_a_column_with_one_value_is_no_question() -> None:
    """As of HubSpot: the pipeline stands before the resolution."""
    table = export({"Ticket description": ASKED, "Pipeline": ["Support pipeline"] * 5, "Resolution": SAID})
    found = detect_columns(table, DataConfig())
    assert found.columns == {"question": "Ticket description", "answer": "Resolution"}


def test_a_column_with_one_value_is_no_label_unless_it_is_called_so() -> None:
    """As of Zendesk: it is an error that it is a label, and one that says nothing of the texts beside it."""
    assert detect_columns(export({"Description": ASKED, "Tags": ["web"] * 5}), DataConfig()).shape == "text"
    assert detect_columns(export({"text": ASKED, "label": ["web"] * 5}), DataConfig()).shape == "label"


def test_who_speaks_is_no_label() -> None:
    """As of Slack."""
    columns = {"user": ["U1", "U2"] * 10, "text": [f"{text} {place}" for place in range(4) for text in ASKED]}
    assert detect_columns(export(columns), DataConfig()).shape == "text"
    assert detect_columns(export({"team": columns["user"], "text": columns["text"]}), DataConfig()).shape == "label"
