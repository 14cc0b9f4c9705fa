"""The page: everything is on it, nothing in it runs or loads, and what a model wrote stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tunesmith.evaluate.answers import Answer
from tunesmith.evaluate.contests import Contest, hold
from tunesmith.evaluate.report import MOST_ROWS, report_html
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


def test_everything_is_on_the_page() -> None:
    page = Page(
        report_html(
            contest_of(20),
            title="faq",
            facts=[("data", "faq.xlsx")],
            pictures=[("curves", b"\x89PNG")],
            texts=[("data report", "two columns")],
        )
    )
    for expected in (
        "faq.xlsx",
        "tuned is better than base",
        "19 rows better, 0 worse, 1 equal",
        "token F1, long questions (6)",
        "data report",
        "two columns",
        "expected",
        "cut off",
        "all 20 rows, first those where tuned loses most against base",
    ):
        assert expected in page.text, expected
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["data:image/png;base64,iVBORw=="]


def test_what_a_model_wrote_stays_text_and_nothing_is_loaded() -> None:
    html = report_html(contest_of(20), title=HOSTILE, facts=[("a", HOSTILE)], texts=[(HOSTILE, HOSTILE)])
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("alert(1)") == 6  # title twice, fact, text and its heading, answer
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)\w""", html)


def test_words_of_the_reference_are_marked() -> None:
    html = report_html(contest_of(20), title="faq")
    assert "<mark>green</mark>" in html
    assert "<mark>nobody</mark>" not in html


def test_of_many_rows_the_ends_are_shown() -> None:
    page = Page(report_html(contest_of(MOST_ROWS + 50), title="faq"))
    assert sum(tag == "details" for tag, _ in page.tags) == MOST_ROWS
    assert "the 150 rows where tuned loses most, and the 150 where it gains most" in page.text


@pytest.mark.parametrize("rows", [1, 20])
def test_answers_without_references_are_shown(rows: int) -> None:
    page = Page(report_html(contest_of(rows, reference=""), title="faq"))
    assert "nothing is scored" in page.text
    assert f"the first {rows} of {rows} questions" in page.text
    assert "expected" not in page.text
