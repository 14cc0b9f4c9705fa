"""Examples -> token ids, within the length limit, with an account of everything that was shortened or left out.

Knows nothing of batches or order. Rendering itself belongs to `prompts`; here is only what to do when it is too long.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.report import rows_text
from tunesmith.errors import DataError
from tunesmith.prompts import Template, render
from tunesmith.types import Encoded, Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Truncation = Literal["prompt", "drop", "answer", "error"]


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What encoding did. Row tuples are source rows; counts are of encoded sequences and tokens.

    longest_whole: tokens of the longest example before it was shortened, split or left out.
    """

    sequences: int = 0
    tokens: int = 0
    target_tokens: int = 0
    longest: int = 0
    longest_whole: int = 0
    shortened_prompt: tuple[int, ...] = ()
    cut_answer: tuple[int, ...] = ()
    split_text: tuple[int, ...] = ()
    dropped: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def to_text(self, max_length: int) -> str:
        """One line for the terminal."""
        parts = [
            f"{self.sequences} sequences, {self.tokens} tokens ({self.target_tokens} trained), longest {self.longest}"
        ]
        if self.shortened_prompt:
            parts.append(f"{len(self.shortened_prompt)} questions shortened to fit {max_length} tokens")
        if self.cut_answer:
            parts.append(f"{len(self.cut_answer)} answers cut to fit {max_length} tokens")
        if self.split_text:
            parts.append(f"{len(self.split_text)} long texts split into pieces of {max_length} tokens")
        parts += [f"{len(rows)} left out ({reason}: {rows_text(rows)})" for reason, rows in self.dropped.items()]
        if self.longest_whole > max_length:
            parts.append(f"whole, the longest would have {self.longest_whole}")
        return "; ".join(parts)


def encode(
    examples: Sequence[Example],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    truncation: Truncation = "prompt",
    train_on: Literal["answers", "all"] = "answers",
) -> tuple[list[Encoded], EncodeReport]:
    """Token ids of every example, none longer than `max_length`, none without a supervised token.

    Plain text that is too long is split into consecutive pieces, so that nothing is lost. A conversation that is too
    long follows `truncation`; the answer is never removed silently.

    Raises:
        DataError: `truncation` is "error" and an example is too long.
    """
    account = _Account()
    for example in examples:
        try:
            whole = render(example, template, tokenizer, train_on=train_on)
        except DataError as error:  # such as a chat template that wants roles to alternate
            account.drop(error.cause or error.message, example)
            continue
        account.longest_whole = max(account.longest_whole, len(whole))
        if len(whole) <= max_length:
            account.keep(whole, example)
        elif example.text is not None:
            account.note("split", example)
            for piece in _pieces(whole, max_length):
                account.keep(piece, example)
        elif truncation == "error":
            of_task = f"{example.task}, " if example.task else ""
            raise DataError(
                f"{of_task}row {example.row} is {len(whole)} tokens long, over data.max_length = {max_length}",
                fix="raise --data.max_length, or choose --data.truncation prompt, answer or drop",
            )
        elif truncation == "drop":
            account.drop("too long", example)
        elif truncation == "answer":
            account.note("answer", example)
            answers = whole if train_on == "answers" else render(example, template, tokenizer)
            account.keep(_cut_answer(whole, answers.supervised, max_length, template.stop_id), example)
        else:
            shorter = shorten_prompt(example, template, tokenizer, max_length=max_length)
            if shorter is None:
                account.drop("answer alone is too long", example)
            else:
                account.note("prompt", example)
                account.keep(render(shorter, template, tokenizer, train_on=train_on), example)
    return account.encoded, account.report()


