"""`tunesmith ask`: one question, one answer."""

from __future__ import annotations

import sys
import time
from typing import Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides
from tunesmith.errors import DataError, SettingsError


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

    tunesmith ask faq "How do I reset my password?"
    tunesmith ask faq "How do I reset my password?" --base
    tunesmith ask builtin:nano "What is a press?"
    tunesmith ask faq - --max_new_tokens 200 --temperature 0.7 < question.txt
    """
    from tunesmith import api
    from tunesmith.cli.terminal import plain, show_json

    text = read_question() if question == "-" else question
    if not text.strip():
        raise SettingsError("the question is empty", fix='tunesmith ask MODEL "a question"')
    is_base = api.is_base(model)  # a misspelt name is told before everything heavy is imported
    session = api.open_session(model, {**overrides})
    messages = session.conversation(text)
    if json:
        started = time.perf_counter()
        answer = session.answer(messages, base=base)
        show_json(
            {
                "schema_version": 1,
                "run": model,
                "model": "base" if base or is_base else "tuned",
                "question": text,
                "answer": answer,
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
        return
    for piece in session.stream(messages, base=base):
        sys.stdout.write(plain(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")


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
