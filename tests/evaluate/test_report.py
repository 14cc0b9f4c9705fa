"""The page: everything is on it, nothing in it runs or loads, and what a model wrote stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tunesmith.evaluate.answers import Answer
from tunesmith.evaluate.contests import Contest, hold
from tunesmith.evaluate.remarks import Remark
from tunesmith.evaluate.report import MOST_ROWS, PageTable, report_html
from tunesmith.types import Example, Message

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'too' {{ 7 * 7 }}"


def contest_of(rows: int, *, reference: str = "press the green button") -> Contest:
    asked = [
        Example(
            (Message("user", f"question {n}"), *([Message("assistant", reference)] if reference else [])), row=n + 2
        )
        for n in range(rows)
    ]
    return hold(
        asked,
        {
            "base": [Answer("nobody knows", True, 2, 1.0) for _ in asked],
            "tuned": [Answer(HOSTILE if n == 0 else "press the green button", n != 1, 4, 1.0) for n in range(rows)],
        },
    )


def chat_of(question: str) -> Example:
    turns = (("system", "Be short."), ("user", HOSTILE), ("assistant", "It is hot."), ("user", question))
    return Example(tuple(Message(role, text) for role, text in [*turns, ("assistant", "Wait.")]), row=2)


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_a_judge_said_is_folded_under_its_answer() -> None:
    asked = [Example((Message("user", f"question {n}"), Message("assistant", "yes")), row=n) for n in range(2)]
    answers = [Answer("yes", True, 1, 1.0)] * 2
    said = {
        "base": [[Remark("judge_score", 7.0, f"Fair. {HOSTILE}\nSCORE: 7")], []],
        "tuned": [
            [Remark("judge_pass", 1.0, "Good.\nVERDICT: pass"), Remark("judge_preference", 0.5, "A tie.")],
            [Remark("judge_score", None, "")],
        ],
    }
    html = report_html(hold(asked, {"base": answers, "tuned": answers}, said=said), title="faq")
    folded = re.findall(r'<details class="said"><summary>(.*?)</summary><p>(.*?)</p></details>', html, re.DOTALL)
    assert [title for title, _ in folded] == [
        "judge, 1 to 10: 7",
        *("passed by the judge: yes", "preferred by the judge: a tie", "judge, 1 to 10: no score"),
    ]
    assert "<script>" not in html
    assert Page(folded[0][1]).text == f"Fair. {HOSTILE}\nSCORE: 7"
    assert folded[3][1] == "(nothing)"


def test_a_chat_is_shown_with_what_was_said_before() -> None:
    answers = {name: [Answer("Wait.", True, 1, 1.0)] * 2 for name in ("base", "tuned")}
    plain = Example((Message("user", "Alone?"), Message("assistant", "Wait.")), row=3)
    contest = hold([chat_of("And now?"), plain], answers)
    assert [row.get("conversation") for row in contest.rows] == [
        [
            {"role": "user", "content": HOSTILE},
            {"role": "assistant", "content": "It is hot."},
            {"role": "user", "content": "And now?"},
        ],
        None,
    ]
    html = report_html(contest, title="faq")
    assert html.count('<div class="turns">') == 1
    assert f"user {HOSTILE}assistant It is hot.user And now?" in Page(html).text
    assert "<script>" not in html


def test_everything_is_on_the_page() -> None:
    page = Page(
        report_html(
            contest_of(20),
            title="faq",
            facts=[("data", "faq.xlsx")],
            pictures=[("curves", b"\x89PNG")],
            texts=[("data report", "two columns")],
            tables=[PageTable("suite", ["score", "base"], [["right", "50.0"]], note="80 questions", is_numeric=True)],
        )
    )
    for expected in (
        "faq.xlsx",
        "Tuned is better than base",
        "19 rows better",
        "1 row equal",
        "0 rows worse",
        "long questions",
        "80 questions",
        "base: median 2 words, longest 2",
        "expected: median 4 words, longest 4",
        "data report",
        "two columns",
        "expected",
        "cut off",
        "Where tuned gains most against base",
        "The other 10 rows",
    ):
        assert expected in page.text, expected
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["data:image/png;base64,iVBORw=="]


def test_what_a_model_wrote_stays_text_and_nothing_is_loaded() -> None:
    table = PageTable(HOSTILE, [HOSTILE], [[HOSTILE]], note=HOSTILE)
    facts = [("a", HOSTILE)]
    html = report_html(contest_of(20), title=HOSTILE, facts=facts, texts=[(HOSTILE, HOSTILE)], tables=[table])
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("alert(1)") == 10  # title twice, fact, text and its heading, four of the table, answer
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)\w""", html)


def test_words_of_the_reference_are_marked_and_those_of_the_first_model_are_not_underlined() -> None:
    html = report_html(contest_of(20), title="faq")
    assert "<u><mark>green</mark></u>" in html
    assert "<mark>nobody</mark>" not in html
    assert "<u>nobody</u>" not in html
    same = hold(
        [Example((Message("user", "Which?"),), row=1)],
        {name: [Answer(text, True, 1, 1.0)] for name, text in (("a", "the red button"), ("b", "the green button"))},
    )
    assert "<u>green</u>" in report_html(same, title="x")
    assert report_html(same, title="x").count("<u>") == 2  # and the one that says what it means


def test_the_worst_and_the_best_rows_come_first() -> None:
    asked = [Example((Message("user", f"q{n}"), Message("assistant", "red green blue")), row=n) for n in range(40)]
    base = [Answer("red", True, 1, 1.0)] * 40
    tuned = [Answer({7: "black", 9: "red green blue", 11: "red green"}.get(n, "red"), True, 1, 1.0) for n in range(40)]
    text = Page(report_html(hold(asked, {"base": base, "tuned": tuned}), title="x")).text
    at = [text.index(f"{question} row") for question in ("q7", "q9", "q11", "q0", "q1")]
    assert at == sorted(at)
    assert text.index("loses most") < at[0] < text.index("gains most") < at[1] < text.index("The other 37 rows")


def test_memory_is_told_where_it_is_known() -> None:
    contest = contest_of(20)
    assert "memory of the weights" not in report_html(contest, title="x")
    known = replace(contest, memory_bytes={"tuned": 3 * 2**20})
    assert "<td>memory of the weights</td><td>-</td><td>3 MiB</td>" in report_html(known, title="x")
    assert [model["memory_bytes"] for model in known.to_json()["models"]] == [None, 3 * 2**20]


def test_one_endless_answer_does_not_press_the_others_into_one_bar() -> None:
    asked = [Example((Message("user", f"q{n}"),), row=n) for n in range(100)]
    words = [Answer("word " * (500 if n == 0 else n % 20 + 1), True, 1, 1.0) for n in range(100)]
    html = report_html(hold(asked, {"a": words, "b": words}), title="x")
    assert "5 of 20 words" in html
    assert "1 of 23 words or more" in html


def test_of_many_rows_the_ends_are_shown() -> None:
    page = Page(report_html(contest_of(MOST_ROWS + 50), title="faq"))
    assert sum(tag == "details" for tag, _ in page.tags) == MOST_ROWS + 2  # two groups
    assert f"{MOST_ROWS - 10} of the other {MOST_ROWS + 40} rows" in page.text


@pytest.mark.parametrize("rows", [1, 20])
def test_answers_without_references_are_shown(rows: int) -> None:
    page = Page(report_html(contest_of(rows, reference=""), title="faq"))
    assert "nothing is scored" in page.text
    assert f"The first {rows} of {rows} questions" in page.text
    assert "expected" not in page.text
