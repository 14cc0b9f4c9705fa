"""Answers from a model: batched, streamed, the same whatever the batch.

Knows how to run a causal language model with a key-value cache and when an answer ends. Does not know how messages
become ids (prompts does), which model this is or what the answers are for.

B rows, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.config import GenerateConfig
from tunesmith.errors import DataError, SettingsError
from tunesmith.generate.rows import Rows, evaluating
from tunesmith.generate.sample import GREEDY_BELOW, apply_repetition_penalty, next_tokens, row_generator
from tunesmith.generate.text import GrowingText, decode, tidy
from tunesmith.model import context_tokens, virtual_tokens
from tunesmith.prompts import Template, render_prompt
from tunesmith.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows that ended are carried along until they are this part of the batch: taking rows out and others in copies the
# cache once.
_DROP_SHARE = 0.25
_LESS = "lower eval.batch_size or generate.max_new_tokens"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    text: without stop ids, stop strings and surrounding white space.
    token_ids: what the model wrote, stop id left out; tokens that spell a stop string are in it.
    finish_reason: "stop" at a stop id or stop string, "length" at max_new_tokens or at the end of the model's context.
    prompt_tokens: length of the prompt.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int


class Engine:
    """Generates answers with `model` as it is: weights, adapters and device are the caller's.

    Args:
        model: a causal language model of transformers, or a PeftModel around one.
        tokenizer: the one the model was trained with.
        template: how messages become a prompt and which ids end an answer.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
        self.model = model
        self.config: Any = model.config
        self.tokenizer = tokenizer
        self.template = template

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return next(self.model.parameters()).device

    @property
    def context_tokens(self) -> int | None:
        """Longest prompt and answer together; None for a model without a limit. Virtual tokens take their part."""
        limit = context_tokens(self.model)
        return None if limit is None else limit - virtual_tokens(self.model)

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        settings: GenerateConfig,
        *,
        seed: int = 0,
        batch_size: int = 32,
        on_progress: Callable[[int, int], None] | None = None,
        on_answers: Callable[[Mapping[int, Completion]], None] | None = None,
    ) -> list[Completion]:
        """Answer each conversation, in the order given.

        Args:
            conversations: messages up to and including the last question.
            settings: length, sampling and stop strings.
            seed: of the sampling; the same answer for the same prompt whatever batch_size and order.
            batch_size: rows computed at once.
            on_progress: called with (answers done, answers in all) whenever some are done.
            on_answers: called with answers that have just ended, by their places among the conversations.

        Raises:
            DataError: a prompt is empty or fills the model's context.
            SettingsError: a stop string is empty or batch_size is below 1.
            TrainingError: the model gives NaN.
        """
        prompts = [render_prompt(messages, self.template, self.tokenizer) for messages in conversations]
        return self.generate_ids(
            prompts, settings, seed=seed, batch_size=batch_size, on_progress=on_progress, on_answers=on_answers
        )

    def generate_ids(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerateConfig,
        *,
        seed: int = 0,
        batch_size: int = 32,
        on_progress: Callable[[int, int], None] | None = None,
        on_answers: Callable[[Mapping[int, Completion]], None] | None = None,
    ) -> list[Completion]:
        """`generate` for prompts that are token ids already."""
        if batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}, it must be at least 1", fix="raise eval.batch_size")
        rows = self._rows(prompts, settings, seed)
        # Longest first: memory runs out at once or not at all, and rows of a batch need little padding.
        waiting = deque(sorted(rows, key=lambda row: len(row.prompt), reverse=True))
        batch: _Batch | None = None
        done = 0
        places = {row: place for place, row in enumerate(rows)}
        with evaluating(self.model, "writing answers", fix=_LESS):
            while waiting or (batch and batch.open_rows):
                if batch is None or not batch.open_rows:
                    batch = _Batch(self, _taken(waiting, batch_size), settings)
                ended = batch.advance()
                if batch.drop_ended() and waiting and batch.can_join:
                    joining = _Batch(self, _taken(waiting, batch_size - len(batch)), settings)
                    ended += joining.advance()
                    batch.join(joining)
                if on_answers and ended:
                    on_answers({places[row]: row.completion(self.tokenizer) for row in ended})
                if on_progress and done != (done := len(rows) - len(waiting) - batch.open_rows):
                    on_progress(done, len(rows))
        return [row.completion(self.tokenizer) for row in rows]

    def stream(
        self,
        messages: Sequence[Message],
        settings: GenerateConfig,
        *,
        seed: int = 0,
        on_end: Callable[[Completion], None] | None = None,
    ) -> Iterator[str]:
        """Pieces of the answer as they are written; joined, they are exactly the text that `generate` returns.

        Args:
            on_end: called with what `generate` returns, after the last piece.

        Raises:
            DataError, SettingsError, TrainingError: as `generate`.
        """
        prompt = render_prompt(messages, self.template, self.tokenizer)
        return self.stream_ids(prompt, settings, seed=seed, on_end=on_end)

    def stream_ids(
        self,
        prompt: Sequence[int],
        settings: GenerateConfig,
        *,
        seed: int = 0,
        on_end: Callable[[Completion], None] | None = None,
    ) -> Iterator[str]:
        """`stream` for a prompt that is token ids already. Settings and prompt are checked before it returns."""
        (row,) = self._rows([prompt], settings, seed)
        growing = row.growing = row.growing or GrowingText(self.tokenizer, ())
        return self._pieces(row, growing, settings, on_end)

    def _pieces(
        self,
        row: _Row,
        growing: GrowingText,
        settings: GenerateConfig,
        on_end: Callable[[Completion], None] | None,
    ) -> Iterator[str]:
        batch = None
        while row.finish_reason is None:
            # Entered for each token: between two pieces the caller's code runs, with the model as the caller left it.
            with evaluating(self.model, "writing answers", fix=_LESS):
                batch = batch or _Batch(self, [row], settings)
                batch.advance()
            if piece := growing.settled():
                yield piece
        if piece := growing.rest():
            yield piece
        if on_end:
            on_end(row.completion(self.tokenizer))

    def _rows(self, prompts: Sequence[Sequence[int]], settings: GenerateConfig, seed: int) -> list[_Row]:
        """Check everything before anything is computed."""
        if "" in settings.stop:
            raise SettingsError(
                "generate.stop holds an empty text, which would end every answer at once",
                fix="remove the empty entry from generate.stop",
            )
        limits = _new_token_limits(prompts, settings.max_new_tokens, self.context_tokens)
        repeats: Counter[tuple[int, ...]] = Counter()
        rows = []
        for prompt, limit in zip(prompts, limits, strict=True):
            ids = tuple(prompt)
            row = _Row(ids, limit, frozenset(self.template.stop_ids))
            if settings.temperature >= GREEDY_BELOW:
                row.generator = row_generator(seed, ids, repeats[ids])
            if settings.stop:
                row.growing = GrowingText(self.tokenizer, settings.stop)
            repeats[ids] += 1
            rows.append(row)
        return rows


