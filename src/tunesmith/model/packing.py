"""Rows laid end to end through a transformers model: attention stays within each row, positions start anew.

Knows the architectures in which that is proven to give the padded result (tests/parity/test_packing.py runs each).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunesmith.kernels import packed_attention
from tunesmith.model.soft import has_prefix, virtual_tokens

PACKABLE = (
    *("llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"),
    *("gpt_neox", "opt", "olmo2", "smollm3", "starcoder2"),
)
_NAME = "tunesmith_packed"


@contextmanager
def packing(model: nn.Module) -> Iterator[str | None]:
    """Inside, `token_nll` computes the rows of a batch end to end. Yields None, or why it pads them instead."""
    base = base_of(model)
    problem = why_padded(model)
    before = base.config._attn_implementation
    if problem is None:
        base.config._attn_implementation = _NAME
    try:
        yield problem
    finally:
        base.config._attn_implementation = before


def packs(base: PreTrainedModel, longest: int) -> bool:
    """Whether rows of at most `longest` tokens are computed end to end now."""
    return base.config._attn_implementation == _NAME and _within_window(base, longest)


def boundaries_of(lengths: tuple[int, ...]) -> Tensor:
    """(S+1,) int64: where each row starts, and the end."""
    return torch.tensor((0, *lengths)).cumsum(0)


def base_of(model: nn.Module) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def why_padded(model: nn.Module, longest: int = 0) -> str | None:
    """Why rows of up to `longest` tokens cannot be computed end to end, or None when they can."""
    base = base_of(model)
    kind = base.config.model_type
    if kind not in PACKABLE:
        return f"packing is not proven for the architecture {kind!r}"
    if has_prefix(model):
        return "the keys and values of a prefix stand before each"
    if base.config._attn_implementation not in ("sdpa", _NAME):
        return f"the model was loaded with {base.config._attn_implementation} attention"
    longest += virtual_tokens(model)
    if not _within_window(base, longest):
        return f"rows of up to {longest} tokens are longer than the model's sliding window"
    return None


def _within_window(base: PreTrainedModel, longest: int) -> bool:
    window = getattr(base.config, "sliding_window", None)
    return window is None or longest <= window


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    boundaries: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention: query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D)."""
    if boundaries is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    out = packed_attention(query, key, value, boundaries, scale=scale, dropout=kwargs.get("dropout", 0.0))
    return out.unsqueeze(0), None


def _mask(*, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """No mask where none was given: then either the boundaries say what a token sees, or there is no padding."""
    if attention_mask is None:
        return None
    mask: Tensor | None = sdpa_mask(attention_mask=attention_mask, **kwargs)
    return mask


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
