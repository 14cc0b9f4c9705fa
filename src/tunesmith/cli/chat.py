"""`tunesmith chat`: a conversation with a run in the terminal, or line by line through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Overrides
from tunesmith.errors import DataError, TunesmithError

if TYPE_CHECKING:
    from tunesmith.api import Session
    from tunesmith.types import Message

STOPPED = "(stopped)"


def chat(
    run: Annotated[str, Parameter(help="A run, by name or folder (last: the newest).")],
    /,
    *,
    base: Annotated[bool, Parameter(help="Begin with the model as it was before tuning.")] = False,
    overrides: Overrides,
) -> int:
    """Talk to a run.

    Type /help there for the commands: /base and /tuned change the model, /save
    keeps the conversation. Ctrl-C stops an answer, Ctrl-D ends. In a pipe each
    line is a question, and nothing but the answers is printed. A run that
    classifies answers each line with a label and its probability.

        tunesmith chat faq
        tunesmith chat faq --temperature 0.7
        tunesmith chat faq < questions.txt
    """
    from tunesmith.cli.report import check_reference
    from tunesmith.cli.terminal import tell

    check_reference(run)
    interactive = is_interactive()
    if interactive:
        tell(f"loading {run} ...")
    from tunesmith import api

    conversation = Conversation(api.open_session(run, {**overrides}), base=base)
    if not interactive:
        return _piped(conversation)
    tell(f"{run}, the {conversation.who} model. /help lists the commands, Ctrl-D ends.", "")
    return _interactive(conversation)


def is_interactive() -> bool:
    """Whether somebody types at one end and reads at the other."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class Conversation:
    """The messages so far, the model that answers, and the commands that change either."""

    def __init__(self, session: Session, *, base: bool) -> None:
        self.session = session
        self.base = base
        self.system = session.config.prompt.system
        self.turns: list[Message] = []

    @property
    def who(self) -> str:
        return "base" if self.base else "tuned"

    @property
    def messages(self) -> list[Message]:
        from tunesmith.types import Message

        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    def ask(self, question: str, write: Callable[[str], None]) -> str | None:
        """Answer through `write`, and remember both. Returns a note for the user, if there is one.

        When the conversation no longer fits the model, its oldest turns are forgotten. What was written of an answer
        that was stopped with Ctrl-C is remembered.
        """
        from tunesmith.types import Message

        if self.session.labels:
            self.turns.clear()  # each text is classified on its own, as in training
        self.turns.append(Message("user", question))
        written: list[str] = []
        try:
            forgotten = self._write(written, write)
        except KeyboardInterrupt:
            self._remember(written)
            return STOPPED
        except TunesmithError:
            self.turns.pop()
            raise
        self._remember(written)
        return f"(the oldest {forgotten} messages were forgotten: the model reads no more)" if forgotten else None

    def _write(self, written: list[str], write: Callable[[str], None]) -> int:
        if self.session.labels:
            from tunesmith.cli.labels import choice_line

            choice = self.session.choose(self.messages, base=self.base)
            written.append(choice.label)
            write(choice_line(choice))
            return 0
        forgotten = 0
        while True:
            try:
                for piece in self.session.stream(self.messages, base=self.base):
                    written.append(piece)
                    write(piece)
                return forgotten
            except DataError:
                if written or len(self.turns) < 3:
                    raise
                del self.turns[:2]
                forgotten += 2

    def _remember(self, written: list[str]) -> None:
        from tunesmith.types import Message

        answer = "".join(written)
        if answer:
            self.turns.append(Message("assistant", answer))
        else:
            self.turns.pop()

    def command(self, line: str) -> str | None:
        """Do what a line that begins with / says. Returns what to tell the user; None ends the conversation."""
        name, _, argument = line[1:].partition(" ")
        if name in ("quit", "exit", "q"):
            return None
        if name not in COMMANDS:
            return f"there is no command /{name}; /help lists them"
        _, _, action = COMMANDS[name]
        return action(self, argument.strip())

    def reset(self, _: str) -> str:
        self.turns.clear()
        return "forgotten; a new conversation begins"

    def set_system(self, text: str) -> str:
        self.system = text or None
        return f"system prompt: {text}" if text else "no system prompt"

    def use_base(self, _: str) -> str:
        self.base = True
        return "the base model answers from here on"

    def use_tuned(self, _: str) -> str:
        self.base = False
        return "the tuned model answers from here on"

    def save(self, file: str) -> str:
        """The conversation as one line of JSON that `tunesmith train` reads."""
        import json

        from tunesmith.runs import atomic_write

        if not file:
            return "/save needs a file name, such as /save talk.jsonl"
        if Path(file).exists():
            return f"{file} exists already; choose another name"
        turns = [{"role": message.role, "content": message.content} for message in self.messages]
        atomic_write(Path(file), json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
        return f"saved {len(turns)} messages in {file}"

    def help(self, _: str) -> str:
        lines = [f"/{name} {argument}".ljust(16) + purpose for name, (argument, purpose, _) in COMMANDS.items()]
        return "\n".join([*lines, "/quit".ljust(16) + "end (as Ctrl-D does)"])


# name -> its argument, what it does, the method
COMMANDS: dict[str, tuple[str, str, Callable[[Conversation, str], str]]] = {
    "help": ("", "this list", Conversation.help),
    "reset": ("", "forget the conversation", Conversation.reset),
    "system": ("TEXT", "set the system prompt; without text, remove it", Conversation.set_system),
    "base": ("", "let the base model answer", Conversation.use_base),
    "tuned": ("", "let the tuned model answer", Conversation.use_tuned),
    "save": ("FILE", "write the conversation as a line of JSON that train reads", Conversation.save),
}


def _write(piece: str) -> None:
    from tunesmith.cli.terminal import plain

    sys.stdout.write(plain(piece))
    sys.stdout.flush()


def _piped(conversation: Conversation) -> int:
    from tunesmith.cli.terminal import tell

    try:
        for raw in sys.stdin:
            line = raw.strip()
            if line.startswith("/"):
                news = conversation.command(line)
                if news is None:
                    break
                tell(news)
            elif line:
                note = conversation.ask(line, _write)
                sys.stdout.write("\n")
                sys.stdout.flush()
                if note == STOPPED:
                    return 130
    except UnicodeDecodeError as error:
        raise DataError(
            "standard input is not text", cause=str(error), fix=f"send it as {sys.stdin.encoding}"
        ) from error
    return 0


def _interactive(conversation: Conversation) -> int:
    import readline  # noqa: F401  gives input() a history and line editing

    from tunesmith.cli.terminal import tell

    interrupted = False
    while True:
        try:
            line = input("you> ").strip()
        except EOFError:
            tell("")
            return 0
        except KeyboardInterrupt:
            tell("")
            if interrupted:
                return 130
            interrupted = True
            tell("Ctrl-D or /quit ends (or Ctrl-C once more)")
            continue
        interrupted = False
        if line.startswith("/"):
            news = conversation.command(line)
            if news is None:
                return 0
            tell(news, "")
        elif line:
            _write(f"{conversation.who}> ")
            try:
                note = conversation.ask(line, _write)
            except TunesmithError as error:
                note = str(error)
            _write("\n\n")
            if note:
                tell(note, "")
