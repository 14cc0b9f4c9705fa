"""Soft prompts: virtual tokens that stand before every row, as embeddings or as keys and values of each layer.

PEFT puts them in where its own model is called. Here the transformers model inside is called with them, by the loss and
by the engine, so that rows can be laid end to end and answers are written with one cache. What is trained, saved and
loaded is PEFT's.

V virtual tokens, S rows, H hidden size, K key/value heads, D numbers per head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, TaskType
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

from tunesmith.config import MethodConfig
from tunesmith.errors import SettingsError
from tunesmith.model.size import context_tokens

_LEAST_TEXT = 8  # tokens of the context that have to be left for rows: the least of data.max_length


def soft_config(model: PreTrainedModel, method: MethodConfig) -> PeftConfig:
    """PEFT's settings for a soft prompt of a model, which may be without weights.

    Raises:
        SettingsError: so many virtual tokens leave no room for text, or the model's embeddings have another width than
            its layers.
    """
    context = context_tokens(model)
    if context is not None and method.num_virtual_tokens > context - _LEAST_TEXT:
        raise SettingsError(
            f"method.num_virtual_tokens {method.num_virtual_tokens} leaves no room in a context of {context} tokens",
            fix=f"set it to {context - _LEAST_TEXT} or less; 20 to 100 are usual",
        )
    embeddings: Any = model.get_input_embeddings()
    width = embeddings.weight.shape[1]
    if width != model.config.hidden_size:
        raise SettingsError(
            f"{method.name} cannot tune this model: its embeddings are {width} wide, its layers "
            f"{model.config.hidden_size}",
            fix="set method.name to lora",
        )
    shared: dict[str, Any] = {"task_type": TaskType.CAUSAL_LM, "num_virtual_tokens": method.num_virtual_tokens}
    if method.name == "prefix":
        return PrefixTuningConfig(**shared)
    if method.name == "ptuning":
        return PromptEncoderConfig(encoder_hidden_size=method.encoder_hidden_size or width, **shared)
    # PEFT would load a tokenizer or warn about drawing; `start_prompt` gives the first values instead
    return PromptTuningConfig(prompt_tuning_init="RANDOM", **shared)


@torch.no_grad()
def start_prompt(model: PeftModel, ids: Sequence[int] | None) -> None:
    """Let the virtual tokens begin as real ones, in place: their embeddings, or the keys and values they give.

    Both papers found it decisive (Lester et al. 2021, arXiv:2104.08691, figure 3b; Li and Liang 2021, arXiv:2101.00190,
    section 7.4). P-tuning has no values of its own to set: its network begins at random.

    Args:
        ids: tokens to begin as, repeated or cut to fit; None draws them from the vocabulary.

    Raises:
        SettingsError: the model does not keep keys and values that a prefix could stand among.
    """
    config: Any = model.active_peft_config
    base: Any = model.get_base_model()
    if config.peft_type == PeftType.P_TUNING:
        return
    count = config.num_virtual_tokens
    embeddings: Any = base.get_input_embeddings()
    if not ids:
        chosen = torch.randint(embeddings.weight.shape[0], (count,))
    else:
        chosen = torch.tensor(ids, dtype=torch.int64).repeat(-(-count // len(ids)))[:count]
    chosen = chosen.to(embeddings.weight.device)
    encoder: Any = model.prompt_encoder
    weight: Tensor = encoder[model.active_adapter].embedding.weight
    if config.peft_type == PeftType.PROMPT_TUNING:
        weight.copy_(embeddings.weight[chosen])
        return
    cache = base(input_ids=chosen[None], use_cache=True).past_key_values
    layers = [(layer.keys, layer.values) for layer in getattr(cache, "layers", ()) if hasattr(layer, "keys")]
    # (V, layers, 2, K, D), as PEFT reads it
    start = torch.stack([torch.stack([part[0].transpose(0, 1) for part in pair], dim=1) for pair in layers], dim=1)
    if start.numel() != weight.numel():
        raise SettingsError(
            f"prefix cannot tune the architecture {base.config.model_type!r}: not every layer keeps keys and values "
            "of the same shape",
            fix="set method.name to prompt or lora",
        )
    weight.copy_(start.reshape(weight.shape))


def virtual_tokens(model: nn.Module) -> int:
    """How many virtual tokens stand before every row: 0 for a model without, and while its adapter is switched off."""
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return 0
    return int(model.active_peft_config.num_virtual_tokens) if model.has_active_enabled_adapter else 0


def prompt_embeddings(model: nn.Module) -> Tensor | None:
    """(V, H) what stands before every row as embeddings, with a gradient; None where nothing does."""
    if not virtual_tokens(model) or has_prefix(model):
        return None
    prompted: Any = model
    embeddings: Tensor = prompted.get_prompt(batch_size=1)[0]
    return embeddings


def has_prefix(model: nn.Module) -> bool:
    """Whether keys and values stand before every row."""
    prompted: Any = model
    return virtual_tokens(model) > 0 and prompted.active_peft_config.peft_type == PeftType.PREFIX_TUNING


def prefix_cache(model: nn.Module, rows: int) -> Cache:
    """The keys and values that stand before each of `rows` rows, with a gradient."""
    prompted: Any = model
    cache: Cache = prompted.get_prompt(batch_size=rows)
    return cache


@torch.inference_mode()
def begun_cache(model: nn.Module, rows: int) -> Cache:
    """A cache for writing `rows` answers, in which the model's virtual tokens are read already."""
    if has_prefix(model):
        return prefix_cache(model, rows)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    cache = DynamicCache(config=base.config)
    prompt = prompt_embeddings(model)
    if prompt is not None:
        prompt = prompt.to(base.get_input_embeddings().weight.dtype)
        base(inputs_embeds=prompt.expand(rows, -1, -1), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache
