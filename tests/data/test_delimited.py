"""csv and tsv: delimiter, quotes, header and line numbers, and exact round trips."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.config import DataConfig
from tunesmith.data import Table, read
from tunesmith.data.readers.delimited import read_csv
from tunesmith.data.readers.source import Source

# what a cell may hold: anything but lone surrogates, zero bytes and the carriage returns that csv rewrites
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20)
QUOTED = st.text(alphabet='ab,;\t|"\n ?', max_size=12)


def parse(text: str, **given_settings: str) -> Table:
    return read_csv(Source(Path("a.csv"), text.encode(), **given_settings))


def rows_of(table: Table) -> list[tuple[object, ...]]:
    return [tuple(record.cells.values()) for record in table.records]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(delimiter: str) -> None:
    lines = [["Frage", "Antwort"], ["Was, bitte?", "Eins; zwei"], ["Und, nun?", "Drei | vier"]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(lines)
    table = parse(text.getvalue())
    assert table.delimiter == delimiter
    assert rows_of(table) == [tuple(line) for line in lines[1:]]


@pytest.mark.parametrize(("wanted", "other"), [(";", ", "), (",", "; "), ("|", ", ")])
def test_of_two_that_cut_all_rows_alike_the_one_of_a_sentence_does_not(wanted: str, other: str) -> None:
    table = parse("".join(f"Where is {n}?{wanted}Above{other}in room {n}.\n" for n in range(5)))
    assert table.delimiter == wanted
    assert rows_of(table)[0] == ("Where is 0?", f"Above{other}in room 0.")


@pytest.mark.parametrize("heading", ["Häufige Fragen", "Interview question"])
def test_a_heading_over_one_column_of_questions(heading: str) -> None:
    assert parse(heading + "\n" + "".join(f"What is {n}?\n" for n in range(5))).columns == (heading,)
    assert parse(heading + "\nWhat is it?\nA thing.\nWhat else?\n").columns == ("column1",)


@pytest.mark.parametrize("line", ["sep=;\n", "sep=;\r\n", '"sep=;"\n', "SEP=;;;\n"])
def test_the_line_that_tells_excel_the_delimiter_is_obeyed(line: str) -> None:
    table = parse(line + "Frage;Antwort;Nr\n" + "Wo, und wann?;Hier, jetzt;1\n" * 3)
    assert (table.delimiter, table.columns) == (";", ("Frage", "Antwort", "Nr"))
    assert [record.row for record in table.records] == [3, 4, 5]
    assert table.findings == ()


@pytest.mark.parametrize("rows", ["a?,One,two\n" * 3 + "b?,c\n", "1,a?,b\n" * 3])
def test_cells_beyond_the_last_heading_are_told(rows: str) -> None:
    found = {finding.code: finding for finding in parse("question,answer\n" + rows).findings}
    assert found["unnamed_columns"].rows == (2, 3, 4)
    assert found["unnamed_columns"].message == '3 rows with cells beyond the last heading, in "column3"'


def test_delimiter_setting_overrules() -> None:
    assert parse("a;b,c\n1;2,3\n", delimiter=",").columns == ("a;b", "c")


def test_one_column_with_commas_stays_one_column() -> None:
    table = parse("text\nOne, two, three.\nNo comma here at all.\nFour, five.\n")
    assert table.delimiter is None
    assert rows_of(table)[0] == ("One, two, three.",)


def test_quoted_line_breaks_are_kept_and_rows_numbered_by_their_first_line() -> None:
    table = parse('question,answer\na?,"one\ntwo"\n"b\n?",x\nc?,y\n')
    assert rows_of(table) == [("a?", "one\ntwo"), ("b\n?", "x"), ("c?", "y")]
    assert [record.row for record in table.records] == [2, 4, 6]


def test_windows_line_ends() -> None:
    table = parse("question,answer\r\na?,b\r\nc?,d\r\n")
    assert rows_of(table) == [("a?", "b"), ("c?", "d")]
    assert [record.row for record in table.records] == [2, 3]


def test_text_stays_text() -> None:
    assert rows_of(parse("zip,answer\n00501,1.50\n1e5,NA\n")) == [("00501", "1.50"), ("1e5", "NA")]


def test_stray_quotes_do_not_swallow_rows() -> None:
    lines = [f'ham\tMessage number {index} said "hi' for index in range(5)] + ['spam\t"Unclosed quote', "ham\tAfter it"]
    table = parse("\n".join(lines) + "\n")
    assert table.rows_read == len(lines)
    assert rows_of(table)[5] == ("spam", '"Unclosed quote')
    assert "quotes" in [finding.code for finding in table.findings]


def test_a_stray_quote_does_not_undo_the_quoting_of_other_rows() -> None:
    lines = [f'"Where, {index}?","Here, there"' for index in range(9)] + ['Why?,"Say "hi, you", please"']
    table = parse("\n".join(["question,answer", *lines]) + "\n")
    assert rows_of(table)[0] == ("Where, 0?", "Here, there")


def test_commas_of_prose_without_quotes_do_not_cut_answers() -> None:
    table = parse("question,answer\nHow, then?,Open it, press F5, wait.\nWho?,Me\nWhat?,a,b\n")
    assert rows_of(table) == [("How, then?", "Open it, press F5, wait."), ("Who?", "Me")]
    assert {finding.code: finding.rows for finding in table.findings} == {"unquoted": (2,), "long_rows": (4,)}


def test_spaces_after_every_delimiter_are_no_prose() -> None:
    table = parse("question, answer\na?, b\nc?, d, e\nf?, g\n")
    assert [finding.code for finding in table.findings] == ["long_rows"]


@pytest.mark.parametrize("row", ['"a?", "One, two"', '"a?" , "One, two"', 'a?, "One, two"'])
def test_quotes_may_stand_behind_a_space(row: str) -> None:
    table = parse("question, answer\n" + f"{row}\n" * 3)
    assert [tuple(str(cell).strip() for cell in record.cells.values()) for record in table.records] == [
        ("a?", "One, two")
    ] * 3
    assert table.columns == ("question", "answer")


def test_quotes_may_be_escaped_by_backslashes() -> None:
    table = parse('question,answer\na?,"He said \\"no\\", and left C:\\\\new"\nb?,"c"\n')
    assert [record.cells["answer"] for record in table.records] == ['He said "no", and left C:\\\\new', "c"]
    assert table.findings[0].code == "quotes"


def test_prose_with_quotes_behind_commas_stays() -> None:
    text = 'question,answer\na?,"He said, ""no"", twice"\nb?,"c"\n'
    assert [record.cells["answer"] for record in parse(text).records] == ['He said, "no", twice', "c"]


def test_text_after_a_closing_quote_is_told_but_rows_are_kept() -> None:
    table = parse('question,answer\n"a" b?,"x\ny"\nc?,d\n')
    assert [record.row for record in table.records] == [2, 4]
    assert "quotes" in [finding.code for finding in table.findings]


def test_short_and_long_rows_are_told_with_their_lines() -> None:
    table = parse("question,answer,note\na?,b,c\nd?\ne?,f,g,h\ni?,j,k,,\n")
    assert [record.row for record in table.records] == [2, 3, 5]
    assert table.unreadable == {"too many cells": (4,)}
    assert {finding.code: finding.rows for finding in table.findings} == {"short_rows": (3,), "long_rows": (4,)}
    assert table.rows_read == 4


def test_blank_lines_between_rows_are_rows_and_at_the_end_are_not() -> None:
    table = parse("question,answer\na?,b\n\n,\nc?,d\n\n\n")
    assert [record.row for record in table.records] == [2, 3, 4, 5]


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module() -> None:
    limit = csv.field_size_limit()
    assert len(str(parse(f"question,answer\na?,{'x' * 200_000}\n").records[0].cells["answer"])) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("question,answer\nx?,y\n", ("question", "answer")),
        ("Scenario,Response\nBot_Age,I have none.\n", ("Scenario", "Response")),
        ("ham,Go until jurong point.\nspam,Free entry in a comp\nham,Ok lar\n", ("column1", "column2")),
        ("What is this?,A press.\nWho is it?,Me.\n", ("column1", "column2")),
        ("How?,This way\nWho?,Me there\n", ("column1", "column2")),
        ("1,2\n3,4\n", ("column1", "column2")),
        ("FAQ of 2024,,\n,,\nNr,Frage,Antwort\n1,Wo?,Hier\n2,Wann?,Jetzt\n", ("Nr", "Frage", "Antwort")),
        ("Text,,Text\n1,2,3\n", ("Text", "column2", "Text (2)")),
        ("x,y,\n1,2,\n", ("x", "y")),
        ("Name\nA long first sentence here.\nAnother long sentence here.\n", ("Name",)),
        ("apple\npear\nplum\n", ("column1",)),
        (
            '"Question\n(customer)","Answer\n(at most 300 words, please)"\na?,b\nc?,d\n',
            ("Question (customer)", "Answer (at most 300 words, please)"),
        ),
        ("Task,Owner,Done?\nCall Ann,Ann,yes\nCall Bob,Bob,no\n", ("Task", "Owner", "Done?")),
        (
            "\n".join([*(f"Note {index}" for index in range(30)), "Frage,Antwort", *["Wo?,Hier"] * 60]),
            ("Frage", "Antwort"),
        ),
        ('"Customer\nwants","Our\nreply"\nto pay,Click Pay\nto go,Click Go\n', ("Customer wants", "Our reply")),
        (
            "Time,What is your question?,What would you say?\n" + "3/1/24 9:05 AM,How do I pay?,Click Pay.\n" * 3,
            ("Time", "What is your question?", "What would you say?"),
        ),
        ("Question,2023,2024\nWhat is paper?,12,13\nWhat is ink?,1999,8\n", ("Question", "2023", "2024")),
        ("Item,2024,2022,2020\npaper,twelve,ten,nine\n", ("Item", "2024", "2022", "2020")),
        ("Comment,Is it spam?\n" + "Win a car,TRUE\nSee you,FALSE\nBye now,TRUE\n", ("Comment", "Is it spam?")),
        ("Parking,Only if it is dry!\n" + "Pool,yes\nGarden,no\nLift,yes\n", ("column1", "column2")),
        ("Titanic,1997,1998\nAlien,1979,1980\n", ("column1", "column2", "column3")),
        ("paper,2005,1912,2001\nink,17,3,4\n", ("column1", "column2", "column3", "column4")),
        ("n/a,Who is it?,It is me.\n" + "12,How do I pay?,Click Pay.\n" * 3, ("column1", "column2", "column3")),
    ],
)
def test_header(text: str, columns: tuple[str, ...]) -> None:
    assert parse(text).columns == columns


def test_rows_above_the_header_are_told() -> None:
    table = parse("Export of today,\nQuestion,Answer\na?,b\n")
    assert [(finding.code, finding.rows) for finding in table.findings] == [("title_rows", (1,))]
    assert table.records[0].row == 3


def test_rows_above_a_table_without_a_header_are_told() -> None:
    table = parse("Export of today,\nHow do I pay?,Click Pay.\nHow do I go?,Click Go.\n")
    assert [(finding.code, finding.rows) for finding in table.findings] == [("title_rows", (1,)), ("no_header", ())]
    assert table.rows_read == 2


QUESTIONS = "Question,Answer\nWho?,We.\nWhere?,Here.\n,\n"


@pytest.mark.parametrize(
    "below",
    [
        "Item,Price\npaper,3 euros\nink,4 euros\nglue,5 euros\n",
        "Prices,\nItem,Price\npaper,3\nink,4\nglue,5\n",
        "Frage,Antwort\nWer?,Wir.\n",
    ],
)
def test_another_table_below_is_told(below: str) -> None:
    table = parse(QUESTIONS + below)
    (told,) = table.findings
    assert (told.level, told.code, told.rows) == ("warning", "tables_below", (6 if "Prices" in below else 5,))
    assert f"row {told.rows[0]} looks like" in told.message
    assert "(and 1 more)" in parse(QUESTIONS + below + ",\n" + below).findings[0].message


@pytest.mark.parametrize(
    "below",
    [
        "Shipping,\nHow long?,Three days.\nHow much?,5 euros.\n",
        "Opening hours,every day\nAddress,Main street\n",
        "Opening hours,9 to 5\nPhone,555\nFax,556\nRoom,7\n",
        "Question,Answer\nWhat?,It.\n",
        "Frage,Antwort\n",
    ],
)
def test_rows_after_a_blank_one_are_no_other_table(below: str) -> None:
    assert parse(QUESTIONS + below).findings == ()


def test_a_row_of_ordinary_words_is_no_header_further_down() -> None:
    """Known but unspecific names below the first row are data: a vocabulary list, for one."""
    table = parse("Wort,Word\nTitel,title\nsubject,message\n")
    assert table.columns == ("Wort", "Word")
    assert table.rows_read == 2


@settings(max_examples=150)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.sampled_from([",", ";", "\t", "|"]))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], delimiter: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("question", "answer"), *rows])
    table = parse(text.getvalue(), delimiter=delimiter)
    expected = list(rows)
    while expected and not any(cell.strip() for cell in expected[-1]):
        expected.pop()
    assert rows_of(table) == expected


@settings(max_examples=150)
@given(st.lists(st.tuples(QUOTED, QUOTED, QUOTED), min_size=1, max_size=8), st.sampled_from([",", ";", "\t", "|"]))
def test_the_delimiter_is_found_among_quotes_and_other_delimiters(rows: list[tuple[str, ...]], delimiter: str) -> None:
    rows = [*rows, ("last", "row", "x")]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([("id", "Question", "Answer"), *rows])
    table = parse(text.getvalue())
    assert table.delimiter == delimiter
    assert rows_of(table) == rows


@settings(max_examples=100)
@given(st.lists(CELLS.filter(lambda cell: cell.strip() and "\n" not in cell), min_size=1, max_size=6))
def test_row_numbers_are_lines_of_the_file(cells: list[str]) -> None:
    rows = [(cell, "two\nlines") for cell in cells]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("question", "answer"), *rows])
    lines = text.getvalue().split("\n")
    for record in parse(text.getvalue()).records:
        first = str(record.cells["question"])
        assert lines[record.row - 1].startswith(first.replace('"', '""') if lines[record.row - 1][:1] != '"' else '"')


def test_tsv_prefers_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("one\ttwo, three\nfour\tfive, six\n")
    assert read(DataConfig(), path).delimiter == "\t"
