"""How a base model is made trainable. Knows no data, no loop and no file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.config import MethodConfig
from tunesmith.errors import SettingsError
from tunesmith.model.load import quiet

# Names of the submodule of a decoder layer that a linear layer belongs to: llama, mistral, qwen, phi, phi3 and gemma
# say self_attn and mlp, gpt2 attn and mlp, gpt_neox attention, falcon and bloom self_attention, opt has bare fc1, fc2.
PARTS: dict[str, tuple[str, ...]] = {
    "attention": ("self_attn", "attn", "attention", "self_attention", "linear_attn"),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc1", "fc2"),
}


def apply_method(
    model: PreTrainedModel | PeftModel,
    method: MethodConfig,
    *,
    dtype: torch.dtype,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel | PeftModel:
    """Make a base model trainable, in place; what trains is float32, what is frozen is `dtype`.

    Args:
        model: a base model; one that has an adapter is refused.
        method: its name and values. dtype: the format of the computation, as `load_base` resolved it.
        gradient_checkpointing: recompute activations in the backward pass; works in train mode only.

    Returns:
        A PeftModel for adapter methods, the same model for full.

    Raises:
        SettingsError: an unknown method, a model that has an adapter, target modules that match nothing, or
            checkpointing the model cannot do.
    """
    if method.name not in METHODS:
        raise SettingsError(f"unknown method {method.name!r}; allowed: {', '.join(METHODS)}", fix="set method.name")
    if isinstance(model, PeftModel):
        raise SettingsError("the model has an adapter already", fix="merge it into its base, and train on the result")
    prepared = METHODS[method.name](model, method, dtype)
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise SettingsError(
                f"the architecture {model.config.model_type!r} cannot recompute activations",
                fix="set train.gradient_checkpointing to false",
            )
        recompute_activations(model)
    return prepared


def recompute_activations(model: PreTrainedModel) -> None:
    """Gradient checkpointing (arXiv:1604.06174): activations are computed again in the backward pass, in train mode."""
    # The non-reentrant kind passes gradients through frozen embeddings, so these need none of their own.
    with quiet():  # transformers 5.23 warns of a new name that 5.3 does not have
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def find_target_modules(model: PreTrainedModel, wanted: str | list[str]) -> list[str]:
    """Resolve method.target_modules to the shortest names that select exactly those linear layers.

    all -> every linear layer inside the decoder layers: not the head, not the embeddings.
    attention, mlp -> those inside that part. Anything else is one name, several with commas, or a list; a name selects
    the layers whose path ends with it: q_proj, self_attn.q_proj, layers.0.self_attn.q_proj.

    Returns:
        Sorted names as PEFT takes them, such as ["k_proj", "o_proj", "q_proj", "v_proj"].

    Raises:
        SettingsError: a name that selects nothing, with the names there are and the nearest.
    """
    paths = _linear_paths(model)
    if wanted == "all":
        return _shortest_names(paths, paths)
    if isinstance(wanted, str) and wanted in PARTS:
        chosen = [path for path in paths if set(path.split(".")) & set(PARTS[wanted])]
        if not chosen:
            raise _no_such_layer(wanted, paths)
        return _shortest_names(chosen, paths)
    names = [name.strip() for name in wanted.split(",")] if isinstance(wanted, str) else wanted
    for name in names:
        if not any(_ends_with(path, name) for path in paths):
            raise _no_such_layer(name, paths)
    if not names:
        raise SettingsError("method.target_modules is empty", fix="set it to all, attention, mlp or names of layers")
    return sorted(set(names))


def _apply_lora(model: PreTrainedModel, method: MethodConfig, dtype: torch.dtype) -> PeftModel:
    """LoRA (arXiv:2106.09685): frozen weights plus (alpha / r) * B @ A, with A, B in float32 and B = 0 at the start."""
    if model.dtype != dtype:
        for parameter in model.parameters():  # not model.to(): rotary frequencies are buffers and must stay float32
            parameter.data = parameter.data.to(dtype)
    targets = find_target_modules(model, method.target_modules)
    modules = [module for path, module in model.named_modules() if any(_ends_with(path, name) for name in targets)]
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=method.r,
        # PEFT only divides it, so a fraction works; whole numbers stay whole for readers that take no others.
        lora_alpha=int(method.alpha) if method.alpha == int(method.alpha) else method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules),
        bias="none",
    )
    with quiet():
        adapted: PeftModel = get_peft_model(model, config, autocast_adapter_dtype=True)
    return adapted


def _apply_full(model: PreTrainedModel, method: MethodConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Every weight trains, kept in float32: in bfloat16 a small step would round to nothing."""
    del method, dtype
    model.float()
    model.requires_grad_(True)
    return model


METHODS: dict[str, Callable[[PreTrainedModel, MethodConfig, torch.dtype], PreTrainedModel | PeftModel]] = {
    "lora": _apply_lora,
    "full": _apply_full,
}


def _linear_paths(model: PreTrainedModel) -> list[str]:
    """Paths of the linear layers inside numbered (decoder) layers, such as model.layers.0.mlp.up_proj."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and any(piece.isdigit() for piece in path.split("."))
    ]


def _shortest_names(chosen: list[str], paths: list[str]) -> list[str]:
    """Last names (q_proj) where they select exactly `chosen`, else names within the layer (attn.c_proj), else paths."""
    for shorten in (_last_name, _name_in_layer):
        names = sorted({shorten(path) for path in chosen})
        if [path for path in paths if any(_ends_with(path, name) for name in names)] == chosen:
            return names
    return chosen


def _last_name(path: str) -> str:
    return path.rpartition(".")[2]


def _name_in_layer(path: str) -> str:
    pieces = path.split(".")
    first = max(index for index, piece in enumerate(pieces) if piece.isdigit()) + 1
    return ".".join(pieces[first:])


def _ends_with(path: str, name: str) -> bool:
    """PEFT's own rule for a list of target modules."""
    return path == name or path.endswith(f".{name}")


def _no_such_layer(name: str, paths: Iterable[str]) -> SettingsError:
    there = sorted({_last_name(path) for path in paths})
    nearest = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
    return SettingsError(
        f"method.target_modules: {name!r} matches no linear layer of this model; there are: {', '.join(there)}",
        fix=f"did you mean {nearest[0]}?" if nearest else "set it to all, attention, mlp or some of these names",
    )
