"""The chat beyond one line and one answer: entries, history, commands, what is kept; on a real terminal too."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import environment
from tunesmith.cli.chat_commands import COMMANDS, Conversation
from tunesmith.cli.chat_input import read_entry
from tunesmith.config import load_config
from tunesmith.errors import Terminated
from tunesmith.generate import Choice

# --- entries


def entry(*lines: str) -> tuple[str, list[str]]:
    """What is read of the lines, and the lines that are left."""
    left = list(lines)

    def read_line(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read_entry(read_line), left


@pytest.mark.parametrize(
    ("lines", "read"),
    [
        (["one", "two"], "one"),
        (["one \\", "two"], "one \ntwo"),
        (["one\\", "two\\", "three", "four"], "one\ntwo\nthree"),
        (['"""', "one", "", "  two", '"""', "three"], "one\n\n  two"),
        (['"""one', 'two"""', "three"], "one\ntwo"),
        (['"""one"""', "two"], "one"),
        (['/bad """', "right", 'answer"""', "x"], "/bad right\nanswer"),
        (['what does """ mean', "x"], 'what does """ mean'),
        (["one\\"], "one"),
        (['"""', "one"], "one"),
        (["  /help  "], "/help"),
    ],
)
def test_entries_of_one_and_several_lines(lines: list[str], read: str) -> None:
    assert entry(*lines)[0] == read


def test_an_entry_takes_its_own_lines_alone() -> None:
    assert entry('"""one', 'two"""', "three") == ("one\ntwo", ["three"])
    assert entry("one", "two") == ("one", ["two"])
    with pytest.raises(EOFError):
        entry()


# --- commands


@pytest.fixture
def session(api):
    found = api.open_session("faq", {})
    api.calls.clear()
    return found


@pytest.fixture
def shown() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def talk(session, home: Path, shown) -> Conversation:
    return Conversation(session, "faq", base=False, show_both=lambda base, tuned: shown.append((base, tuned)))


def ask(talk: Conversation, question: str) -> str:
    written: list[str] = []
    talk.ask(question, written.append)
    return "".join(written)


def rows(file: str = "faq-corrections.jsonl") -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def test_settings_of_generation_are_changed_and_shown(talk, session) -> None:
    assert talk.command("/temp 0.7") == "temperature: 0.7"
    assert talk.command("/top_p 0.9") == "top_p: 0.9"
    assert talk.command("/tokens 5") == "max_new_tokens: 5"
    generate = session.config.generate
    assert (generate.temperature, generate.top_p, generate.max_new_tokens) == (0.7, 0.9, 5)
    assert talk.command("/tokens") == "max_new_tokens: 5"


def test_an_answer_says_how_fast_it_was_and_whether_it_was_cut(talk, session) -> None:
    ask(talk, "One?")
    assert talk.written.tokens == 7
    assert talk.written.speed.startswith("7 tokens, ")
    assert "cut" not in talk.written.speed
    session.finish_reason = "length"
    ask(talk, "Two?")
    assert "cut off: /tokens" in talk.written.speed
    session.interrupt_after = 1
    ask(talk, "Three?")
    assert talk.written is None


def test_compare_asks_both_and_goes_on_with_the_one_who_speaks(talk, shown) -> None:
    assert "ask something first" in talk.command("/compare")
    assert talk.command("/compare One?").startswith("base: 7 tokens")
    assert shown == [("base answer to One? after 1 messages", "tuned answer to One? after 1 messages")]
    assert talk.turns[-1].content == shown[0][1]
    before = list(talk.turns)
    talk.command("/compare")  # the last question once more
    assert shown[1] == shown[0]
    assert talk.turns == before
    talk.command("/base")
    talk.command("/compare Two?")
    assert talk.turns[-1].content == "base answer to Two? after 3 messages"


def test_compare_that_is_stopped_changes_nothing(talk, session, shown) -> None:
    session.interrupt_after = 3
    assert talk.command("/compare One?") == "(stopped)"
    assert (talk.turns, shown) == ([], [])


