"""The conversation of a chat: what has been said, who answers, and the commands that begin with /.

Knows no keyboard and no terminal: it is handed functions that write.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.errors import DataError, Terminated, TunesmithError

if TYPE_CHECKING:
    from tunesmith.api import Completion, Session
    from tunesmith.types import Message

STOPPED = "(stopped)"
Who = Literal["base", "tuned"]


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, and what it took. `is_cut`: the model had more to say than `generate.max_new_tokens`."""

    text: str
    tokens: int
    seconds: float
    is_cut: bool

    @property
    def speed(self) -> str:
        return speed_text(self.tokens, self.seconds, is_cut=self.is_cut)


def speed_text(tokens: int, seconds: float, *, is_cut: bool) -> str:
    """For people: 34 tokens, 12.3 tokens/s; of a label, which is chosen and not written, the time."""
    if not tokens:
        return f"{seconds:.2g} s"
    cut = ", cut off: /tokens allows more" if is_cut else ""
    return f"{tokens} tokens, {tokens / max(seconds, 1e-9):.3g} tokens/s{cut}"


class Conversation:
    """The messages so far, the model that answers, and the commands that change either.

    Args:
        name: of the model, as the user gave it.
        base: begin with the base.
        show_both: shows an answer of the base and one of the tuned model.
    """

    def __init__(self, session: Session, name: str, *, base: bool, show_both: Callable[[str, str], None]) -> None:
        self.session = session
        self.name = _own_name(name)
        self.base = base or not session.is_tuned
        self.show_both = show_both
        self.system = session.config.prompt.system
        self.turns: list[Message] = []
        self.ended: list[list[Message]] = []  # conversations under earlier system prompts, which /save writes too
        self.written: Written | None = None  # the last answer, if it came to its end

    @property
    def who(self) -> Who:
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
        self.written = None
        self._begin(question)
        pieces: list[str] = []
        try:
            forgotten = self._write(pieces, write)
        except Terminated:
            raise
        except KeyboardInterrupt:
            self._remember(pieces)
            return STOPPED
        except TunesmithError:
            self.turns.pop()
            raise
        self._remember(pieces)
        return f"(the oldest {forgotten} messages were forgotten: the model reads no more)" if forgotten else None

    def _begin(self, question: str) -> None:
        from tunesmith.types import Message

        if self.session.labels:
            self.turns.clear()  # each text is classified on its own, as in training
        self.turns.append(Message("user", question))

    def _write(self, pieces: list[str], write: Callable[[str], None]) -> int:
        forgotten = 0
        while True:
            try:
                self.written = self._answer(self.messages, pieces, write, base=self.base)
                return forgotten
            except DataError:
                if pieces or len(self.turns) < 3:
                    raise
                del self.turns[:2]
                forgotten += 2

    def _answer(
        self, messages: list[Message], pieces: list[str], write: Callable[[str], None], *, base: bool
    ) -> Written:
        started = time.perf_counter()
        if self.session.labels:
            from tunesmith.cli.labels import choice_line

            choice = self.session.choose(messages, base=base)
            pieces.append(choice.label)
            write(choice_line(choice))
            return Written(choice.label, 0, time.perf_counter() - started, is_cut=False)
        ends: list[Completion] = []
        for piece in self.session.stream(messages, base=base, on_end=ends.append):
            pieces.append(piece)
            write(piece)
        seconds = time.perf_counter() - started
        (end,) = ends
        return Written("".join(pieces), len(end.token_ids), seconds, end.finish_reason == "length")

    def _remember(self, pieces: list[str]) -> None:
        from tunesmith.types import Message

        answer = "".join(pieces)
        if answer:
            self.turns.append(Message("assistant", answer))
        else:
            self.turns.pop()

    def command(self, line: str) -> str | None:
        """Do what a line that begins with / says. Returns what to tell the user; None ends the conversation."""
        name, _, argument = re.sub(r"\s", " ", line[1:], count=1).partition(" ")
        if name in ("quit", "exit", "q"):
            return None
        if name not in COMMANDS:
            return f"there is no command /{name}; /help lists them, //{name} asks it"
        _, _, action = COMMANDS[name]
        return action(self, argument.strip())

    def reset(self, _: str) -> str:
        self.turns.clear()
        self.ended.clear()
        return "forgotten; a new conversation begins"

    def set_system(self, text: str) -> str:
        begun = self._take_system(text or None)
        return (f"system prompt: {text}" if text else "no system prompt") + begun

    def _take_system(self, system: str | None) -> str:
        """Go on under a system prompt. Under another one a new conversation begins, and a note for the user says so.

        Saved with it, answers that were given without it would be trained on.
        """
        begins = bool(self.turns) and system != self.system
        if begins:
            self.ended.append(self.messages)
            self.turns.clear()
        self.system = system
        return "; a new conversation begins" if begins else ""

    def set_temperature(self, text: str) -> str:
        return self._generation("temperature", text)

    def set_top_p(self, text: str) -> str:
        return self._generation("top_p", text)

    def set_tokens(self, text: str) -> str:
        return self._generation("max_new_tokens", text)

    def _generation(self, name: str, text: str) -> str:
        if text:
            self.session.set_generation(name, text)
        return f"{name}: {getattr(self.session.config.generate, name):g}"

    def use_base(self, _: str) -> str:
        self.base = True
        return "the base model answers from here on"

    def use_tuned(self, _: str) -> str:
        if not self.session.is_tuned:
            return f"{self.name} is a base; /adapter RUN puts a tuned adapter on it"
        self.base = False
        return "the tuned model answers from here on"

    def use_adapter(self, reference: str) -> str:
        if not reference:
            return f"{self.name} answers; /adapter RUN takes the adapter of another run on the same base"
        self.session.use_adapter(reference)
        self.name, self.base = _own_name(reference), False
        begun = self._take_system(self.session.config.prompt.system)
        system = f", system prompt: {self.system}" if self.system else ""
        return f"{self.name} answers from here on, on the same base{system}{begun}"

    def compare(self, question: str) -> str:
        """Both answers to a new question, which the conversation goes on with, or once more to the last one."""
        if not self.session.is_tuned:
            return (
                f"{self.name} is a base, there is nothing to compare it with; /adapter RUN puts a tuned adapter on it"
            )
        if not question and not self.turns:
            return "ask something first, or: /compare QUESTION"
        if question:
            self._begin(question)
        try:
            asked = self.messages if question else self.messages[:-1]
            base, tuned = (self._answer(asked, [], lambda piece: None, base=base) for base in (True, False))
        except (KeyboardInterrupt, TunesmithError) as error:
            if question:
                self.turns.pop()
            if isinstance(error, (Terminated, TunesmithError)):
                raise
            return STOPPED
        if question:
            self._remember([(base if self.base else tuned).text])
        self.show_both(base.text, tuned.text)
        return f"base: {base.speed}; tuned: {tuned.speed}"

    def good(self, _: str) -> str:
        return self._keep(right=None, is_right=True)

    def bad(self, correction: str) -> str:
        """Keep the answer as a wrong one; the conversation goes on with the right one, where it is given."""
        from tunesmith.types import Message

        told = self._keep(right=correction or None, is_right=False)
        if correction and self.session.labels and correction not in self.session.labels:
            told += f"; {correction} is none of the labels that the run knows: {', '.join(self.session.labels)}"
        if correction and self.turns:
            self.turns[-1] = Message("assistant", correction)
        return told

    def _keep(self, *, right: str | None, is_right: bool) -> str:
        """Append the last exchange as a row of question, context, answer, wrong_answer and model."""
        from tunesmith.runs import append_line
        from tunesmith.types import Message

        if not self.turns:
            return "there is no answer yet"
        *earlier, question, answer = self.turns
        if self.system and self.system != self.session.config.prompt.system:  # the run's own is a setting of training
            earlier = [Message("system", self.system), *earlier]
        row = {
            "question": question.content,
            "context": "\n".join(f"{turn.role}: {turn.content}" for turn in earlier),
            "answer": answer.content if is_right else right or "",
            "wrong_answer": "" if is_right else answer.content,
            "model": f"{self.name} ({self.who})",
        }
        name = Path(os.path.abspath(self.name)).name  # of the folder, also where it is called "."
        file = Path(re.sub(r"[^\w.-]+", "-", name).strip(".-") + "-corrections.jsonl")
        append_line(file, json.dumps(row, ensure_ascii=False))
        if row["answer"]:
            return f"kept in {file}, which can be trained on: tunesmith train {file}"
        return f"kept in {file} without a right answer, so train leaves it out; /bad RIGHT ANSWER adds one"

    def save(self, file: str) -> str:
        """The conversation, and those under earlier system prompts: each a line that `tunesmith train` reads."""
        from tunesmith.runs import atomic_write

        if not file:
            return "/save needs a file name, such as /save talk.jsonl"
        talks = [*self.ended, *([self.messages] if self.turns else [])]
        if not talks:
            return "there is nothing to save yet"
        if Path(file).exists():
            return f"{file} exists already; choose another name"
        rows = [[{"role": message.role, "content": message.content} for message in talk] for talk in talks]
        lines = [json.dumps({"messages": turns}, ensure_ascii=False) for turns in rows]
        atomic_write(Path(file), "\n".join(lines) + "\n")
        apart = f" of {len(talks)} conversations" if len(talks) > 1 else ""
        return f"saved {sum(map(len, talks))} messages{apart} in {file}"

    def help(self, _: str) -> str:
        lines = [f"/{name} {argument}".ljust(20) + purpose for name, (argument, purpose, _) in COMMANDS.items()]
        more = 'A \\ at the end of a line, or """ before and after, makes an entry of several lines.'
        return "\n".join([*lines, "/quit".ljust(20) + "end (as Ctrl-D does)", more])


