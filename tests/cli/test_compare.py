"""`tunesmith compare`: what is shown, what is written for a build, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree


def test_verdict_table_and_answers_are_shown(cli, api) -> None:
    outcome = cli("compare", "base", "faq", "--questions", "cases.yaml", "--max_new_tokens", "9")
    assert outcome.code == 0
    (call,) = api.calls
    assert call[1]["models"] == ("base", "faq")
    assert (call[1]["questions"], call[1]["overrides"]) == ("cases.yaml", {"max_new_tokens": "9"})
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["exact", "match", "0.0", "100.0", "+100.0", "+100.0", "to", "+100.0", "better"] in lines
    assert "faq is better than base" in outcome.out
    assert "better on 12 questions, worse on 0, equal on 0" in outcome.out
    assert "comparisons/x/report.html" in outcome.out
    assert "12 answers by faq" in outcome.err


def test_a_failed_check_is_exit_code_100_and_a_failure_for_the_build(cli, api) -> None:
    api.failed_checks = [(), ("contains: a \x00b",)]
    outcome = cli("compare", "base", "faq", "--junit", "out/report.xml", "--json")
    assert outcome.code == 100
    assert "1 of 2 questions failed a check on faq" in outcome.err
    assert json.loads(outcome.out)["cases"][1]["failed"] == ["contains: a \x00b"]
    suite = ElementTree.fromstring(Path("out/report.xml").read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is not None for case in suite] == [False, True]
