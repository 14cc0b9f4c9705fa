"""Whatever is in a file: every row is kept or named, or one error of ours says why not. Never another exception."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.config import RunConfig
from tunesmith.data import prepare
from tunesmith.data.names import PART_NAMES, plain_heading
from tunesmith.errors import TunesmithError

CELLS = """Question|Answer|Frage|Q:|A:|What is it?|Open it, then wait.|| |\n|Sender|Ticket|Agent|Customer|Message|1
2024-01-01|<p>x</p>|TBD|ü|'|"|# Who?|Category|x"""
WORDS = st.sampled_from(CELLS.split("|"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def check(path: Path) -> None:
    config = RunConfig()
    config.data.path = str(path)
    try:
        report = prepare(config).report
    except TunesmithError:
        return
    assert report.rows_read == report.rows_kept + sum(map(len, report.dropped.values()))
    assert report.to_text()


@settings(max_examples=100)
@given(
    st.lists(st.lists(WORDS, max_size=6), max_size=10),
    st.sampled_from([",", ";", "\t", "\n"]),
    st.sampled_from(["csv", "tsv", "txt", "md"]),
    st.sampled_from(["utf-8", "utf-16", "cp1252"]),
)
def test_text(folder: Path, rows: list[list[str]], delimiter: str, ending: str, encoding: str) -> None:
    path = folder / f"a.{ending}"
    path.write_bytes("\n".join(delimiter.join(row) for row in rows).encode(encoding))
    check(path)


PLACES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=40)
@given(
    st.lists(st.lists(WORDS | st.none() | st.integers(0, 9) | st.floats(0, 1), min_size=1, max_size=6), max_size=9),
    st.lists(PLACES, max_size=2),
)
def test_workbooks(folder: Path, rows: list[list[Any]], areas: list[tuple[int, int, int, int]]) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for top, left, height, width in areas:
        book.active.merge_cells(start_row=top, start_column=left, end_row=top + height, end_column=left + width)
    book.save(folder / "a.xlsx")
    check(folder / "a.xlsx")


def settling(part: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name in PART_NAMES[part][0] if len(name) > 1])


REMARKS = st.sampled_from(["", " (at most 300 words, no names please)", "\n(please fill in)", " :", "\u200b"])


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(settling("question"), REMARKS),
    st.tuples(settling("answer"), REMARKS),
    st.permutations(["question", "answer", "number", "day", "nothing"]),
    st.lists(st.sampled_from([[], ["Our FAQ"], [None, "as of:", date(2024, 1, 5)]]), max_size=3),
    st.integers(0, 3),
)
def test_questions_and_answers_are_found_wherever_they_are(
    folder: Path,
    question: tuple[str, str],
    answer: tuple[str, str],
    order: list[str],
    titles: list[list[Any]],
    left: int,
) -> None:
    asks, replies = "".join(question), "".join(answer)
    headings = {"question": asks, "answer": replies, "number": "Nr", "day": "Date", "nothing": None}
    book = openpyxl.Workbook()
    for title in titles:
        book.active.append([None] * left + title)
    book.active.append([None] * left + [headings[name] for name in order])
    for row in range(12):
        cells = {"question": f"Where is it {row}", "answer": f"There it is, {row}."}
        others = {"number": row, "day": date(2024, 1, 5)}
        book.active.append([None] * left + [{**cells, **others}.get(name) for name in order])
    book.save(folder / "found.xlsx")
    config = RunConfig()
    config.data.path = str(folder / "found.xlsx")
    prepared = prepare(config)
    assert prepared.report.columns == {"question": plain_heading(asks), "answer": plain_heading(replies)}
    assert prepared.report.rows_read == prepared.report.rows_kept == 12
    assert all(example.answer == f"There it is, {example.question.split()[-1]}." for example in prepared.train)
