"""Sequences that a model reads together, a token at a time after their prompts, with the key-value cache of them.

Knows nothing of what is chosen or why. Prompts are padded on the left and masked, so a row computes what it would
compute alone. B rows, T prompt tokens of the longest row, P virtual tokens of a soft prompt, which are in the cache
from the start, before the padding, C columns in the cache, V tokens in the vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tunesmith.errors import TrainingError
from tunesmith.model import base_of, begun_cache, eval_mode, memory_errors, quick_layers, virtual_tokens


class Rows:
    """What `forward` reads next, and what was read before.

    Args:
        model: a causal language model; its mode is the caller's.
        prompts: token ids of each row, at least one.
        context_tokens: longest sequence of the model; None for a model without a limit.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], *, context_tokens: int | None) -> None:
        self._virtual = virtual_tokens(model)
        # PEFT's own forward would put them before every piece; here they are in the cache from the start
        self._model = base_of(model) if self._virtual else model
        longest = max(map(len, prompts))
        self._width = self._virtual + longest  # columns in the cache and in `ids`
        self._last_position = self._virtual + context_tokens - 1 if context_tokens else None
        device = next(model.parameters()).device
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)  # (B, T)
        for index, prompt in enumerate(prompts):
            ids[index, longest - len(prompt) :] = torch.tensor(prompt)
        padding = torch.tensor([longest - len(prompt) for prompt in prompts])  # (B,)
        # (B, T), of padding any that there is
        positions = self._virtual + (torch.arange(longest) - padding[:, None]).clamp(min=0)
        self.ids = ids.to(device)
        self._padding = padding.to(device)
        self._is_padded = bool(padding.any())
        self._positions = positions.to(device)
        with torch.inference_mode():
            self._cache = begun_cache(model, len(prompts))

    @property
    def can_join(self) -> bool:
        """Whether `join` knows the caches of all layers. A window that virtual tokens leave is not among them."""
        kinds = {type(layer) for layer in self._cache.layers}
        return kinds <= {DynamicLayer} if self._virtual else kinds <= {DynamicLayer, DynamicSlidingWindowLayer}

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """Read what is waiting: scores of the next token of each row. (B, V) float32.

        Raises:
            TrainingError: the model gives NaN.
        """
        output = self._model(
            input_ids=self.ids,
            attention_mask=self._mask() if self._is_padded else None,
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
        self._positions = self._positions[:, -1:] + 1  # (B, 1)
        if self._last_position is not None:
            # A row that ended waits to be dropped; its position must not run past a learned position table.
            self._positions.clamp_(max=self._last_position)
        self._width += 1

    @torch.inference_mode()
    def select(self, index: Tensor) -> None:
        """Keep these rows, in this order; a row may come several times. index: (B',) int64."""
        self.ids = self.ids[index]
        self._positions = self._positions[index]
        self._padding = self._padding[index]
        # Named for beam search, it is the one selection of rows that every kind of layer has.
        self._cache.reorder_cache(cast("torch.LongTensor", index))

    @torch.inference_mode()
    def join(self, other: Rows) -> None:
        """Take in the rows of `other` after these; `other` is used up. Both wait to read one token in each row.

        Columns that are padding in all rows go. Keys know their positions, so they may stand in any column.

        Raises:
            AssertionError: `can_join` is false.
        """
        assert self.can_join
        assert self.ids.shape[1] == other.ids.shape[1] == 1
        width = max(int((rows._width - rows._padding).max()) for rows in (self, other))
        for rows in (self, other):
            rows._fit(width)
        for own, joining in zip(self._layers(), other._layers(), strict=True):
            own.keys = torch.cat([own.keys, joining.keys])
            own.values = torch.cat([own.values, joining.values])
        self.ids = torch.cat([self.ids, other.ids])
        self._positions = torch.cat([self._positions, other._positions])
        self._padding = torch.cat([self._padding, other._padding])
        self._is_padded = bool(self._padding.any())

    def _fit(self, width: int) -> None:
        """Make this so many columns wide, the one that waits included, by padding only."""
        self._padding = self._padding + (width - self._width)
        self._width = width
        for layer in self._layers():
            columns = width - 1
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = columns
                columns = min(columns, layer.sliding_window - 1)
            layer.keys = self._fitted(layer.keys, columns)
            layer.values = self._fitted(layer.values, columns)

    def _layers(self) -> list[Any]:
        """What holds keys and values, (B, H, C, D) each; a layer that uses those of another holds none."""
        layers: list[Any] = self._cache.layers
        return [layer for layer in layers if layer.is_initialized]

    def _fitted(self, states: Tensor, columns: int) -> Tensor:
        """The virtual tokens and the last of the others, (B, H, C, D) -> (B, H, columns, D)."""
        virtual, others = states[:, :, : self._virtual], states[:, :, self._virtual :]
        # A negative number of columns to add takes columns away.
        others = F.pad(others, (0, 0, columns - self._virtual - others.shape[2], 0))
        return torch.cat([virtual, others], dim=2) if self._virtual else others

    def _mask(self) -> Tensor:
        """(B, C) bool: everything but padding."""
        columns = torch.arange(self._width, device=self._padding.device)
        return (columns < self._virtual) | (columns >= self._virtual + self._padding[:, None])

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
    """Dropout off and layers quick for the duration; afterwards every module is as it was.

    Raises:
        ResourceError: memory runs out inside.
    """
    with eval_mode(model), memory_errors(doing, fix=fix), quick_layers(model):
        yield