def _own_name(reference: str) -> str:
    """What is kept beside an answer: "last" will be another run tomorrow."""
    from tunesmith.runs import Run

    return Run.open(reference).name if reference == "last" else reference


# name -> its argument, what it does, the method
COMMANDS: dict[str, tuple[str, str, Callable[[Conversation, str], str]]] = {
    "help": ("", "this list", Conversation.help),
    "reset": ("", "forget the conversation", Conversation.reset),
    "system": ("TEXT", "begin again with a system prompt; without text, with none", Conversation.set_system),
    "temp": ("NUMBER", "temperature; 0 always takes the likeliest token", Conversation.set_temperature),
    "top_p": ("NUMBER", "sample from the likeliest tokens of this much probability", Conversation.set_top_p),
    "tokens": ("NUMBER", "longest answer", Conversation.set_tokens),
    "base": ("", "let the base model answer", Conversation.use_base),
    "tuned": ("", "let the tuned model answer", Conversation.use_tuned),
    "adapter": ("RUN", "answer with the adapter of another run on the same base", Conversation.use_adapter),
    "compare": ("QUESTION", "base and tuned side by side; without a question, the last one", Conversation.compare),
    "good": ("", "keep question and answer as a row to train on", Conversation.good),
    "bad": ("RIGHT ANSWER", "keep the question with the right answer instead", Conversation.bad),
    "save": ("FILE", "write the conversation as a line of JSON that train reads", Conversation.save),
}
