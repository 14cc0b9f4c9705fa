"""One label out of a given set, by how probable the model finds the text of each. Nothing else can be answered.

The score of a label is the log-likelihood of its tokens and of the stop token after them, given the prompt: exactly
what training lowers the negative of. It is not divided by the number of tokens and not corrected for how probable a
label is without the text; docs/classification.md says why.

A prompt is read once. Labels that begin alike share their beginnings: the tokens form a tree, which is walked level by
level, a row for each prompt and node. Knows nothing of what is right. P prompts, K labels, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tunesmith.errors import DataError, SettingsError
from tunesmith.generate.choice import Choice
from tunesmith.generate.rows import Rows, evaluating
from tunesmith.prompts import Template, render, render_prompt
from tunesmith.types import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.generate.engine import Engine

Tails = tuple[tuple[int, ...], ...]  # token ids of each label, stop token included


def choose(
    engine: Engine,
    conversations: Sequence[Sequence[Message]],
    labels: Sequence[str],
    *,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Choice]:
    """Score every label after each conversation, in the order given.

    Args:
        engine: the model, its tokenizer and template.
        conversations: messages up to and including the last question.
        labels: distinct texts, two at least.
        batch_size: rows computed at once: prompts, then beginnings of labels. Scores do not depend on it.
        on_progress: called with (conversations done, conversations in all).

    Raises:
        DataError: a prompt is empty or leaves the longest label no room in the model's context.
        SettingsError: fewer than two labels, two that are written alike, or a batch_size below 1.
        TrainingError: the model gives NaN.
    """
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size}, it must be at least 1", fix="raise eval.batch_size")
    if len(labels) < 2:
        raise SettingsError(f"there is nothing to choose from: {len(labels)} labels", fix="give two labels at least")
    prompts = [render_prompt(messages, engine.template, engine.tokenizer) for messages in conversations]
    tails = _tails(conversations, prompts, labels, engine)
    for number, (prompt, own) in enumerate(zip(prompts, tails, strict=True), start=1):
        _check_room(prompt, own, engine.context_tokens, f"prompt {number} of {len(prompts)}")
    scores: dict[int, list[float]] = {}
    # Longest first: memory runs out at once or not at all. Prompts whose labels have other ids are read apart.
    order = sorted(range(len(prompts)), key=lambda index: (tails[index], -len(prompts[index])))
    with evaluating(engine.model, "scoring labels", fix="lower eval.batch_size"):
        for batch in _batches(order, tails, batch_size):
            found = _score(engine, [prompts[index] for index in batch], tails[batch[0]], batch_size)
            scores.update(zip(batch, found.tolist(), strict=True))
            if on_progress:
                on_progress(len(scores), len(prompts))
    return [Choice(tuple(labels), tuple(scores[index])) for index in range(len(prompts))]


def label_ids(
    messages: Sequence[Message], labels: Sequence[str], template: Template, tokenizer: PreTrainedTokenizerBase
) -> Tails:
    """Token ids of each label as the answer to `messages`, stop token included: what training supervises.

    Raises:
        DataError: the template cannot render them.
        SettingsError: two labels have the same ids.
    """
    start = len(render_prompt(messages, template, tokenizer))
    tails: dict[tuple[int, ...], str] = {}
    for label in labels:
        whole = render(Example((*messages, Message("assistant", label))), template, tokenizer)
        end = int(whole.supervised.nonzero()[0][-1]) + 1
        tail = tuple(whole.input_ids[start:end].tolist())
        if tail in tails:
            raise SettingsError(
                f"the labels {tails[tail]!r} and {label!r} are the same to the model", fix="rename one of them"
            )
        tails[tail] = label
    return tuple(tails)


def _tails(
    conversations: Sequence[Sequence[Message]], prompts: Sequence[list[int]], labels: Sequence[str], engine: Engine
) -> list[Tails]:
    """Ids of the labels after each prompt. The renderer encodes an answer on its own, after the token before it."""
    known: dict[int | None, Tails] = {}
    found = []
    for messages, prompt in zip(conversations, prompts, strict=True):
        last = prompt[-1] if prompt else None
        if last not in known:
            known[last] = label_ids(messages, labels, engine.template, engine.tokenizer)
        found.append(known[last])
    return found


def _check_room(prompt: Sequence[int], tails: Tails, context: int | None, where: str) -> None:
    if not prompt:
        raise DataError(f"{where} has no tokens", fix="give a text, or choose a template that writes some")
    longest = max(map(len, tails)) - 1  # the last token of a label is predicted and never read
    if context is not None and len(prompt) + longest > context:
        raise DataError(
            f"{where} has {len(prompt)} tokens and the longest label {longest}; the model reads at most {context}",
            fix=f"shorten it to {context - longest} tokens or fewer, or use a model with a longer context",
        )


def _batches(order: Sequence[int], tails: Sequence[Tails], size: int) -> Iterator[list[int]]:
    """Runs of at most `size` prompts that have the same ids for the labels."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) == size or tails[index] != tails[batch[0]]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class _Level:
    """Nodes of the tree that are as many tokens deep. Each list names its nodes' parents by place in the level above.

    parents, tokens: of nodes that are read, because labels go on after them.
    leaf_parents, leaf_tokens, leaf_labels: of the last tokens of labels, which are only predicted.
    """

    parents: list[int]
    tokens: list[int]
    leaf_parents: list[int]
    leaf_tokens: list[int]
    leaf_labels: list[int]


