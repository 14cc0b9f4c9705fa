"""Records -> examples: one small function per shape, and the reason for every row that cannot be trained on.

Knows nothing of files, splits or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.clean import is_blank, normalise_newlines, tidy
from tunesmith.data.facts import as_turns
from tunesmith.data.names import plain_heading
from tunesmith.data.table import cell_text
from tunesmith.types import Example, Message, Record, Role

Columns = Mapping[str, str]

BLANK_ROW = "blank row"
REPEATED_HEADER = "repeats the header"
NO_ANSWER = "no answer turn"
EMPTY = "empty "  # and the part
MALFORMED = "malformed conversation"

# what others call the roles of a turn -> ours
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why a row cannot be trained on."""

    reason: str


def build_example(record: Record, shape: str, columns: Columns) -> Example | Unusable:
    """The example in a row, its text tidied (plain text: only line ends), or why there is none."""
    if is_blank(record.cells.values()):
        return Unusable(BLANK_ROW)
    if repeats_header(record):
        return Unusable(REPEATED_HEADER)
    if shape == "text":
        text = normalise_newlines(cell_text(record.cells.get(columns["text"], "")))
        return Example(text=text, row=record.row, sheet=record.sheet) if text.strip() else Unusable(EMPTY + "text")
    messages = _BUILDERS[shape](record.cells, columns)
    if isinstance(messages, Unusable):
        return messages
    system = _cell(record.cells, columns, "system")
    if system and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return Example(messages=messages, row=record.row, sheet=record.sheet)


def repeats_header(record: Record) -> bool:
    """Two cells at least, and each says the name of its column: for printing, or between tables one below the other."""
    filled = {name: cell for name, cell in record.cells.items() if not is_blank([cell])}
    return len(filled) > 1 and all(plain_heading(cell_text(cell)) == name for name, cell in filled.items())


Built = tuple[Message, ...] | Unusable


def _pair(asking: str, answering: str, context: str | None = None) -> Callable[[Mapping[str, object], Columns], Built]:
    """Builder of one user turn and one assistant turn."""

    def build(cells: Mapping[str, object], columns: Columns) -> Built:
        question, answer = _cell(cells, columns, asking), _cell(cells, columns, answering)
        if not question:
            return Unusable(EMPTY + asking)
        if not answer:
            return Unusable(EMPTY + answering)
        given = _cell(cells, columns, context) if context else ""
        return (Message("user", question, given or None), Message("assistant", answer))

    return build


def _conversation(part: str) -> Callable[[Mapping[str, object], Columns], Built]:
    """Builder of a list of turns. What follows the last assistant turn is left out: there is nothing to learn in it."""

    def build(cells: Mapping[str, object], columns: Columns) -> Built:
        turns = as_turns(cells.get(columns[part]))
        if turns is None:
            return Unusable(EMPTY + "conversation" if is_blank([cells.get(columns[part])]) else MALFORMED)
        chosen = cells.get(columns["chosen"]) if "chosen" in columns else None
        if chosen:
            given = as_turns(chosen) or [chosen]
            turns = given if given[: len(turns)] == turns else [*turns, *given]  # some repeat what was asked
        messages = [_message(turn) for turn in turns]
        if any(message is None for message in messages):
            return Unusable(f"{MALFORMED}: {_fault(turns[messages.index(None)])}")
        kept = [message for message in messages if message is not None and message.content]
        while kept and kept[-1].role != "assistant":
            kept.pop()
        return tuple(kept) or Unusable(NO_ANSWER)

    return build


_BUILDERS: Mapping[str, Callable[[Mapping[str, object], Columns], Built]] = {
    "qa": _pair("question", "answer", "context"),
    "instruction": _pair("instruction", "output", "input"),
    "prompt": _pair("prompt", "completion"),
    "label": _pair("text", "label"),
    "messages": _conversation("messages"),
    "sharegpt": _conversation("conversations"),
}


def ends_without_answer(record: Record, columns: Columns) -> bool:
    """Whether a conversation has turns after its last answer."""
    turns = as_turns(record.cells.get(columns.get("messages") or columns.get("conversations", "")))
    if not turns or columns.get("chosen"):
        return False
    last = _message(turns[-1])
    return last is not None and last.role != "assistant"


def _cell(cells: Mapping[str, object], columns: Columns, part: str) -> str:
    cell = cells.get(columns[part], "") if part in columns else ""
    if part == "system" and isinstance(cell, Mapping):  # of Gemini, beside the turns and a turn itself
        cell = _content(cell)
    return "" if is_blank([cell]) else tidy(cell_text(cell))  # an empty list is no answer either


def _message(turn: object) -> Message | None:
    """One turn in any form: {"role", "content"}, {"role", "parts"} or {"from", "value"}. None if it is none of them."""
    if not isinstance(turn, Mapping):
        return None
    role = ROLES.get(str(turn.get("role", turn.get("from"))).strip().lower())
    content = _content(turn)
    return Message(role, tidy(content)) if role is not None and content is not None else None


def _fault(turn: object) -> str:
    """Why a turn is none."""
    if not isinstance(turn, Mapping):
        return "a turn is no object"
    is_known = str(turn.get("role", turn.get("from"))).strip().lower() in ROLES
    return "a turn without text" if is_known else "a role other than system, user, assistant and tool"


def _content(turn: Mapping[str, Any]) -> str | None:
    """Text of a turn, None if it has none: as it is, in parts [{"type": "text", "text": ..}], or as tool calls made."""
    keys = [key for key in ("content", "value", "parts") if key in turn]
    content = turn[keys[0]] if keys else None
    if isinstance(content, str):
        return content
    calls = turn.get("tool_calls")
    if content is None and calls:
        is_list = isinstance(calls, list)
        return cell_text([_function(call) for call in calls] if is_list else _function(calls))
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        return "\n".join(texts) if len(texts) == len(content) else None
    return "" if content is None and keys else None


def _function(call: object) -> object:
    """What is called and with what, without the id and the type of the call."""
    return call.get("function", call) if isinstance(call, Mapping) else call
