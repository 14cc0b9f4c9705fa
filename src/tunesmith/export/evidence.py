"""What an export is tried with: prompts of the run's own data, prompts that are hard to tokenise, held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.errors import DataError
from tunesmith.prompts import Template, prompt_turns, render_prompt
from tunesmith.types import Encoded, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STANDING: dict[str, tuple[Message, ...]] = {
    "unicode: accents": (Message("user", "Où est l'été ? Ça coûte 3,50 € — naïve façade, Größe, señor."),),
    "unicode: scripts": (Message("user", "日本語の質問です。 Привет, как дела? مرحبا नमस्ते दुनिया. 안녕하세요"),),
    "unicode: emoji": (Message("user", "🙂 👩\u200d👩\u200d👧 ✅ \u200b zero width, \u00a0 no break, ½ ² ∑"),),
    "white space": (Message("user", "a\tb  c   d\n\n\ne \n f\r\ng    "),),
    "numbers": (Message("user", "1 12 123 1234 12345 123456 3.14 -7 1,000,000 0x1F 2026-11-21"),),
    "code": (Message("user", "def f(x):\n    return {'a': [x**2, \"b\"]}  # it's, we'LL, I'VE\n"),),
    "several turns": (
        Message("user", "What is a press?"),
        Message("assistant", "A machine that prints."),
        Message("user", "And who made the first one?"),
        Message("assistant", "Gutenberg, around 1440."),
        Message("user", "Thank you!"),
    ),
    "system prompt": (Message("system", "You answer in one sentence."), Message("user", "How do I reset it?")),
    "system prompt, several turns": (
        Message("system", "You are terse."),
        Message("user", "One?"),
        Message("assistant", "One."),
        Message("user", "Two?"),
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt. ids: as training rendered it. turns: what a template is given. expected: the answer in the data."""

    label: str
    ids: tuple[int, ...]
    turns: tuple[dict[str, str], ...]
    expected: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything a verification needs besides the two models.

    rows: held-out rows, for likelihoods. limit: tokens of an answer. tokens: text of each id of the vocabulary, None
    where the tokenizer has none. stop_ids: what ends an answer. score: (answer, expected) -> token F1, 0 to 1.
    """

    cases: tuple[Case, ...]
    rows: tuple[Encoded, ...]
    limit: int
    tokens: tuple[str | None, ...]
    stop_ids: tuple[int, ...]
    score: Callable[[str, str], float]

    @property
    def context(self) -> int:
        """Tokens that the longest prompt with its answer, or the longest row, takes."""
        prompts = (len(case.ids) + self.limit for case in self.cases)
        return max([*prompts, *(len(row) for row in self.rows)])


def make_cases(
    conversations: Sequence[tuple[str, Sequence[Message], str | None]],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    *,
    longest: int,
) -> tuple[Case, ...]:
    """Cases from (label, messages, expected answer) and the standing ones.

    What a template refuses (a role, an order) and what is longer than `longest` tokens is left out.
    """
    wanted = [*conversations, *((label, messages, None) for label, messages in STANDING.items())]
    cases = []
    for label, messages, expected in wanted:
        try:
            ids = tuple(render_prompt(messages, template, tokenizer))
        except DataError:
            continue
        if ids and len(ids) <= longest:
            cases.append(Case(label, ids, tuple(prompt_turns(messages, template, tokenizer)), expected))
    return tuple(cases)
