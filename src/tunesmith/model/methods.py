"""How a base model is made trainable. Knows no data, no loop and no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.config import METHODS, MethodConfig
from tunesmith.errors import SettingsError
from tunesmith.kernels import draws_again
from tunesmith.model.load import load_skeleton, quiet
from tunesmith.model.memory import memory_errors
from tunesmith.model.pissa import start_at_principal
from tunesmith.model.soft import soft_config, start_prompt
from tunesmith.model.targets import chosen_layers, role_of, shortest_names, together


def apply_method(
    model: PreTrainedModel | PeftModel,
    method: MethodConfig,
    *,
    dtype: torch.dtype,
    gradient_checkpointing: bool = False,
    prompt_ids: Sequence[int] | None = None,
) -> PreTrainedModel | PeftModel:
    """Make a base model trainable, in place; what trains is float32, what is frozen is `dtype`.

    Args:
        model: a base model; one that has an adapter is refused.
        method: its name and values. dtype: the format of the computation, as `load_base` resolved it.
        gradient_checkpointing: recompute activations in the backward pass; works in train mode only.
        prompt_ids: tokens that the virtual tokens of a soft prompt begin as; None draws them.

    Returns:
        A PeftModel for adapter methods, the same model for full.

    Raises:
        SettingsError: an unknown method, a model that has an adapter, settings that choose nothing of this model, or
            checkpointing the model cannot do.
        ResourceError: the memory of the device does not hold what trains in float32.
    """
    if method.name not in METHODS:
        raise SettingsError(f"unknown method {method.name!r}; allowed: {', '.join(METHODS)}", fix="set method.name")
    if isinstance(model, PeftModel):
        raise SettingsError("the model has an adapter already", fix="merge it into its base, and train on the result")
    if getattr(model, "is_quantized", False) and not METHODS[method.name].quantisable:
        able = [name for name, other in METHODS.items() if other.quantisable]
        raise SettingsError(
            f"{method.name} cannot train a quantised base", fix=f"set method.name to one of: {', '.join(able)}"
        )
    if gradient_checkpointing and not METHODS[method.name].gradient_checkpointing:
        raise SettingsError(
            f"{method.name} cannot recompute activations", fix="set train.gradient_checkpointing to false"
        )
    prepared = _with_adapter(model, method, dtype, prompt_ids) if METHODS[method.name].is_adapter else _whole(model)
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise SettingsError(
                f"the architecture {model.config.model_type!r} cannot recompute activations",
                fix="set train.gradient_checkpointing to false",
            )
        recompute_activations(model)
    return prepared


def check_method(method: MethodConfig, path: str, *, revision: str | None = None) -> None:
    """Refuse places and ranks that a model does not have, from its config.json alone: no weights are loaded.

    `auto` is checked as lora, which it becomes when any of these settings is given.

    Raises:
        SettingsError: layers, modules or a rank that this model does not have. ResourceError: there is no such model.
    """
    if method.name == "auto":
        method = method.model_copy(update={"name": "lora"})
    if method.name != "full" and method != MethodConfig(name=method.name):
        adapter_config(load_skeleton(path, revision), method)


def adapter_config(model: PreTrainedModel, method: MethodConfig) -> PeftConfig:
    """PEFT's settings for an adapter method on a model, which may be without weights.

    Raises:
        SettingsError: settings that choose nothing of this model, all of them.
    """
    if METHODS[method.name].is_soft_prompt:
        return soft_config(model, method)
    errors, chosen, saved = list[SettingsError](), list[str](), None
    try:
        chosen = chosen_for(model, method)
        if method.name == "pissa":
            _check_rank(model, chosen, method.r)
    except SettingsError as error:
        errors.append(error)
    try:
        saved = modules_to_save(model, method)
    except SettingsError as error:
        errors.append(error)
    if errors:
        raise together(errors)
    modules = [model.get_submodule(path) for path in chosen]
    shared: dict[str, Any] = {
        "task_type": TaskType.CAUSAL_LM,
        "fan_in_fan_out": any(map(_was_conv1d, modules)),
        "modules_to_save": saved,
    }
    if method.name == "ia3":
        # (IA)3 scales keys and values as they come out, and what goes into the last layer of the MLP.
        inner = [path for path in chosen if role_of(path) == "down"]
        outer = [path for path in chosen if role_of(path) != "down"]
        scaled_inputs = shortest_names(inner, model) if inner else []
        targets = scaled_inputs + (shortest_names(outer, model) if outer else [])
        return IA3Config(target_modules=targets, feedforward_modules=scaled_inputs, **shared)
    return LoraConfig(
        r=method.r,
        # PEFT only divides it, so a fraction works; whole numbers stay whole for readers that take no others.
        lora_alpha=int(method.alpha) if method.alpha == int(method.alpha) else method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=shortest_names(chosen, model),
        bias="none",
        use_rslora=method.name == "rslora",
        use_dora=method.name == "dora",
        **shared,
    )


def _was_conv1d(module: nn.Module) -> bool:
    """Whether a layer is one that holds its matrix as (inputs, outputs), or was before it was quantised."""
    return isinstance(module, Conv1D) or getattr(module, "source_cls", None) is Conv1D


def chosen_for(model: PreTrainedModel, method: MethodConfig) -> list[str]:
    """Paths of the linear layers that get an adapter.

    Raises:
        SettingsError: there is none.
    """
    wanted = method.target_modules
    if wanted == "auto":
        wanted = "key,value,down" if method.name == "ia3" else "all"  # what the paper of IA3 scales
    return chosen_layers(model, wanted, method.layers)


def adapter_size(method: MethodConfig, path: str, inputs: int, outputs: int) -> int:
    """Parameters that an adapter method trains beside a linear layer."""
    return _SIZES[method.name](method.r, path, inputs, outputs)


def _low_rank_size(r: int, path: str, inputs: int, outputs: int) -> int:
    return r * (inputs + outputs)


_SIZES: Mapping[str, Callable[[int, str, int, int], int]] = {
    "lora": _low_rank_size,
    "rslora": _low_rank_size,
    "qlora": _low_rank_size,
    "pissa": _low_rank_size,
    "dora": lambda r, path, inputs, outputs: r * (inputs + outputs) + outputs,
    "ia3": lambda r, path, inputs, outputs: inputs if role_of(path) == "down" else outputs,
}


def recompute_activations(model: PreTrainedModel) -> None:
    """Gradient checkpointing (arXiv:1604.06174): activations are computed again in the backward pass, in train mode."""
    # The non-reentrant kind passes gradients through frozen embeddings, so these need none of their own.
    options = {"use_reentrant": False, "context_fn": draws_again}
    with quiet():  # transformers 5.23 warns of a new name that 5.3 does not have
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _with_adapter(
    model: PreTrainedModel, method: MethodConfig, dtype: torch.dtype, prompt_ids: Sequence[int] | None
) -> PeftModel:
    """Frozen weights in `dtype` and an adapter in float32; one in the layers changes nothing yet."""
    if model.dtype != dtype and not getattr(model, "is_quantized", False):
        for parameter in model.parameters():  # not model.to(): rotary frequencies are buffers and must stay float32
            parameter.data = parameter.data.to(dtype)
    config = adapter_config(model, method)
    with quiet():
        adapted: PeftModel = get_peft_model(model, config, autocast_adapter_dtype=True)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # PEFT leaves modules_to_save in the format of the base
            parameter.data = parameter.data.float()
    if method.name == "pissa":
        start_at_principal(adapted)
    if METHODS[method.name].is_soft_prompt:
        start_prompt(adapted, prompt_ids)
    return adapted


def _whole(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight trains, kept in float32: in bfloat16 a small step would round to nothing."""
    with memory_errors("all weights in float32", fix="set method.name to lora, or take a smaller model"):
        model.float()
    model.requires_grad_(True)
    return model


def modules_to_save(model: PreTrainedModel, method: MethodConfig) -> list[str] | None:
    """Last names of the modules that are trained whole beside the adapter, None for none.

    Raises:
        SettingsError: embeddings and head are tied.
    """
    if method.modules_to_save == "none":
        return None
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is embeddings.weight:
        raise SettingsError(
            f"method.modules_to_save {method.modules_to_save}: embeddings and head of this model are one matrix, which "
            "cannot be trained in one of its places",
            fix="leave method.modules_to_save out, or train every weight: method.name full",
        )
    wanted = {"embeddings": (embeddings,), "head": (head,), "both": (embeddings, head)}[method.modules_to_save]
    return [path.rpartition(".")[2] for path, module in model.named_modules() if any(module is one for one in wanted)]


def _check_rank(model: PreTrainedModel, chosen: list[str], r: int) -> None:
    for path in chosen:
        weight: Any = model.get_submodule(path).weight
        if r > min(weight.shape):
            raise SettingsError(
                f"method.r {r} is more than {path} has directions for PiSSA to start from: {min(weight.shape)}",
                fix=f"set method.r to {min(weight.shape)} or less",
            )
