"""`tunesmith chat`: a conversation with a model in the terminal, or entry by entry through a pipe."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from tunesmith.cli.chat_commands import STOPPED, Conversation
from tunesmith.cli.chat_input import keyboard, piped_entries, question_of, read_entry
from tunesmith.cli.overrides import Overrides, check_asking
from tunesmith.errors import Terminated, TunesmithError


def chat(
    model: Annotated[
        str, Parameter(help="A run, by name or folder (last: the newest); or a base: a folder, builtin:nano, a hub id.")
    ],
    /,
    *,
    base: Annotated[bool, Parameter(help="Begin with the model as it was before tuning.")] = False,
    overrides: Overrides,
) -> int:
    """Talk to a run, or to any base.

    Type /help there for the commands: /compare shows base and tuned side by side,
    /bad keeps a correction to train on, /save the conversation. Ctrl-C stops an
    answer, Ctrl-D ends. In a pipe each line is a question, and nothing but the
    answers is printed. A run that classifies answers each line with a label and
    its probability.

        tunesmith chat faq
        tunesmith chat builtin:nano --temperature 0.7
        tunesmith chat faq < questions.txt
    """
    from tunesmith import api
    from tunesmith.cli.terminal import tell

    check_asking(overrides)
    api.is_base(model)  # a misspelt name is told before everything heavy is imported
    interactive = is_interactive()
    if interactive:
        tell(f"loading {model} ...")
    session = api.open_session(model, {**overrides})
    conversation = Conversation(session, model, base=base, show_both=_side_by_side if interactive else _one_by_one)
    if not interactive:
        return _piped(conversation)
    tell(f"{model}, the {conversation.who} model. /help lists the commands, Ctrl-D ends.", "")
    return _interactive(conversation)


def is_interactive() -> bool:
    """Whether somebody types at one end and reads at the other."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _write(piece: str) -> None:
    from tunesmith.cli.terminal import plain

    sys.stdout.write(plain(piece))
    sys.stdout.flush()


def _side_by_side(base: str, tuned: str) -> None:
    from tunesmith.cli.scores import answer_columns
    from tunesmith.cli.terminal import show

    show(answer_columns([("base", base), ("tuned", tuned)]))


def _one_by_one(base: str, tuned: str) -> None:
    for answer in (base, tuned):
        _write(f"{answer}\n")


def _piped(conversation: Conversation) -> int:
    from tunesmith.cli.terminal import tell

    for entry in piped_entries():
        question = question_of(entry)
        if question is None:
            news = conversation.command(entry)
            if news is None:
                break
            tell(news)
        elif question:
            note = conversation.ask(question, _write)
            _write("\n")
            if note == STOPPED:
                return 130
            if note:
                tell(note)
    return 0


def _interactive(conversation: Conversation) -> int:
    from tunesmith.cli.terminal import tell

    next_line = keyboard()
    interrupted = False
    while True:
        try:
            entry = read_entry(next_line)
        except EOFError:
            tell("")
            return 0
        except Terminated:
            raise
        except KeyboardInterrupt:
            tell("")
            if interrupted:
                return 130
            interrupted = True
            tell("Ctrl-D or /quit ends (or Ctrl-C once more)")
            continue
        interrupted = False
        question = question_of(entry)
        if question is None:
            try:
                news = conversation.command(entry)
            except TunesmithError as error:
                news = str(error)
            if news is None:
                return 0
            tell(news, "")
        elif question:
            _answer(conversation, question)


def _answer(conversation: Conversation, question: str) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import tell

    _write(f"{conversation.who}> ")
    try:
        note = conversation.ask(question, _write)
    except TunesmithError as error:
        note = str(error)
    _write("\n")
    if conversation.written:
        tell(Text(f"({conversation.written.speed})", style="dim"))
    _write("\n")
    if note:
        tell(note, "")