@dataclass(slots=True, eq=False)
class _Row:
    """One answer while it is written."""

    prompt: tuple[int, ...]
    limit: int
    stop_ids: frozenset[int]
    generator: np.random.Generator | None = None
    growing: GrowingText | None = None
    written: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None

    def add(self, token_id: int) -> None:
        if token_id in self.stop_ids:
            self.finish_reason = "stop"
        else:
            self.written.append(token_id)
            if self.growing:
                self.growing.push(token_id)
            if len(self.written) >= self.limit:
                self.finish_reason = "length"
        if self.growing and self.finish_reason:
            self.growing.close()
        if self.growing and self.growing.stopped:
            self.finish_reason = "stop"

    def completion(self, tokenizer: PreTrainedTokenizerBase) -> Completion:
        assert self.finish_reason is not None
        text = self.growing.text if self.growing else tidy(decode(tokenizer, self.written))
        return Completion(text, tuple(self.written), self.finish_reason, len(self.prompt))


class _Batch:
    """Rows that are decoded together. The first `advance` reads the prompts, each further one a token per row."""

    def __init__(self, engine: Engine, rows: Sequence[_Row], settings: GenerateConfig) -> None:
        self._settings = settings
        self._answers = list(rows)  # of the rows in the tensors, ended ones included until they are dropped
        self._rows = Rows(engine.model, [row.prompt for row in rows], context_tokens=engine.context_tokens)
        self._seen: Tensor | None = None  # (B, V) bool

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def open_rows(self) -> int:
        """How many have not ended."""
        return sum(row.finish_reason is None for row in self._answers)

    @property
    def can_join(self) -> bool:
        """Whether other rows can come in while these are under way."""
        return self._rows.can_join

    @torch.inference_mode()
    def advance(self) -> list[_Row]:
        """Write one token in every row that has not ended. Returns those that ended with it."""
        logits = self._rows.forward()  # (B, V)
        if self._settings.repetition_penalty != 1:
            self._seen = self._mark_seen(logits.shape[-1])
            logits = apply_repetition_penalty(logits, self._seen, self._settings.repetition_penalty)
        tokens = self._next_tokens(logits)  # (B,)
        under_way = [row for row in self._answers if row.finish_reason is None]
        for row, token_id in zip(self._answers, tokens.tolist(), strict=True):
            if row.finish_reason is None:
                row.add(token_id)
        self._rows.extend(tokens)
        return [row for row in under_way if row.finish_reason is not None]

    def drop_ended(self) -> bool:
        """Take ended rows out of the tensors once they are enough to be worth copying the cache; were they?"""
        keep = [index for index, row in enumerate(self._answers) if row.finish_reason is None]
        ended = len(self) - len(keep)
        if not keep or ended < max(1, _DROP_SHARE * len(self)):
            return False
        kept = torch.tensor(keep, device=self._rows.ids.device)
        self._answers = [self._answers[index] for index in keep]
        self._seen = None if self._seen is None else self._seen[kept]
        self._rows.select(kept)
        return True

    @torch.inference_mode()
    def join(self, other: _Batch) -> None:
        """Take in rows whose prompts have been read."""
        self._answers += other._answers
        self._rows.join(other._rows)
        if self._seen is not None and other._seen is not None:
            self._seen = torch.cat([self._seen, other._seen])

    def _mark_seen(self, vocabulary: int) -> Tensor:
        ids = self._rows.ids
        if self._seen is not None:
            return self._seen.scatter_(1, ids, True)
        seen = torch.zeros(len(self._answers), vocabulary, dtype=torch.bool, device=ids.device)
        for index, row in enumerate(self._answers):
            # Not the padded ids: padding is no token of the row.
            seen[index, ids[index, -len(row.prompt) :]] = True
        return seen

    def _next_tokens(self, logits: Tensor) -> Tensor:
        generators = [row.generator for row in self._answers if row.generator is not None]
        # Drawn as float32: a float64 just below 1 would round up to 1.
        draws = [float(generator.random(dtype=np.float32)) for generator in generators]
        return next_tokens(
            logits,
            temperature=self._settings.temperature,
            top_k=self._settings.top_k,
            top_p=self._settings.top_p,
            draws=torch.tensor(draws, dtype=torch.float32, device=logits.device) if draws else None,
        )


def _taken(waiting: deque[_Row], count: int) -> list[_Row]:
    """The first so many of those that wait, which then wait no more."""
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


def _new_token_limits(prompts: Sequence[Sequence[int]], wanted: int, context: int | None) -> list[int]:
    """How many tokens each answer may have: `wanted`, or what the model's context leaves."""
    for number, prompt in enumerate(prompts, start=1):
        where = f"prompt {number} of {len(prompts)}" if len(prompts) > 1 else "the prompt"
        if not len(prompt):
            raise DataError(f"{where} has no tokens", fix="ask something, or choose a template that writes some text")
        if context is not None and len(prompt) >= context:
            raise DataError(
                f"{where} has {len(prompt)} tokens; the model reads at most {context}, the answer included",
                fix=f"shorten it to {context - 1} tokens or fewer, or use a model with a longer context",
            )
    return [wanted if context is None else min(wanted, context - len(prompt)) for prompt in prompts]
