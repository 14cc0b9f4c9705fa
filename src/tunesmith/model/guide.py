"""The layer guide of a model: what each of its modules is, how large, and what an adapter beside it would train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.config import METHODS, MethodConfig
from tunesmith.model.methods import adapter_size, chosen_for, modules_to_save
from tunesmith.model.targets import block_of, linear_paths, part_of, role_of


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that has parameters of its own.

    path: in the model. block: number of its decoder layer, None outside.
    part: attention, mlp, embeddings, head, norm or other. role: what it computes there, None when that is not known.
    shape: (outputs, inputs) of a linear layer, (entries, width) of embeddings, else that of its largest parameter.
    parameters: 0 where they are another module's (tied). adapter: parameters that the method would train beside it
        (method.modules_to_save: its own), None where none can go. chosen: whether the settings train there.
    """

    path: str
    block: int | None
    part: str
    role: str | None
    shape: tuple[int, ...]
    parameters: int
    adapter: int | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class LayerGuide:
    """All modules of a model, in its order. method: that of `Layer.adapter`; r: its rank, None when it has none."""

    architecture: str
    method: str
    r: int | None
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def chosen_parameters(self) -> int:
        """What the adapter would train in all."""
        return sum(layer.adapter or 0 for layer in self.layers if layer.chosen)


def layer_guide(model: PreTrainedModel, method: MethodConfig) -> LayerGuide:
    """Describe a model, which may be without weights. For methods that put none beside layers, LoRA's is reckoned.

    Raises:
        SettingsError: method.target_modules, layers or modules_to_save choose what is not there.
    """
    if method.name == "auto" or not METHODS[method.name].is_adapter or METHODS[method.name].is_soft_prompt:
        method = method.model_copy(update={"name": "lora"})
    linear, chosen = set(linear_paths(model)), set(chosen_for(model, method))
    saved = modules_to_save(model, method) or []
    seen: set[int] = set()
    layers = []
    for path, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        shape = _shape(module)
        part, role = _place(model, path, module)
        is_saved = path.rpartition(".")[2] in saved
        is_tied = all(id(parameter) in seen for parameter in own)
        parameters = sum(parameter.numel() for parameter in own if id(parameter) not in seen)
        trained = parameters if is_saved else None
        if path in linear:
            trained = adapter_size(method, path, inputs=shape[1], outputs=shape[0])
        layers.append(
            Layer(
                path=path,
                block=block_of(path),
                part=part,
                role="the same matrix as the embeddings" if is_tied else role,
                shape=shape,
                parameters=parameters,
                adapter=trained,
                chosen=is_saved or path in chosen,
            )
        )
        seen.update(map(id, own))
    r = method.r if METHODS[method.name].has_rank else None
    return LayerGuide(str(model.config.model_type), method.name, r, tuple(layers))


def _shape(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, Conv1D):  # keeps its matrix as (inputs, outputs)
        weight: Any = module.weight
        return (weight.shape[1], weight.shape[0])
    largest = max(module.parameters(recurse=False), key=torch.Tensor.numel)
    return tuple(largest.shape)


def _place(model: PreTrainedModel, path: str, module: nn.Module) -> tuple[str, str | None]:
    if module is model.get_output_embeddings():
        return "head", "scores of the next token"
    if module is model.get_input_embeddings():
        return "embeddings", "tokens"
    if isinstance(module, nn.Embedding):
        return "embeddings", "positions"
    if "norm" in type(module).__name__.lower():
        return "norm", None
    return part_of(path) or "other", role_of(path)
