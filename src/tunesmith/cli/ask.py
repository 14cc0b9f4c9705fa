"""`tunesmith ask`: one question, one answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides, check_asking
from tunesmith.errors import DataError, SettingsError

if TYPE_CHECKING:
    from tunesmith.api import Session
    from tunesmith.types import Message


def ask(
    model: Annotated[
        str, Parameter(help="A run, by name or folder (last: the newest); or a base: a folder, builtin:nano, a hub id.")
    ],
    question: Annotated[
        str, Parameter(help="The question; - reads it from standard input.", allow_leading_hyphen=True)
    ],
    /,
    *,
    base: Annotated[bool, Parameter(help="Ask the model as it was before tuning.")] = False,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Ask a run or a base one question; the answer goes to standard output.

    A run that classifies answers with a label and its probability.

    tunesmith ask faq "How do I reset my password?"
    tunesmith ask faq "How do I reset my password?" --base
    tunesmith ask builtin:nano "What is a press?"
    tunesmith ask faq - --max_new_tokens 200 --temperature 0.7 < question.txt
    """
    from tunesmith import api
    from tunesmith.cli.labels import choice_line, tell_others
    from tunesmith.cli.terminal import plain, show_json

    text = read_question() if question == "-" else question
    if not text.strip():
        raise SettingsError("the question is empty", fix='tunesmith ask MODEL "a question"')
    check_asking(overrides)
    api.is_base(model)  # a misspelt name is told before everything heavy is imported
    session = api.open_session(model, {**overrides})
    messages = session.conversation(text)
    if json:
        started = time.perf_counter()
        answer = _answer(session, messages, base=base)
        who = "base" if base or not session.is_tuned else "tuned"
        head = {"schema_version": 1, "run": model, "model": who, "question": text}
        show_json({**head, **answer, "seconds": round(time.perf_counter() - started, 3)})
        return
    if session.labels:
        choice = session.choose(messages, base=base)
        sys.stdout.write(choice_line(choice) + "\n")
        tell_others(choice)
        return
    for piece in session.stream(messages, base=base):
        sys.stdout.write(plain(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")


def _answer(session: Session, messages: Sequence[Message], *, base: bool) -> dict[str, object]:
    """The answer; of labels the likeliest with its probability, and those of all."""
    if not session.labels:
        return {"answer": session.answer(messages, base=base)}
    choice = session.choose(messages, base=base)
    return {"answer": choice.label, "probability": choice.probability, "probabilities": dict(choice.ranked)}


def read_question() -> str:
    """All of standard input.

    Raises:
        DataError: it is not text in the terminal's encoding.
    """
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise DataError(
            "standard input is not text", cause=str(error), fix=f"send it as {sys.stdin.encoding}"
        ) from error