def ids_sha256(rows: Sequence[Encoded]) -> str:
    """SHA-256 over the token ids of the rows and which carry loss: what data, template and tokenizer come to."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8))
        digest.update(row.input_ids.tobytes())
        digest.update(row.supervised.tobytes())
    return digest.hexdigest()


@dataclass(slots=True)
class _Account:
    """Sequences kept, and the rows that were changed or left out."""

    encoded: list[Encoded] = field(default_factory=list)
    changed: dict[str, list[int]] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    longest_whole: int = 0

    def keep(self, row: Encoded, example: Example) -> None:
        if row.target_tokens:
            self.encoded.append(replace(row, task=example.task, difficulty=example.difficulty))
        else:
            self.dropped.setdefault("no answer token left", []).append(row.row)

    def note(self, change: str, example: Example) -> None:
        self.changed.setdefault(change, []).append(example.row)

    def drop(self, reason: str, example: Example) -> None:
        self.dropped.setdefault(reason, []).append(example.row)

    def report(self) -> EncodeReport:
        return EncodeReport(
            sequences=len(self.encoded),
            tokens=sum(map(len, self.encoded)),
            target_tokens=sum(row.target_tokens for row in self.encoded),
            longest=max(map(len, self.encoded), default=0),
            longest_whole=self.longest_whole,
            shortened_prompt=tuple(self.changed.get("prompt", ())),
            cut_answer=tuple(self.changed.get("answer", ())),
            split_text=tuple(self.changed.get("split", ())),
            dropped={reason: tuple(rows) for reason, rows in self.dropped.items()},
        )


def _pieces(whole: Encoded, max_length: int) -> Iterator[Encoded]:
    """Consecutive pieces; each starts with the last token of the one before, so that every token is predicted once."""
    stride = max_length - 1
    for start in range(0, len(whole) - 1, stride):
        stop = start + max_length
        yield Encoded(whole.input_ids[start:stop], whole.supervised[start:stop], whole.row)


def _cut_answer(whole: Encoded, is_answer: NDArray[np.bool_], max_length: int, stop_id: int) -> Encoded:
    """The beginning, to the end of an answer. A stop token is put where one is cut off, and nowhere else: after half a
    question it would teach to end there. Of a prompt alone nothing is supervised: a lone stop token teaches silence.

    Args:
        is_answer: (T,) which tokens are of answers, their stop tokens included, whatever else is trained on.
    """
    kept = max_length - 1  # and a stop token
    within = is_answer[:kept].nonzero()[0]
    if not len(within):
        return Encoded(whole.input_ids[:kept], np.zeros(kept, dtype=np.bool_), whole.row)
    end = int(within[-1]) + 1
    if end < kept or whole.input_ids[end - 1] == stop_id:
        return Encoded(whole.input_ids[:end], whole.supervised[:end], whole.row)
    ids = np.append(whole.input_ids[:kept], stop_id)
    return Encoded(ids, np.append(whole.supervised[:kept], True), whole.row)


def shorten_prompt(
    example: Example, template: Template, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> Example | None:
    """The conversation with its last answer whole, in at most `max_length` tokens; as it is when it fits.

    The oldest turns go first, then the end of the longest question. None when the answer alone is too long.

    Raises:
        DataError: the template cannot render it.
    """

    def excess(messages: Sequence[Message]) -> int:
        return len(render(replace(example, messages=tuple(messages)), template, tokenizer)) - max_length

    messages = list(example.messages)
    if excess(messages) <= 0:
        return example
    ends = [index for index, message in enumerate(messages) if message.role == "assistant"][:-1]
    # halved, not one after the other: a chat of a hundred turns is rendered seven times
    fitting = bisect_left(ends, True, key=lambda end: excess(_after(messages, end)) <= 0)
    messages = _after(messages, ends[min(fitting, len(ends) - 1)]) if ends else messages
    while (over := excess(messages)) > 0:
        messages = _with_shorter_question(messages, tokenizer, over)
        if not messages:
            return None
    return replace(example, messages=tuple(messages))


def _after(messages: list[Message], end: int) -> list[Message]:
    """The turns after an answer; a leading system turn stays."""
    head = [messages[0]] if messages[0].role == "system" else []
    return head + messages[end + 1 :]


def _with_shorter_question(messages: list[Message], tokenizer: PreTrainedTokenizerBase, excess: int) -> list[Message]:
    candidates = [index for index, message in enumerate(messages) if message.role != "assistant"]
    lengths = {index: len(_context_or_content(messages[index])) for index in candidates}
    longest = max(candidates, key=lengths.__getitem__, default=None)
    if longest is None or not lengths[longest]:
        return []
    text = _context_or_content(messages[longest])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    kept = str(tokenizer.decode(ids[: max(0, len(ids) - excess)])).rstrip("\ufffd ")
    if len(kept) >= len(text):
        kept = text[: max(0, len(text) - excess)]
    message = messages[longest]
    shorter = replace(message, context=kept or None) if message.context else replace(message, content=kept)
    return [*messages[:longest], shorter, *messages[longest + 1 :]]


def _context_or_content(message: Message) -> str:
    return message.context or message.content
