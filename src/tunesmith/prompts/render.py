"""The one renderer: training, evaluation, chat, server and export all turn messages into token ids here.

A conversation is rendered as text, cut where each answer begins and after its stop token, and every piece is encoded
on its own. So the ids of a prompt are an exact prefix of the ids that were trained on, whatever the tokenizer would
have joined across the cut. Knows neither files nor lengths: truncation and batches are the data part's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tunesmith.errors import DataError
from tunesmith.prompts.probe import Fault, Rules, Turn, find_rules, require_prefix, shared_length, write_text
from tunesmith.prompts.tokens import encode_pieces, neutralise
from tunesmith.types import Encoded, Example, Finding, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOOL_LABEL = "Tool result:\n"


@dataclass(frozen=True, slots=True)
class Template:
    """How messages become text; `check_template` makes it.

    source: Jinja chat template over `messages`. stop_id: the token that ends every trained answer. stop_ids: all
    tokens that end generation, stop_id among them. findings: what the user should know about it.
    """

    name: str
    source: str
    stop_ids: tuple[int, ...]
    stop_id: int
    findings: tuple[Finding, ...] = ()

    def attach(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make this the tokenizer's chat template, so that a saved model folder carries what was trained."""
        tokenizer.chat_template = self.source


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    is_answer: bool


def render(
    example: Example,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on: Literal["answers", "all"] = "answers",
) -> Encoded:
    """Token ids of an example and which of them carry loss.

    With train_on="answers" these are each answer's tokens up to and including its stop token; white space that the
    template writes after it is input. Earlier answers that the template rewrites (a thinking block taken out of the
    history) are input too, and a conversation without an answer has nothing supervised. With "all", and for plain
    text, every token is supervised.

    Returns:
        input_ids (T,) int64, supervised (T,) bool.

    Raises:
        DataError: the template refuses the order of the roles, or rewrites the last answer; names the row.
    """
    try:
        rules = find_rules(template.source, tokenizer)
        if example.text is not None:
            return _render_text(example, rules, tokenizer)
        pieces = _cut(_shape(example.messages, rules), template.source, tokenizer, rules, prompt=False)
    except Fault as fault:
        place = f"sheet {example.sheet!r}, row {example.row}" if example.sheet else f"row {example.row}"
        raise DataError(
            f"{place}: the template {template.name!r} cannot render this conversation",
            cause=str(fault),
            fix="correct or leave out the row, or set prompt.template to another template",
        ) from fault
    ids: list[int] = []
    supervised: list[bool] = []
    encoded = encode_pieces([piece.text for piece in pieces], tokenizer, rules.spelling)
    for piece, piece_ids in zip(pieces, encoded, strict=True):
        ids += piece_ids
        supervised += [piece.is_answer or train_on == "all"] * len(piece_ids)
    return _encoded(ids, supervised, example.row)


def render_prompt(messages: Sequence[Message], template: Template, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids up to where the assistant begins: an exact prefix of `render` of the same conversation.

    Raises:
        DataError: the template cannot render these messages.
    """
    pieces, rules = _prompt_pieces(messages, template, tokenizer)
    encoded = encode_pieces([piece.text for piece in pieces], tokenizer, rules.spelling)
    return [token_id for piece_ids in encoded for token_id in piece_ids]


def prompt_text(messages: Sequence[Message], template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that `render_prompt` encodes.

    Raises:
        DataError: the template cannot render these messages.
    """
    pieces, _ = _prompt_pieces(messages, template, tokenizer)
    return "".join(piece.text for piece in pieces)


def prompt_turns(
    messages: Sequence[Message], template: Template, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, str]]:
    """What the template is given for `render_prompt`: control tokens broken, roles it does not know told by the user.

    Another program that renders these with the same source must write the same prompt.

    Raises:
        DataError: the template cannot be used at all.
    """
    try:
        return _shape(messages, find_rules(template.source, tokenizer))
    except Fault as fault:
        raise DataError(
            f"the template {template.name!r} cannot be used",
            cause=str(fault),
            fix="correct the tokenizer's chat template, or choose another with prompt.template",
        ) from fault


