"""Messages and lines that are pieces of examples: put together, told, and left alone where rows are examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import DataConfig
from tunesmith.data.gather import gather
from tunesmith.data.table import Table
from tunesmith.types import Finding, Record


def table_of(names: list[str], rows: list[list[Any]]) -> Table:
    records = tuple(Record(row, dict(zip(names, cells, strict=True))) for row, cells in enumerate(rows, start=2))
    return Table("a.csv", "csv", records, tuple(names), continuous=True)


def cells(table: Table) -> list[dict[str, object]]:
    return [dict(record.cells) for record in table.records]


CHAT = table_of(
    ["Ticket", "Sender", "Message", "Time"],
    [
        ["7", "Kunde", "My press is stuck.", "10:00"],
        ["7", "Kunde", "It is the old one.", "10:01"],
        ["8", "Customer", "Where are you?", "10:01"],
        ["7", "Agent", "Turn it off and on.", "10:02"],
        ["8", "Support", "In the old town hall.", "10:03"],
    ],
)


def test_messages_of_a_conversation_are_put_together() -> None:
    table = gather(CHAT, DataConfig())
    assert cells(table) == [
        {
            "messages": [
                {"role": "user", "content": "My press is stuck.\nIt is the old one."},
                {"role": "assistant", "content": "Turn it off and on."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "Where are you?"},
                {"role": "assistant", "content": "In the old town hall."},
            ]
        },
    ]
    assert [record.row for record in table.records] == [2, 4]
    assert 'by column "Ticket"' in table.findings[0].message


def test_a_number_that_stands_in_the_first_row_only_holds_for_those_below() -> None:
    names = ["Ticket", "Sender", "Message"]
    rows = [
        ["7", "Kunde", "My press is stuck."],
        ["", "Agent", "Turn it off."],
        ["", "Agent", ""],
        ["8", "Kunde", "Where are you?"],
        [" ", "Agent", "In the old town hall."],
    ]
    table = gather(table_of(names, rows), DataConfig())
    assert [[turn["content"] for turn in record["messages"]] for record in cells(table)] == [  # type: ignore[attr-defined]
        ["My press is stuck.", "Turn it off."],
        ["Where are you?", "In the old town hall."],
    ]
    unknown = table_of(names, rows[1:])
    assert gather(unknown, DataConfig()) is unknown


@pytest.mark.parametrize("answering", ["Support Team", "Customer Support", "support@acme.org", "Agent 007"])
def test_customers_may_have_names(answering: str) -> None:
    rows = [
        ["7", "Anna S.", "It is stuck."],
        ["7", answering, "Turn it."],
        ["8", "b@c.de", "Where?"],
        ["8", answering, "Here."],
    ]
    table = gather(table_of(["Ticket", "Sender", "Message"], rows), DataConfig())
    assert [[turn["role"] for turn in record["messages"]] for record in cells(table)] == [["user", "assistant"]] * 2  # type: ignore[attr-defined]
    assert f'answers are those of "{answering}"' in table.findings[0].message


@pytest.mark.parametrize("config", [DataConfig(shape="label"), DataConfig(columns={"text": "Message"})])
def test_settings_say_that_rows_are_examples(config: DataConfig) -> None:
    assert gather(CHAT, config) is CHAT


@pytest.mark.parametrize(
    "rows",
    [
        [["1", "Kunde", "Hi there you"], ["1", "Kunde", "Still here now"]],
        [["1", "Anna", "Hi there you"], ["1", "Bert", "Hello to you too"]],
    ],
    ids=["nobody answers", "names"],
)
def test_rows_without_both_speakers_stay(rows: list[list[Any]]) -> None:
    table = table_of(["Ticket", "Sender", "Message"], rows)
    assert gather(table, DataConfig()) is table


def lines_of(text: str) -> Table:
    return table_of(["text"], [[line] for line in text.split("\n")])


@pytest.mark.parametrize(
    "marks", [("Q:", "A:"), ("Frage 1:", "Antwort 1:"), ("**Question:**", "**Answer:**"), ("问：", "答：")]
)
def test_marked_questions_and_answers(marks: tuple[str, str]) -> None:
    pairs = [(f"Where is {name}?", f"At {name}.") for name in ("one", "two", "three")]
    table = gather(lines_of("\n".join(f"{marks[0]} {q}\n{marks[1]} {a}\nOr near it." for q, a in pairs)), DataConfig())
    assert cells(table) == [{"question": q, "answer": f"{a}\nOr near it."} for q, a in pairs]
    assert [record.row for record in table.records] == [2, 5, 8]
    assert not table.continuous


@pytest.mark.parametrize("marks", [("Question:", "Answer:"), ("Q1", "A1"), ("Frage", "Antwort")])
@pytest.mark.parametrize("order", [1, -1])
def test_marks_beside_the_text(marks: tuple[str, str], order: int) -> None:
    rows = [[mark, f"{mark} text {number}\nand more"][::order] for number in range(3) for mark in marks]
    table = gather(table_of(["column1", "column2"], [*rows, ["", ""]]), DataConfig())
    assert cells(table) == [
        {"question": f"{marks[0]} text {number}\nand more", "answer": f"{marks[1]} text {number}\nand more"}
        for number in range(3)
    ]
    assert [record.row for record in table.records] == [2, 4, 6]


def test_a_heading_that_is_a_question_belongs_to_its_sheet() -> None:
    table = table_of(["Q: one?"], [["A: 1"], ["Q: two?"], ["A: 2"], ["Q: three?"], ["A: 3"]])
    assert cells(gather(table, DataConfig()))[0] == {"question": "one?", "answer": "1"}


CHOICES = "A: red\nB: blue\nC: green"


@pytest.mark.parametrize("mark", ["Answer:", "A:"])
def test_a_list_of_choices_belongs_to_its_question(mark: str) -> None:
    text = "\n".join(f"Q: Which is {n}?\n{CHOICES}\n{mark} B, blue" for n in range(4))
    found = cells(gather(lines_of(text), DataConfig()))
    assert found == [{"question": f"Which is {n}?\n{CHOICES}", "answer": "B, blue"} for n in range(4)]


def test_a_list_of_choices_in_an_answer_stays_whole() -> None:
    text = "\n".join(f"Q: Ask me {n}.\nA: Which is {n}?\n{CHOICES}" for n in range(4))
    found = cells(gather(lines_of(text), DataConfig()))
    assert found == [{"question": f"Ask me {n}.", "answer": f"Which is {n}?\n{CHOICES}"} for n in range(4)]


def test_headings_that_ask() -> None:
    text = "# FAQ\n## Who?\nMe.\nAnd you.\n## What?\nThat.\n## Where?\nThere.\n"
    assert cells(gather(lines_of(text), DataConfig()))[0] == {"question": "Who?", "answer": "Me.\nAnd you."}


@pytest.mark.parametrize(
    "text",
    [
        "# Guide\n## Install\nRun it.\n## Use\nUse it.\n## Why?\nBecause.",
        "Q: one?\nQ: two?\nQ: three?\nQ: four?",
        "\n".join(f"Q: Which is {n}?\nA: red\nB: blue" for n in range(4)),
        "A line.\nAnother.\nQ: one?\nA: 1\nA third.\nA fourth.\nA fifth.\nMore.\nAnd more.",
    ],
    ids=["few headings ask", "no answers", "choices alone", "few marks"],
)
def test_other_text_stays(text: str) -> None:
    table = lines_of(text)
    assert gather(table, DataConfig()) is table


@given(st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), min_size=1, max_size=6))
def test_ordinary_pairs_are_never_touched(rows: list[list[str]]) -> None:
    table = table_of(["Question", "Answer"], list(rows))
    assert gather(table, DataConfig()) is table


IN_TURN = [text for n in range(3) for text in (f"What is {n}?", f"{n} is a number.")]


@pytest.mark.parametrize("names", [["FAQ"], ["No.", "FAQ"]])
def test_rows_that_ask_and_answer_in_turn(names: list[str]) -> None:
    rows: list[list[Any]] = [
        [*[n // 2 if n % 2 == 0 else None][: len(names) - 1], text] for n, text in enumerate(IN_TURN)
    ]
    rows.insert(2, [None] * len(names))
    table = gather(table_of(names, rows), DataConfig())
    assert cells(table) == [{"question": f"What is {n}?", "answer": f"{n} is a number."} for n in range(3)]
    assert [record.row for record in table.records] == [2, 5, 7]
    assert table.findings[0].code == "pairs_gathered"


def test_names_in_front_of_rows_that_take_turns_are_not_learnt() -> None:
    rows = [[f"{name}: {text}"] for name, text in zip(["Moderator", "Frau Klein"] * 3, IN_TURN, strict=True)]
    table = gather(table_of(["Text"], rows), DataConfig())
    assert cells(table) == [{"question": f"What is {n}?", "answer": f"{n} is a number."} for n in range(3)]
    assert "without the names" in table.findings[0].message
    rows[3] = ["Note: 1 is odd."]  # no name, where it is not that of all
    assert cells(gather(table_of(["Text"], rows), DataConfig()))[1]["answer"] == "Note: 1 is odd."


@pytest.mark.parametrize(
    "texts",
    [
        IN_TURN[:4],  # too few to be sure
        IN_TURN[:-1],
        [*IN_TURN[1:], "Why?"],  # an answer first
        [*IN_TURN, "And so on.", "What else?"],
        [*IN_TURN, "What is left?", "What do you mean?"],
    ],
)
def test_rows_that_do_not_take_turns_stay(texts: list[str]) -> None:
    table = table_of(["FAQ"], [[text] for text in texts])
    assert gather(table, DataConfig()) is table


def test_text_beside_rows_that_take_turns_may_be_the_answer() -> None:
    table = table_of(["FAQ", "Note"], [[text, f"A note on number {n}."] for n, text in enumerate(IN_TURN)])
    assert gather(table, DataConfig()) is table


def test_the_export_of_a_chat_takes_turns_by_chance() -> None:
    told = Finding("warning", "exported_chat", "lines begin with a time and a name")
    table = replace(table_of(["text"], [[text] for text in IN_TURN]), findings=(told,))
    assert gather(table, DataConfig()) is table


def test_an_instruction_goes_on_from_its_history() -> None:
    names = ["instruction", "input", "output", "system", "history"]
    rows = [
        ["And ink?", "The black one.", "It dries.", "Be short.", [["What is paper?", "Pulp."]]],
        ["Why?", "", "So.", "", []],
    ]
    table = gather(table_of(names, rows), DataConfig())
    turns = [
        [("system", "Be short."), ("user", "What is paper?"), ("assistant", "Pulp.")],
        [],
    ]
    ends = [
        [("user", "And ink?\nThe black one."), ("assistant", "It dries.")],
        [("user", "Why?"), ("assistant", "So.")],
    ]
    assert cells(table) == [
        {"messages": [{"role": role, "content": text} for role, text in (*before, *end)]}
        for before, end in zip(turns, ends, strict=True)
    ]
    assert "1 of 2 rows go on from earlier turns" in table.findings[0].message


@pytest.mark.parametrize("history", [[[], []], ["web", "print"], [[["a", "b"]], [["a"]]], [[{"a": "b"}], []]])
def test_what_is_no_history_of_turns_stays(history: list[Any]) -> None:
    rows = [["Why?", "So.", history[0]], ["How?", "By hand.", history[1]]]
    table = table_of(["instruction", "output", "history"], rows)
    assert gather(table, DataConfig()) is table
