"""eval, ask, chat and data inspect: what is asked of the api and what reaches the user."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunesmith.api.leaks import Leak, LeakReport
from tunesmith.cli.chat_commands import COMMANDS, Conversation
from tunesmith.config import load_config
from tunesmith.errors import DataError
from tunesmith.types import Finding


@pytest.fixture
def faq(api):
    return api.make_run(load_config(overrides={"name": "faq", "data.path": "faq.xlsx"}))


@pytest.fixture
def pipe(cli, api, faq, monkeypatch: pytest.MonkeyPatch):
    """pipe("text", "chat", "faq"): the command with text on its standard input."""

    def call(text: str | bytes, *arguments: str):
        raw = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        return cli(*arguments)

    return call


# --- eval


def test_eval_shows_table_and_answers_on_standard_output(cli, api, faq) -> None:
    outcome = cli("eval", "faq", "--eval.max_rows", "5", "--max_new_tokens", "9")
    assert outcome.code == 0
    overrides = {"eval.max_rows": "5", "max_new_tokens": "9"}
    assert api.calls == [("evaluate", {"reference": "faq", "data": None, "overrides": overrides})]
    table = [line.split() for line in outcome.out.splitlines()]
    assert ["perplexity", "80.00", "8.00", "-72.00", "-80.00", "to", "-60.00", "better"] in table
    assert ["exact", "match", "0.0", "100.0", "+100.0", "+100.0", "to", "+100.0", "better"] in table
    for text in ("Who?  (FAQ, row 3)", "expected: Me.", "the first row", "│ You.", "tunesmith chat faq"):
        assert text in outcome.out
    assert "1 answer by the tuned model" in outcome.err


def test_eval_names_test_rows_that_are_not_measured(cli, api, faq) -> None:
    assert "not among them" not in cli("eval", "faq").out
    api.skipped_rows = (11, 12)
    assert "2 test rows are not among them" in cli("eval", "faq").out


def test_eval_tells_what_a_judge_was_asked_without(cli, api, faq) -> None:
    api.findings = (Finding("warning", "setting_refused", "the judge owl refuses temperature", "take another"),)
    outcome = cli("eval", "faq", "--json")
    assert "warning: the judge owl refuses temperature; take another\n" in outcome.err
    assert json.loads(outcome.out)["rows"] == 1


def test_eval_names_test_rows_that_were_trained_on(cli, api, faq) -> None:
    one = Leak(0, "data/faq.csv", 3, "near", 0.9, "data/faq.csv", 7, "train")
    api.leakage = LeakReport((one,))
    shown = cli("eval", "faq").out
    assert "1 of 1 test rows is also in the training data" in shown
    assert "faq.csv row 3 = faq.csv row 7: near, 90% alike" in shown
    api.leakage = LeakReport((one, one))
    assert "2 of 1 test rows are also in the training data" in cli("eval", "faq").out
    api.leakage = LeakReport((one,) * 7)
    assert "  and 2 more in runs/faq/eval/files/other.csv/summary.json\n" in cli("eval", "faq").out


def test_eval_json_is_the_summary_alone(cli, api, faq) -> None:
    assert json.loads(cli("eval", "faq", "--json").out) == {"schema_version": 1, "rows": 1}


def test_eval_of_another_file(cli, api, faq) -> None:
    Path("other.csv").write_text("question,answer\nWho?,Me.\n")
    outcome = cli("eval", "faq", "--data", "other.csv")
    assert api.calls == [("evaluate", {"reference": "faq", "data": "other.csv", "overrides": {}})]
    assert "runs/faq/eval/files/other.csv/report.html" in outcome.out
    assert "measuring faq and its base on other.csv" in outcome.err
    assert "6 rows read, 6 kept" in outcome.err
    missing = cli("eval", "faq", "--data", "othr.csv")
    assert missing.code == 3
    assert "did you mean other.csv?" in missing.err


def test_eval_of_cases_is_a_gate(cli, api, faq) -> None:
    api.failed_checks = [(), ("contains: a",)]
    outcome = cli("eval", "faq", "--questions", "cases.yaml")
    assert outcome.code == 100
    assert "1 of 2 questions failed a check on faq" in outcome.err
    assert api.calls[0][1]["questions"] == "cases.yaml"
    both = cli("eval", "faq", "--questions", "cases.yaml", "--data", "other.csv")
    assert both.code == 2
    assert "--questions and --data are both given" in both.err


# --- ask


def test_ask_prints_the_answer_alone(cli, api, faq) -> None:
    assert cli("ask", "faq", "Who?").out == "tuned answer to Who? after 1 messages\n"
    assert cli("ask", "faq", "Who?", "--base").out == "base answer to Who? after 1 messages\n"
    assert cli("ask", "faq", "--", "--base").out == "tuned answer to --base after 1 messages\n"


def test_ask_takes_settings(cli, api, faq) -> None:
    cli("ask", "faq", "Who?", "--temperature", "0.7")
    assert api.calls == [("open_session", {"reference": "faq", "overrides": {"temperature": "0.7"}})]


def test_ask_reads_a_question(pipe) -> None:
    assert pipe("  Grüße\nzwei?\n", "ask", "faq", "-").out == "tuned answer to Grüße\nzwei? after 1 messages\n"
    outcome = pipe(b"\xff\xfe", "ask", "faq", "-")
    assert (outcome.code, outcome.out) == (3, "")
    assert pipe("\n", "ask", "faq", "-").code == 2


def test_ask_json(cli, api, faq) -> None:
    document = json.loads(cli("ask", "faq", "Who?", "--base", "--json").out)
    assert document.pop("seconds") >= 0
    assert document == {
        "schema_version": 1,
        "run": "faq",
        "model": "base",
        "question": "Who?",
        "answer": "base answer to Who? after 1 messages",
    }


def test_a_model_folder_can_be_asked(cli, api, home: Path) -> None:
    (home / "plain").mkdir()
    (home / "plain" / "config.json").touch()
    assert cli("ask", "plain", "Who?").code == 0


# --- chat


def test_chat_in_a_pipe_answers_line_by_line(pipe, home: Path) -> None:
    outcome = pipe("One?\n\nTwo?\n/base\nThree?\n/quit\nFour?\n", "chat", "faq")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "tuned answer to One? after 1 messages",
        "tuned answer to Two? after 3 messages",
        "base answer to Three? after 5 messages",
    ]
    assert outcome.err == "the base model answers from here on\n"


def test_chat_commands(pipe, home: Path) -> None:
    typed = ["/system Be kind", "One?", "/reset", "Two?", "/system", "Three?"]
    typed += ["/save talk.jsonl", "/save talk.jsonl", "/save", "/nonsense", "/help"]
    outcome = pipe("\n".join(typed), "chat", "faq", "--base")
    assert outcome.out.splitlines() == [
        "[Be kind] base answer to One? after 2 messages",
        "[Be kind] base answer to Two? after 2 messages",
        "base answer to Three? after 1 messages",
    ]
    # what was answered under a system prompt is saved under it
    saved = [json.loads(line) for line in (home / "talk.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [[(turn["role"], turn["content"].split()[0]) for turn in talk["messages"]] for talk in saved] == [
        [("system", "Be"), ("user", "Two?"), ("assistant", "[Be")],
        [("user", "Three?"), ("assistant", "base")],
    ]
    assert "no system prompt; a new conversation begins" in outcome.err
    assert "saved 5 messages of 2 conversations in talk.jsonl" in outcome.err
    assert "talk.jsonl exists already" in outcome.err
    assert "/save needs a file name" in outcome.err
    assert "there is no command /nonsense" in outcome.err
    assert all(f"/{name} " in outcome.err for name in [*COMMANDS, "quit"])


def test_questions_that_begin_with_a_slash_are_asked(pipe) -> None:
    outcome = pipe("/etc/hosts is what?\n//help is what?\n/nonsense is what?\n/ is what?", "chat", "faq", "--base")
    asked = [line.split(" after ")[0] for line in outcome.out.splitlines()]
    assert asked == [f"base answer to {what} is what?" for what in ("/etc/hosts", "/help", "/")]
    assert "there is no command /nonsense; /help lists them, //nonsense asks it" in outcome.err


def test_a_saved_conversation_can_be_trained_on(pipe, home: Path) -> None:
    from tunesmith.data import detect_columns, read

    pipe("One?\nTwo?\n/save talk.jsonl\n", "chat", "faq")
    config = load_config(overrides={"data.path": "talk.jsonl"}).data
    assert detect_columns(read(config), config).shape == "messages"


def test_chat_in_a_pipe_ends_with_the_error(pipe, api) -> None:
    api.session = Session = _session(api)
    Session.longest = 0
    outcome = pipe("One?\n", "chat", "faq")
    assert (outcome.code, outcome.out) == (3, "")


def _session(api):
    session = api.open_session("faq", {})
    api.calls.clear()
    return session


def test_ctrl_c_stops_the_answer_and_keeps_what_was_written(api) -> None:
    session = _session(api)
    talk, written = Conversation(session, "faq", base=False, show_both=lambda base, tuned: None), []
    session.interrupt_after = 2
    assert talk.ask("One?", written.append) == "(stopped)"
    assert written == ["tuned", " answer"]
    assert [message.content for message in talk.turns] == ["One?", "tuned answer"]
    session.interrupt_after = 0
    talk.ask("Two?", written.append)
    assert len(talk.turns) == 2  # nothing was written: as if it had not been asked


def test_the_oldest_turns_are_forgotten_when_the_model_is_full(api) -> None:
    session = _session(api)
    talk = Conversation(session, "faq", base=False, show_both=lambda base, tuned: None)
    session.longest = 3
    for question in ("One?", "Two?"):
        assert talk.ask(question, lambda piece: None) is None
    note = talk.ask("Three?", lambda piece: None)
    assert note is not None
    assert "oldest 2 messages were forgotten" in note
    assert [message.content for message in talk.turns if message.role == "user"] == ["Two?", "Three?"]


def test_a_question_that_cannot_be_answered_is_not_remembered(api) -> None:
    session = _session(api)
    talk = Conversation(session, "faq", base=False, show_both=lambda base, tuned: None)
    session.longest = 0
    with pytest.raises(DataError):
        talk.ask("One?", lambda piece: None)
    assert talk.turns == []


def test_chat_on_a_terminal(cli, api, faq, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["/base", KeyboardInterrupt, "One?", EOFError])

    def type_in(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", type_in)
    monkeypatch.setattr("tunesmith.cli.chat.is_interactive", lambda: True)
    outcome = cli("chat", "faq")
    assert outcome.code == 0
    assert outcome.out == "base> base answer to One? after 1 messages\n\n"
    for text in ("faq, the tuned model. /help lists", "the base model answers", "Ctrl-D or /quit ends"):
        assert text in outcome.err


def test_two_ctrl_c_end_a_chat(cli, api, faq, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    monkeypatch.setattr("tunesmith.cli.chat.is_interactive", lambda: True)
    assert cli("chat", "faq").code == 130


def test_an_error_does_not_end_a_chat_on_a_terminal(cli, api, faq, monkeypatch: pytest.MonkeyPatch) -> None:
    _session(api).longest = 0
    typed = iter(["One?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    monkeypatch.setattr("tunesmith.cli.chat.is_interactive", lambda: True)
    outcome = cli("chat", "faq")
    assert outcome.code == 0
    assert "the prompt is too long" in outcome.err


# --- data inspect


def test_inspect_shows_the_report_and_rows(cli, api) -> None:
    out = cli("data", "inspect", "faq.xlsx", "--rows", "2", "--data.sheet", "FAQ").out
    assert "6 rows read, 6 kept" in out
    assert out.count("as the model reads it (trained on: between ⟦ and ⟧)") == 2
    assert "<u>Question 3?⟦Answer 3.</a>⟧" in out
    assert "Question 4?" not in out
    assert api.calls[0][1]["config"].data.sheet == "FAQ"


def test_inspect_without_the_model_shows_the_messages(cli, api) -> None:
    outcome = cli("data", "inspect", "faq.xlsx", "--model", "far/away")
    assert "far/away is not on this machine" in outcome.err
    assert "user       Question 3?" in outcome.out


def test_inspect_json_is_the_report(cli, api) -> None:
    assert json.loads(cli("data", "inspect", "faq.xlsx", "--json").out)["rows_kept"] == 6


def test_eval_shows_each_task(cli, api, faq) -> None:
    def scores(**more: float) -> SimpleNamespace:
        return SimpleNamespace(metrics={"perplexity": 5.0, **more}, row_count=7)

    assert "task " not in cli("eval", "faq").out
    api.tasks = {"faq": scores(exact_match=0.25), "maths": scores(exact_match=0.5), "poems": scores()}
    lines = [" ".join(line.split()) for line in cli("eval", "faq").out.splitlines()]
    # the deciding one first, and of a task without it n/a
    assert "task rows exact match perplexity" in lines
    assert "maths 7 50.0 -> 50.0 5.00 -> 5.00" in lines
    assert "poems 7 n/a -> n/a 5.00 -> 5.00" in lines
    assert "scores: answers of 1 words (median) are facts, codes or names" in lines


@pytest.mark.parametrize(
    "command",
    [("eval", "faq"), ("ask", "faq", "Who?"), ("chat", "faq"), ("compare", "base", "faq")],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("flag", ["--epochs", "--train.batch_size", "--method", "--use-lora", "--name", "--output_dir"])
def test_a_setting_that_would_change_nothing_is_refused(command: tuple[str, ...], flag: str, cli, api, faq) -> None:
    outcome = cli(*command, flag, "1")
    assert (outcome.code, api.calls) == (2, [])
    assert f"{flag.replace('-lora', '_lora')} would change nothing here" in outcome.err