def _prompt_pieces(
    messages: Sequence[Message], template: Template, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[_Piece], Rules]:
    try:
        rules = find_rules(template.source, tokenizer)
        pieces = _cut(_shape(messages, rules), template.source, tokenizer, rules, prompt=True)
    except Fault as fault:
        raise DataError(
            f"the template {template.name!r} cannot render these messages",
            cause=str(fault),
            fix="check the order of the roles, or set prompt.template to another template",
        ) from fault
    return pieces, rules


def _render_text(example: Example, rules: Rules, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Plain text between the tokenizer's BOS token, if it writes one, and its end-of-text token."""
    text = neutralise(example.text or "", rules.guard)
    start = [] if rules.bos_id is None else [rules.bos_id]
    ids = [*start, *tokenizer.encode(text, add_special_tokens=False, verbose=False), tokenizer.eos_token_id]
    return _encoded(ids, [True] * len(ids), example.row)


def _encoded(ids: list[int], supervised: list[bool], row: int) -> Encoded:
    return Encoded(np.array(ids, dtype=np.int64), np.array(supervised, dtype=np.bool_), row)


def _shape(messages: Sequence[Message], rules: Rules) -> list[Turn]:
    """Messages as the template takes them: control tokens broken, context placed, every role one that it knows.

    A system text that the template does not take opens the next user turn; so does a tool result, under a label.
    """
    turns: list[Turn] = []
    waiting: list[str] = []
    for message in messages:
        guard = rules.answer_guard if message.role == "assistant" else rules.guard
        content = neutralise(message.content, guard)
        context = neutralise(message.context, guard) if message.context and message.context.strip() else ""
        has_place = rules.reads_context and message.role == "user"
        if context and not has_place:
            content = f"{content}\n\n{context}"
        if message.role == "tool" and rules.tool_as_user:
            waiting.append(TOOL_LABEL + content)
        elif message.role == "system" and rules.merges_system:
            waiting.append(content)
        elif message.role == "user":
            turn = {"role": "user", "content": "\n\n".join([*waiting, content])}
            turns.append({**turn, "context": context} if context and has_place else turn)
            waiting = []
        else:
            if waiting:
                turns.append({"role": "user", "content": "\n\n".join(waiting)})
                waiting = []
            turns.append({"role": message.role, "content": content})
    return [*turns, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else turns


def _cut(
    turns: list[Turn], source: str, tokenizer: PreTrainedTokenizerBase, rules: Rules, *, prompt: bool
) -> list[_Piece]:
    """The conversation's text in pieces: what leads to an answer, the answer with its stop token, and so on.

    Raises:
        Fault: the template raises, or the last answer cannot be told from its prompt.
    """
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    full = write_text(turns, source, tokenizer, prompt=prompt)
    pieces: list[_Piece] = []
    done = 0
    for index in answers:
        try:
            start = write_text(turns[:index], source, tokenizer, prompt=True)
            is_end = index == len(turns) - 1 and not prompt
            end = full if is_end else write_text(turns[: index + 1], source, tokenizer)
            answer = _find_answer(full, start=start, end=end, rules=rules)
        except Fault:
            if index == answers[-1] and not prompt:
                raise
            continue  # the template writes this turn differently now that others follow: it is history, not a target
        pieces.append(_Piece(full[done : len(start)], False))
        pieces.append(_Piece(answer if rules.writes_stop else answer + rules.stop, True))
        done = len(start) + len(answer)
    pieces.append(_Piece(full[done:], False))
    return [piece for piece in pieces if piece.text]


def _find_answer(full: str, *, start: str, end: str, rules: Rules) -> str:
    """The text of `full` from the prompt `start` to the stop token of the turn that `end` ends with.

    A template may write something after the last turn only (Phi-3: the end-of-text token), so the stop token is
    looked for in what `end` and `full` share.

    Raises:
        Fault: `start` is no prefix, or the stop token is not where both agree.
    """
    require_prefix(start, full)
    require_prefix(start, end)
    whole = full.startswith(end)
    limit = len(end) if whole else shared_length(full, end)
    if rules.writes_stop:
        found = full.rfind(rules.stop, len(start), limit)
        if found < 0:
            raise Fault(f"there is no stop token {rules.stop!r} after the answer")
        return full[len(start) : found + len(rules.stop)]
    if not whole:
        raise Fault("it changes an answer when another turn follows")
    return full[len(start) : limit].removesuffix(rules.tail)