def _tree(tails: Tails, chosen: Sequence[int]) -> list[_Level]:
    """The levels of some labels, the first tokens first.

    Labels (7 8 1) and (7 1), 1 the stop token: the first level reads 7; the second reads 8 and predicts 1 for the
    second label; the third predicts 1 for the first.
    """
    levels: list[_Level] = []
    above: dict[tuple[int, ...], int] = {(): 0}
    while above:
        depth = len(levels)
        level, here = _Level([], [], [], [], []), dict[tuple[int, ...], int]()
        for label in chosen:
            tail = tails[label]
            if len(tail) == depth + 1:
                level.leaf_parents.append(above[tail[:depth]])
                level.leaf_tokens.append(tail[depth])
                level.leaf_labels.append(label)
            elif len(tail) > depth + 1 and tail[: depth + 1] not in here:
                here[tail[: depth + 1]] = len(here)
                level.parents.append(above[tail[:depth]])
                level.tokens.append(tail[depth])
        levels.append(level)
        above = here
    return levels


def _score(engine: Engine, prompts: Sequence[Sequence[int]], tails: Tails, batch_size: int) -> Tensor:
    """Log-likelihood of every label after every prompt. (P, K) float64 on the CPU."""
    rows = Rows(engine.model, prompts, context_tokens=engine.context_tokens)
    first = rows.forward()  # (P, V)
    scores = torch.empty(len(prompts), len(tails), dtype=torch.float64)
    order = sorted(range(len(tails)), key=tails.__getitem__)  # labels that begin alike stay together
    for start in range(0, len(order), batch_size):
        levels = _tree(tails, order[start : start + batch_size])
        widest = max(1, *(len(level.parents) for level in levels))
        at_once = max(1, batch_size // widest)
        for place in range(0, len(prompts), at_once):
            index = torch.arange(place, min(place + at_once, len(prompts)), device=first.device)
            _walk(rows.branch(index), first[index], levels, scores[place : place + at_once])
    return scores


def _walk(rows: Rows, logits: Tensor, levels: Sequence[_Level], scores: Tensor) -> None:
    """Fill in the scores of the labels of a tree. logits: (P, V) after the prompts; scores: (P, K)."""
    count, nodes = len(logits), 1
    totals = torch.zeros(count, 1, dtype=torch.float64)  # (P, nodes)
    for level in levels:
        if level.leaf_labels:
            at = _row_numbers(count, nodes, level.leaf_parents)
            gained = _log_likelihood(logits, at, level.leaf_tokens).view(count, -1)
            scores[:, level.leaf_labels] = totals[:, level.leaf_parents] + gained
        if level.parents:
            at = _row_numbers(count, nodes, level.parents)
            gained = _log_likelihood(logits, at, level.tokens).view(count, -1)
            totals = totals[:, level.parents] + gained
            rows.select(at.to(logits.device))
            rows.extend(torch.tensor(level.tokens, device=logits.device).repeat(count))
            logits, nodes = rows.forward(), len(level.parents)


def _log_likelihood(logits: Tensor, rows: Tensor, tokens: Sequence[int]) -> Tensor:
    """Of each token after its row, the same tokens for every prompt; float64 on the CPU. rows: (P * tokens,)."""
    rows = rows.to(logits.device)
    wanted = torch.tensor(tokens, device=logits.device).repeat(len(rows) // len(tokens))
    found = logits[rows, wanted] - logits.logsumexp(dim=-1)[rows]
    return found.cpu().double()


def _row_numbers(count: int, nodes: int, chosen: Sequence[int]) -> Tensor:
    """Rows of some nodes, for every prompt: prompts one after the other, each with `nodes` rows."""
    return (torch.arange(count)[:, None] * nodes + torch.tensor(chosen)).flatten()
