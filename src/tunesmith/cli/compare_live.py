"""`tunesmith compare --interactive`: type a question, see the answers of all models side by side.

In a pipe each entry is a question, and a line of JSON its answers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tunesmith.cli.chat_commands import speed_text
from tunesmith.errors import Terminated, TunesmithError

if TYPE_CHECKING:
    from tunesmith.api import Panel, Reply

_SETTINGS = {"temp": "temperature", "top_p": "top_p", "tokens": "max_new_tokens"}
_HELP = """/temp NUMBER        temperature; 0 always takes the likeliest token
/top_p NUMBER       sample from the likeliest tokens of this much probability
/tokens NUMBER      longest answer
/system TEXT        set the system prompt; without text, remove it
/quit               end (as Ctrl-D does)
A \\ at the end of a line, or \"\"\" before and after, makes an entry of several lines.
Words that the first model did not write at their place are in colour. Nothing is remembered between questions."""


def talk(panel: Panel) -> int:
    """Ask until the end of the input. Returns the exit code."""
    from tunesmith.cli.chat import is_interactive
    from tunesmith.cli.terminal import tell

    tell(*_warnings(panel))
    if not is_interactive():
        return _piped(panel)
    tell(f"{', '.join(panel.names)}. /help lists the commands, Ctrl-D ends.", "")
    return _at_the_keyboard(panel)


def _piped(panel: Panel) -> int:
    from tunesmith.cli.chat_input import piped_entries, question_of
    from tunesmith.cli.terminal import json_text, tell

    for entry in piped_entries():
        question = question_of(entry)
        if question is None:
            news = command(panel, entry)
            if news is None:
                return 0
            tell(news)
        elif question:
            answers = {reply.name: reply.text for reply in panel.ask(question)}
            sys.stdout.write(json_text({"question": question, "answers": answers}) + "\n")
            sys.stdout.flush()
    return 0


def _at_the_keyboard(panel: Panel) -> int:
    from tunesmith.cli.chat_input import keyboard, question_of, read_entry
    from tunesmith.cli.terminal import tell

    next_line = keyboard()
    while True:
        try:
            entry = read_entry(next_line)
        except EOFError:
            tell("")
            return 0
        except Terminated:
            raise
        except KeyboardInterrupt:
            tell("", "Ctrl-D or /quit ends")
            continue
        try:
            question = question_of(entry)
            news = command(panel, entry) if question is None else _answered(panel, question) if question else ""
        except Terminated:
            raise
        except KeyboardInterrupt:
            news = "(stopped)"
        except TunesmithError as error:
            news = str(error)
        if news is None:
            return 0
        tell(*([news, ""] if news else []))


def _answered(panel: Panel, question: str) -> str:
    """Show the answers. Returns what they took."""
    from tunesmith.cli.scores import answer_columns
    from tunesmith.cli.terminal import console, show

    replies: list[Reply] = []
    with console(sys.stderr).status(f"asking {panel.names[0]} ...") as status:
        for reply in panel.ask(question):
            replies.append(reply)
            status.update(f"asking {panel.names[len(replies) % len(panel.names)]} ...")
    show(answer_columns([(reply.name, reply.text) for reply in replies]))
    speeds = [speed_text(reply.tokens, reply.seconds, is_cut=reply.is_cut) for reply in replies]
    return "; ".join(f"{reply.name}: {speed}" for reply, speed in zip(replies, speeds, strict=True))


def command(panel: Panel, line: str) -> str | None:
    """Do what a line that begins with / says. Returns what to tell the user; None ends it.

    Raises:
        SettingsError: a value is out of range.
    """
    name, _, argument = line[1:].partition(" ")
    argument = argument.strip()
    if name in ("quit", "exit", "q"):
        return None
    if name == "help":
        return _HELP
    if name == "system":
        panel.system = argument or None
        return f"system prompt: {argument}" if argument else "no system prompt"
    if name not in _SETTINGS:
        return f"there is no command /{name}; /help lists them, //{name} asks it"
    if argument:
        panel.set_generation(_SETTINGS[name], argument)
    return "\n".join([f"{_SETTINGS[name]}: {getattr(panel.config.generate, _SETTINGS[name]):g}", *_warnings(panel)])


def _warnings(panel: Panel) -> list[str]:
    return [f"{found.level}: {found.message}; {found.fix}" for found in panel.findings]
