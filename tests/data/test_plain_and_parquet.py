"""txt and parquet."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import DataConfig, RunConfig
from tunesmith.data import prepare, read
from tunesmith.data.readers.plain import read_txt
from tunesmith.data.readers.source import Source
from tunesmith.errors import DataError

LONG = "word " * 60


@pytest.mark.parametrize(
    ("text", "pieces", "rows", "continuous"),
    [
        ("First line\nsecond line\n\n\nNext paragraph\n", ["First line\nsecond line", "Next paragraph"], [1, 5], True),
        ("\n\n one\r\ntwo\r\n\r\nthree", [" one\ntwo", "three"], [3, 6], True),
        (f"{LONG}\n{LONG}\n", [LONG, LONG], [1, 2], False),
        ("short\nlines\n", ["short", "lines"], [1, 2], True),
        ("one line", ["one line"], [1], True),
    ],
)
def test_pieces_of_text(tmp_path: Path, text: str, pieces: list[str], rows: list[int], continuous: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    table = read(DataConfig(), path)
    assert [record.cells["text"] for record in table.records] == pieces
    assert [record.row for record in table.records] == rows
    assert table.continuous is continuous


@given(st.text(alphabet="ab \n\t", min_size=1, max_size=60).filter(str.strip))
def test_no_line_of_text_is_lost_or_changed(text: str) -> None:
    table = read_txt(Source(Path("a.txt"), text.encode()))
    lines = [line for record in table.records for line in str(record.cells["text"]).split("\n")]
    assert lines == [line for line in text.split("\n") if line.strip()]
    for record in table.records:
        assert text.split("\n")[record.row - 1] == str(record.cells["text"]).split("\n")[0]


def test_parquet_values_are_exact(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    table = pa.table(
        {
            "zip": ["00501", None],
            "count": [501, 12345678901234567],
            "price": [1.5, float("nan")],
            "exact": [Decimal("1.50"), Decimal("2.00")],
            "day": [date(2024, 1, 5), None],
            "moment": [datetime(2024, 1, 5, 10, 30), datetime(2024, 1, 5)],
            "yes": [True, False],
            "messages": [chat, []],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    first, second = (dict(record.cells) for record in read(DataConfig(), path).records)
    assert first == {
        "zip": "00501",
        "count": "501",
        "price": "1.5",
        "exact": "1.50",
        "day": "2024-01-05",
        "moment": "2024-01-05T10:30:00",
        "yes": "true",
        "messages": chat,
    }
    assert second["zip"] == second["price"] == second["day"] == ""
    assert second["count"] == "12345678901234567"
    assert second["moment"] == "2024-01-05"


@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        ([5400 * 10**9 + 1, None], pa.timestamp("ns"), "1970-01-01 01:30:00.000000001"),
        ([1, None], pa.time64("ns"), "00:00:00.000000001"),
        ([2**55, 1], pa.timestamp("ms"), "<value out of range: 36028797018963968>"),
        ([-5400, None], pa.duration("s"), "-1:30:00"),
    ],
)
def test_moments_that_python_cannot_hold(tmp_path: Path, values: list[Any], kind: pa.DataType, shown: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": ["a?", "b?"], "when": pa.array(values, kind)}), path)
    assert read(DataConfig(), path).records[0].cells == {"question": "a?", "when": shown}


def test_a_column_that_nothing_can_write_is_named(tmp_path: Path) -> None:
    nested = pa.array([{"at": 1}], pa.struct([("at", pa.timestamp("ns"))]))
    pq.write_table(pa.table({"question": ["a?"], "when": nested}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'when' cannot be read"):
        read(DataConfig(), tmp_path / "a.parquet")


def test_nestings_are_laid_flat_as_those_of_json(tmp_path: Path) -> None:
    """SQuAD as the hub holds it (Rajpurkar et al. 2018): two answers that are one, and a question without any."""
    answers = [{"text": ["in Köln", "in Köln"], "answer_start": [3, 9]}, {"text": [], "answer_start": []}]
    rows = {
        "title": ["x", "x"],
        "context": ["It is in Köln.", "None."],
        "question": ["Where?", "Why?"],
        "answers": answers,
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(rows), path)
    config = RunConfig()
    config.data.path = str(path)
    prepared = prepare(config)
    assert [(example.question, example.answer) for example in prepared.train] == [("Where?\nIt is in Köln.", "in Köln")]
    assert prepared.report.columns == {"question": "question", "answer": "answers.text", "context": "context"}
    assert prepared.report.dropped == {"empty answer": (2,)}


def test_parquet_without_rows_has_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert read(DataConfig(), tmp_path / "a.parquet").columns == ("question",)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["x"] * 100}), path)
    content = bytearray(path.read_bytes())
    for broken in (content[:-20], b"PAR1 is not enough", content[:40] + b"\xff" * 40 + content[80:]):
        path.write_bytes(bytes(broken))
        with pytest.raises(DataError, match="not a readable parquet file"):
            read(DataConfig(), path)


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": ["abcdefgh"]}), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abc\xf1\xffegh"))
    with pytest.raises(DataError, match="not a readable parquet file"):
        read(DataConfig(), path)


def test_a_table_called_txt_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("What?\tThat.\nWho?\tMe.\n")
    assert "--data.format tsv" in str(read(DataConfig(), tmp_path / "a.txt").findings[0].fix)
    (tmp_path / "b.txt").write_text("\tWhat?\nNo tab here\n")
    assert read(DataConfig(), tmp_path / "b.txt").findings == ()


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_first_line_of_names_makes_a_table_of_txt(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"Question{delimiter}Answer\nWhat?{delimiter}That.\n", encoding=encoding)
    table = read(DataConfig(), path)
    assert (table.columns, table.rows_read) == (("Question", "Answer"), 1)
    assert read(DataConfig(format="txt"), path).columns == ("text",)


@pytest.mark.parametrize("text", ["Question, answer\nWe asked.\n", "Question\tAnswer\n", "One, two\nthree, four\n"])
def test_other_first_lines_do_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read(DataConfig(), tmp_path / "a.txt").columns == ("text",)


def test_a_table_in_markdown_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# FAQ\n\n| Question | Answer |\n| --- | :-: |\n| What? | That. |\n")
    (finding,) = read(DataConfig(), tmp_path / "a.md").findings
    assert "| Question | Answer |" in finding.message
    (tmp_path / "b.md").write_text("Either | or\n---\nText | text\n")
    assert read(DataConfig(), tmp_path / "b.md").findings == ()
