"""The types that flow through the house: Record -> Example -> Encoded -> Batch. No torch at run time.

Record    one row as the reader found it, every cell still text
Example   what is trained on: a conversation, or a stretch of plain text
Encoded   its token ids and which of them carry loss
Batch     several Encoded rows as tensors
Finding   something worth telling the user, with what to do about it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Place = int | str  # a row number, or "Sheet!row", "file:row" where a number alone would not say which
Advance = Callable[[int, int], None]  # called with how much is done, and of how much
Progress = Callable[[str, int, int], None]  # the same after a name: whose, or of what
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source file.

    `cells` maps a column name to its value: text for tables, nested lists and dicts for JSON. `row` is the number a
    user would look for: the spreadsheet or text line, counted from 1 with the header as line 1; the item number for
    JSON arrays. `sheet` is set for workbooks.
    """

    row: int
    cells: Mapping[str, object]
    sheet: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `context` is the optional input of instruction data; templates without a place for it append it."""

    role: Role
    content: str
    context: str | None = None

    @property
    def text(self) -> str:
        """What it says, context included."""
        return f"{self.content}\n{self.context}" if self.context else self.content


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation (`messages`) or plain text (`text`), never both. `row` and `sheet` lead back to the source.

    task: the data set it is from, where there are several. difficulty: by the user's column, for a curriculum.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    row: int = 0
    sheet: str | None = None
    task: str | None = None
    difficulty: float | None = None

    @property
    def system(self) -> str | None:
        """The system prompt that it begins with."""
        return self.messages[0].content if self.messages and self.messages[0].role == "system" else None

    @property
    def question(self) -> str:
        """The last user turn, context included: what duplicates are recognised by."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return self.text or ""

    @property
    def conversation(self) -> tuple[Message, ...]:
        """Of a chat all that the answer was given to, the question included, without a system prompt; else empty."""
        turns = tuple(message for message in self.prompt if message.role != "system")
        return turns if len(turns) > 1 else ()

    @property
    def answer(self) -> str:
        """The last assistant turn: what an evaluation compares with."""
        for message in reversed(self.messages):
            if message.role == "assistant":
                return message.content
        return self.text or ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last assistant turn: what the model is asked."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role == "assistant":
                return self.messages[:index]
        return self.messages


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Token ids of one example. `supervised[i]` says whether token i is a target of the loss.

    input_ids: (T,) int64; supervised: (T,) bool. row, task and difficulty are the example's.
    """

    input_ids: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    row: int = 0
    task: str | None = None
    difficulty: float | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def target_tokens(self) -> int:
        """Tokens that carry loss. The first token has no predecessor to be predicted from, so it never does."""
        return int(self.supervised[1:].sum())


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows laid end to end, without padding. S rows, T tokens in all.

    input_ids: (T,) int64; supervised: (T,) bool, false at the first token of every row; lengths: tokens of each row;
    rows: source row of each.
    """

    input_ids: torch.Tensor
    supervised: torch.Tensor
    lengths: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to tell the user: `level` note, warning or problem; `fix` says what to change; `rows` where it is."""

    level: Literal["note", "warning", "problem"]
    code: str
    message: str
    fix: str | None = None
    rows: tuple[Place, ...] = field(default=())
