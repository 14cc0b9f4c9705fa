"""`tunesmith compare`: what is shown, what is written for a build, and the exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tunesmith.api.panel import Panel
from tunesmith.cli import compare_live
from tunesmith.cli.scores import answer_columns
from tunesmith.config import load_config


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
    api.failed_checks = [(), ("contains: a \x00b\u00a0\u3000👩\u200d💻",)]
    outcome = cli("compare", "base", "faq", "--questions", "cases.yaml", "--junit", "out/report.xml", "--json")
    assert outcome.code == 100
    assert "1 of 2 questions failed a check on faq" in outcome.err
    assert json.loads(outcome.out)["cases"][1]["failed"] == list(api.failed_checks[1])
    suite = ElementTree.fromstring(Path("out/report.xml").read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    passed, failed = (case.find("failure") for case in suite)
    assert passed is None
    assert failed is not None
    assert failed.get("message") == "contains: a b\u00a0\u3000👩\u200d💻"


def test_no_questions_are_no_passed_checks(cli, api) -> None:
    """An empty report would be green."""
    outcome = cli("compare", "base", "faq", "--junit", "out/report.xml")
    assert outcome.code == 2
    assert "--questions FILE.yaml" in outcome.err
    assert api.calls == []
    assert not Path("out").exists()


def test_checks_are_told_beside_the_answers(cli, api) -> None:
    api.failed_checks = [(), ("contains: a",)]
    shown = cli("compare", "base", "faq", "--questions", "cases.yaml").out
    assert "faq passed its check" in shown
    assert "faq failed: contains: a" in shown


def test_in_a_pipe_each_question_is_a_line_of_json(cli, api, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Who?\n\n/tokens 9\n/nonsense\n/etc/hosts?\n//tokens?\n//quit now?\none \\\ntwo\n/quit\nnever asked\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    outcome = cli("compare", "base", "faq", "ollama:x", "--interactive", "--temperature", "0.5")
    assert outcome.code == 0
    assert api.calls == [("open_panel", {"models": ("base", "faq", "ollama:x"), "overrides": {"temperature": "0.5"}})]
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["question"] for line in lines] == ["Who?", "/etc/hosts?", "//tokens?", "/quit now?", "one \ntwo"]
    assert lines[0]["answers"]["faq"] == "faq heard Who?"
    assert list(lines[0]["answers"]) == ["base", "faq", "ollama:x"]
    assert "max_new_tokens: 9" in outcome.err
    assert "there is no command /nonsense" in outcome.err


def test_at_the_keyboard_answers_stand_side_by_side(
    cli, api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = iter(["Who?", "/temp -7", "/help", "/system Be short."])

    def next_line(_: str) -> str:
        try:
            return next(entries)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("tunesmith.cli.chat.is_interactive", lambda: True)
    monkeypatch.setattr("tunesmith.cli.chat_input.keyboard", lambda: next_line)
    panel = api.open_panel(["base", "faq"])
    assert compare_live.talk(panel) == 0
    captured = capsys.readouterr()
    assert any("base heard Who?" in line and "faq heard Who?" in line for line in captured.out.splitlines())
    assert "faq: 5 tokens, 10 tokens/s, cut off" in captured.err
    assert "temperature" in captured.err  # -7 is out of range, and said so
    assert panel.config.generate.temperature == 0
    assert panel.system == "Be short."
    assert "/quit" in captured.err


def test_a_setting_that_a_server_does_not_get_is_told_when_it_matters() -> None:
    server = "http://127.0.0.1:9/v1#x"  # nobody is there
    panel = Panel(dict.fromkeys((server, "faq")), load_config(overrides={"top_k": 3}))  # type: ignore[arg-type]
    assert compare_live.command(panel, "/temp 0") == "temperature: 0"
    first, warning = str(compare_live.command(panel, "/temp 1")).split("\n")
    assert first == "temperature: 1"
    assert warning.startswith("warning: not sent, as")
    assert f"generate.top_k (to {server}); what is set there holds; set it there" in warning


@pytest.mark.parametrize("extra", [("--json",), ("--questions", "x.yaml"), ("--junit", "x.xml")])
def test_interactive_keeps_and_scores_nothing(cli, api, extra: tuple[str, ...]) -> None:
    outcome = cli("compare", "base", "faq", "--interactive", *extra)
    assert outcome.code == 2
    assert f"--interactive does not go with {extra[0]}" in outcome.err
    assert api.calls == []


def test_words_that_the_first_model_did_not_write_are_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table = answer_columns([("base", "press the red button"), ("faq", "press the green button now"), ("x", "")])
    _, faq, nothing = (column._cells[0] for column in table.columns)  # type: ignore[attr-defined]
    assert [faq.plain[span.start : span.end] for span in faq.spans if span.style] == ["green", "now"]
    assert nothing.plain == "(nothing)"
