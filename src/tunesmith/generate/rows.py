"""Sequences that a model reads together, a token at a time after their prompts, with the key-value cache of them.

Knows nothing of what is chosen or why. Prompts are padded on the left and masked, so a row computes what it would
compute alone. B rows, T prompt tokens of the longest row, P virtual tokens of a soft prompt, which are in the cache
from the start, V tokens in the vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from tunesmith.errors import TrainingError
from tunesmith.model import base_of, begun_cache, memory_errors, virtual_tokens


class Rows:
    """What `forward` reads next, and what was read before.

    Args:
        model: a causal language model; its mode is the caller's.
        prompts: token ids of each row, at least one.
        room: tokens that will be read after the longest prompt, at most.
        context_tokens: longest sequence of the model; None for a model without a limit.
    """

    def __init__(
        self, model: nn.Module, prompts: Sequence[Sequence[int]], *, room: int, context_tokens: int | None
    ) -> None:
        virtual = virtual_tokens(model)
        # PEFT's own forward would put them before every piece; here they are in the cache from the start
        self._model = base_of(model) if virtual else model
        longest = max(map(len, prompts))
        self._width = virtual + longest
        device = next(model.parameters()).device
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)  # (B, T)
        mask = torch.ones(len(prompts), self._width + room, dtype=torch.bool)  # (B, P + T + room)
        for index, prompt in enumerate(prompts):
            padding = longest - len(prompt)
            ids[index, padding:] = torch.tensor(prompt)
            mask[index, virtual : virtual + padding] = False
        # (B, T), -1 for padding when there is nothing before it
        positions = mask[:, : self._width].cumsum(dim=1)[:, virtual:] - 1
        self._last_position = virtual + (context_tokens or longest + room) - 1
        self.ids = ids.to(device)
        self._positions = positions.clamp(min=0).to(device)
        is_padded = any(len(prompt) != longest for prompt in prompts)
        self._mask = mask.to(device) if is_padded else None
        with torch.inference_mode():
            self._cache = begun_cache(model, len(prompts))

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """Read what is waiting: scores of the next token of each row. (B, V) float32.

        Raises:
            TrainingError: the model gives NaN.
        """
        output = self._model(
            input_ids=self.ids,
            attention_mask=None if self._mask is None else self._mask[:, : self._width],
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        if not bool(logits.amax(dim=-1).isfinite().all()):
            raise TrainingError(
                "the model gives NaN or infinite scores, so it cannot write an answer",
                cause="its weights were damaged in training, or its number format overflows",
                fix="train again with a lower train.learning_rate, or set model.dtype to float32",
            )
        return logits

    @torch.inference_mode()
    def extend(self, tokens: Tensor) -> None:
        """Let the next `forward` read one more token in each row. tokens: (B,)."""
        self.ids = tokens[:, None]  # (B, 1)
        # A row that ended waits to be dropped; its position must not run past a learned position table.
        self._positions = (self._positions[:, -1:] + 1).clamp_(max=self._last_position)  # (B, 1)
        self._width += 1

    @torch.inference_mode()
    def select(self, index: Tensor) -> None:
        """Keep these rows, in this order; a row may come several times. index: (B',) int64."""
        self.ids = self.ids[index]
        self._positions = self._positions[index]
        self._mask = None if self._mask is None else self._mask[index]
        # Named for beam search, it is the one selection of rows that every kind of layer has.
        self._cache.reorder_cache(cast("torch.LongTensor", index))

    def branch(self, index: Tensor) -> Rows:
        """These rows as `select` gives them, on their own: what is read there leaves this object as it is."""
        other = copy.copy(self)
        other._cache = copy.copy(self._cache)
        # A selection binds new tensors to a layer, so copies of the layers are enough.
        other._cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        other.select(index)
        return other


@contextmanager
def evaluating(model: nn.Module, doing: str, *, fix: str) -> Iterator[None]:
    """Dropout off for the duration; afterwards every module is as it was, frozen ones included.

    Raises:
        ResourceError: memory runs out inside.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with memory_errors(doing, fix=fix):
            yield
    finally:
        for module in training:
            module.training = True