def test_labels_are_compared_for_each_text_on_its_own(talk, session, shown) -> None:
    session.labels = {"ham": 1, "spam": 1}
    session.choose = lambda messages, base: Choice(("ham", "spam"), (-len(messages), -9.0))
    for text in ("One", "Two"):
        talk.command(f"/compare {text}")
        assert [turn.content for turn in talk.turns] == [text, "ham"]


def test_adapters_are_exchanged(talk, session) -> None:
    ask(talk, "One?")
    talk.command("/base")
    assert "second answers from here on" in talk.command("/adapter second")
    assert ask(talk, "Two?") == "second answer to Two? after 3 messages"
    assert talk.name == "second"


def test_of_a_base_there_is_nothing_tuned(session, home: Path, shown) -> None:
    session.is_tuned = False
    talk = Conversation(session, "builtin:nano", base=False, show_both=lambda *both: shown.append(both))
    assert talk.who == "base"
    assert "/adapter RUN" in talk.command("/tuned")
    assert "/adapter RUN" in talk.command("/compare One?")
    assert (talk.who, shown) == ("base", [])
    talk.command("/adapter second")
    assert talk.who == "tuned"


@pytest.mark.parametrize(
    ("name", "file"), [(".", "my-model-corrections.jsonl"), ("./sub/..", "my-model-corrections.jsonl"), ("o/n", "n-")]
)
def test_corrections_are_called_after_the_model(
    session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    talk = Conversation(session, name, base=False, show_both=lambda base, tuned: None)
    ask(talk, "One?")
    talk.command("/good")
    (kept,) = Path().glob("*.jsonl")
    assert kept.name.startswith(file)


def test_corrections_are_kept_as_rows_that_train_reads(talk, home: Path) -> None:
    from tunesmith.data import prepare

    assert talk.command("/bad x") == "there is no answer yet"
    ask(talk, "One?")
    assert "tunesmith train faq-corrections.jsonl" in talk.command("/bad The right\nanswer.")
    assert talk.turns[-1].content == "The right\nanswer."  # the conversation goes on with it
    ask(talk, "Two?")
    talk.command("/good")
    ask(talk, "Three?")
    assert "train leaves it out" in talk.command("/bad")
    first, second, third = rows()
    assert first == {
        "question": "One?",
        "context": "",
        "answer": "The right\nanswer.",
        "wrong_answer": "tuned answer to One? after 1 messages",
        "model": "faq (tuned)",
    }
    assert (second["answer"], second["wrong_answer"]) == ("tuned answer to Two? after 3 messages", "")
    assert second["context"] == "user: One?\nassistant: The right\nanswer."
    assert (third["answer"], third["wrong_answer"]) == ("", "tuned answer to Three? after 5 messages")
    prepared = prepare(load_config(overrides={"data.path": "faq-corrections.jsonl"}))
    assert prepared.report.shape == "qa"
    kept = [*prepared.train, *prepared.validation, *prepared.test]
    assert sorted(row.answer for row in kept) == sorted([first["answer"], second["answer"]])


def test_a_prompt_that_was_set_is_part_of_what_is_kept(talk, session) -> None:
    """Without it, the answer would be trained on as one to the question alone. The run's own is in its settings."""
    talk.command("/system Be kind")
    ask(talk, "One?")
    talk.command("/good")
    ask(talk, "Two?")
    talk.command("/good")
    session.config = load_config(overrides={"prompt.system": "Be kind"})
    talk.command("/good")
    contexts = [row["context"] for row in rows()]
    assert contexts[0] == "system: Be kind"
    assert contexts[1].splitlines()[:2] == ["system: Be kind", "user: One?"]
    assert contexts[2].startswith("user: One?")


def test_every_command_has_a_line_of_help(talk) -> None:
    told = talk.command("/help")
    assert all(f"/{name} {argument}".rstrip() in told for name, (argument, _, _) in COMMANDS.items())


def test_a_pipe_prints_answers_alone(cli, api, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    api.make_run(load_config(overrides={"name": "faq", "data.path": "faq.xlsx"}))
    text = 'One\\\nmore?\n"""\nTwo\n\nlines?\n"""\n/compare Three?\n/good\n/temp 0.5\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
    outcome = cli("chat", "faq")
    assert outcome.code == 0
    assert outcome.out == (
        "tuned answer to One\nmore? after 1 messages\n"
        "tuned answer to Two\n\nlines? after 3 messages\n"
        "base answer to Three? after 5 messages\n"
        "tuned answer to Three? after 5 messages\n"
    )
    assert "temperature: 0.5" in outcome.err
    assert len(rows()) == 1


def test_an_unknown_model_is_told_at_once(cli, api) -> None:
    outcome = cli("chat", "nobody/knows")
    assert (outcome.code, api.calls) == (2, [])
    assert "a hub id that is on this machine" in outcome.err


# --- a real terminal

SCRIPT = """
import sys
from tunesmith.cli.chat_input import keyboard, read_entry
read = keyboard()
while True:
    try:
        print("read", repr(read_entry(read)))
    except EOFError:
        sys.exit(0)
"""


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, script: str, **changes: str) -> None:
        self.master, slave = pty.openpty()
        env = environment(TERM="xterm", **changes)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, f"{text!r} is not in {self.text!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.text += os.read(self.master, 4096).decode(errors="replace")

    def type(self, text: str, *, until: str) -> None:
        self.text = ""
        os.write(self.master, text.encode())
        self.wait_for(until)
        if until.startswith("read"):  # what is typed before the next prompt would be lost with the change of mode
            self.text = self.text.partition(until)[2]
            self.wait_for("you> ")

    def close(self) -> int:
        os.write(self.master, b"\x04")
        code = self.process.wait(30)
        os.close(self.master)
        return code


def test_history_outlives_the_session_and_is_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    terminal = Terminal(SCRIPT, XDG_STATE_HOME=str(state))
    terminal.wait_for("you> ")
    terminal.type("first question\r", until="read 'first question'")
    terminal.type('"""one\r', until="...> ")
    terminal.type('two"""\r', until=r"read 'one\ntwo'")
    assert terminal.close() == 0
    file = state / "tunesmith" / "chat_history"
    assert file.read_text(encoding="utf-8").splitlines() == ["first question", '"""one', 'two"""']
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    file.write_text("".join(f"old {n}\n" for n in range(1500)), encoding="utf-8")
    again = Terminal(SCRIPT, XDG_STATE_HOME=str(state))
    again.wait_for("you> ")
    again.type("\x1b[A\r", until="read 'old 1499'")  # arrow up: the newest
    again.type("new\r", until="read 'new'")
    assert again.close() == 0
    kept = file.read_text(encoding="utf-8").splitlines()
    assert len(kept) == 1000
    assert kept[-1] == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_state_folder_that_cannot_be_written_costs_the_history_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    terminal = Terminal(SCRIPT, XDG_STATE_HOME=str(tmp_path / "file"))
    terminal.wait_for("you> ")
    terminal.type("question\r", until="read 'question'")
    assert terminal.close() == 0


def test_pasted_lines_are_one_entry(tmp_path: Path) -> None:
    terminal = Terminal(SCRIPT, XDG_STATE_HOME=str(tmp_path))
    terminal.wait_for("you> ")
    terminal.type("\x1b[200~one\ntwo\x1b[201~\r", until=r"read 'one\ntwo'")
    assert terminal.close() == 0


# --- SIGTERM


@pytest.mark.parametrize("command", [("chat", "faq"), ("compare", "base", "faq", "--interactive")], ids=" ".join)
def test_sigterm_ends_what_ctrl_c_does_not(command, cli, api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.make_run(load_config(overrides={"name": "faq"}))

    def killed(prompt: str) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("SIGTERM was not answered")

    monkeypatch.setattr("builtins.input", killed)
    monkeypatch.setattr("tunesmith.cli.chat.is_interactive", lambda: True)
    outcome = cli(*command)
    assert (outcome.code, outcome.err.splitlines()[-1]) == (143, "stopped; nothing is half-written")


@pytest.mark.parametrize("line", ["One?", "/compare One?"])
def test_sigterm_ends_an_answer_and_the_chat(line: str, talk, session, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> Iterator[str]:
        yield "tuned"
        raise Terminated

    monkeypatch.setattr(session, "stream", killed)
    with pytest.raises(Terminated):
        talk.command(line) if line.startswith("/") else ask(talk, line)
