"""A trained model's weights one tensor at a time, adapter added: memory for one layer, not for the model.

The sums are PEFT's own: each adapted layer is built from its meta twin, given its weights and merged as
`merge_and_unload` would. Knows no run directory and no file format but safetensors.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ResourceError, TrainingError
from tunesmith.model.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_adapter,
    its_base,
    refuse_other_base,
    refuse_unfitting,
)
from tunesmith.model.load import explained, load_skeleton, name_in_model, quiet
from tunesmith.model.source import compute_fingerprint, find_source, read_json

_PEFT_PREFIX = "base_model.model."


class TrainedTensors:
    """The tensors of a tuned model in float32 on the CPU, read when they are asked for.

    config: transformers' own of the model. shapes: by name as `named_parameters()` has it, so tied tensors are there
    once, in the model's order. adapter: the PEFT configuration, None for whole weights.
    """

    def __init__(self, skeleton: PreTrainedModel, weights: Path, adapter: Path | None) -> None:
        self.config: Any = skeleton.config
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()
        }
        self.adapter: Any = None
        self._files = _WeightFiles(skeleton, weights)
        self._adapter_tensors: dict[str, Any] = {}
        self._model: Any = skeleton
        self._last: tuple[str, nn.Module] | None = None
        if adapter is not None:
            self._attach(skeleton, adapter)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor `name`, what was trained added.

        Raises:
            ResourceError: the weights are stored in a quantised form.
            TrainingError: the sum with the adapter is NaN or infinite.
        """
        path, _, leaf = name.rpartition(".")
        if self.adapter is not None:
            module = self._model.get_submodule(path)
            if isinstance(module, ModulesToSaveWrapper):
                return self._adapter_tensor(f"{path}.{leaf}")
            if isinstance(module, BaseTunerLayer):
                merged: Tensor = getattr(self._merged(path, module), leaf).data
                return merged
        return self._files[name]

    def low_rank(self, path: str) -> tuple[Tensor, Tensor, float] | None:
        """A (r, in), B (out, r) of LoRA and what multiplies their product at a linear layer; None where there is none.

        A layer that stores its weight transposed (GPT-2) has them the same way round.
        """
        module = self._model.get_submodule(path)
        if not isinstance(module, LoraLayer):
            return None
        a, b = (self._adapter_tensor(f"{path}.lora_{letter}.weight") for letter in "AB")
        return a, b, float(module.scaling["default"])

    def magnitude(self, path: str) -> Tensor | None:
        """(out,) DoRA's length of each row of a weight at a linear layer; None where there is none."""
        module = self._model.get_submodule(path)
        if not isinstance(module, LoraLayer) or not module.lora_magnitude_vector:
            return None
        return self._adapter_tensor(f"{path}.lora_magnitude_vector").flatten()

    def _attach(self, skeleton: PreTrainedModel, folder: Path) -> None:
        self.adapter = PeftConfig.from_pretrained(str(folder))
        self.adapter.inference_mode = True
        with quiet(), explained(str(folder)):
            wrapped = get_peft_model(skeleton, self.adapter, low_cpu_mem_usage=True)
            expected = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
        assert isinstance(wrapped, PeftModel)
        refuse_unfitting(folder, expected)
        self._model = wrapped.base_model.model
        self._adapter_tensors = _handles(folder / ADAPTER_WEIGHTS)

    def _merged(self, path: str, module: BaseTunerLayer) -> nn.Module:
        """The base layer with its adapter added; kept until another is asked for, since a bias follows its weight."""
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        layer: Any = copy.deepcopy(module)
        state = {
            name: self._files[f"{path}.{name.removeprefix('base_layer.')}"]
            if name.startswith("base_layer.")
            else self._adapter_tensor(f"{path}.{_stored_name(name)}")
            for name, _ in layer.named_parameters()
        }
        layer.load_state_dict(state, assign=True)
        try:
            with torch.no_grad():
                layer.merge(safe_merge=True)
        except ValueError as error:
            raise TrainingError(
                f"the adapter cannot be added to {path}: the sum is not finite",
                cause=str(error),
                fix="train again with a lower train.learning_rate, or export an earlier run",
            ) from error
        base: nn.Module = layer.base_layer
        self._last = (path, base)
        return base

    def _adapter_tensor(self, name: str) -> Tensor:
        key = _PEFT_PREFIX + name
        tensor: Tensor = self._adapter_tensors[key].get_tensor(key).float()
        return tensor


def open_trained(folder: str | Path, *, adapter: bool = True) -> TrainedTensors:
    """The tensors of a model folder: whole weights, or an adapter on the base that its config names.

    Args:
        adapter: False for the base as it was before.

    Raises:
        ResourceError: what `load_adapter` refuses, or weights under names that transformers' model does not have.
    """
    folder = Path(folder).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file():
        return TrainedTensors(load_skeleton(str(folder)), folder, None)
    config = read_json(folder / ADAPTER_CONFIG)
    name, revision = its_base(folder, config)
    return TrainedTensors(load_skeleton(name, revision), base_folder(folder), folder if adapter else None)


def base_folder(folder: str | Path) -> Path:
    """The folder of the base that an adapter in `folder` belongs to: weights, configuration, tokenizer.

    Raises:
        ResourceError: what `load_adapter` refuses.
    """
    folder = Path(folder).expanduser()
    config = read_json(folder / ADAPTER_CONFIG)
    check_adapter(folder, config)
    name, revision = its_base(folder, config)
    source = find_source(name, revision)
    if source.folder is not None:
        refuse_other_base(folder, config, name, compute_fingerprint(source.folder))
        return source.folder
    with explained(name):
        return Path(
            snapshot_download(
                source.location,
                revision=source.commit,
                local_files_only=source.only_cached,
                allow_patterns=["*.safetensors", "*.json", "*.jinja"],
            )
        )


class _WeightFiles(Mapping[str, Tensor]):
    """The safetensors of a folder under the names of transformers' model, each read in float32 when asked for."""

    def __init__(self, skeleton: PreTrainedModel, folder: Path) -> None:
        called = name_in_model(skeleton)
        stored_in = {key: file for path in sorted(folder.glob("*.safetensors")) for key, file in _handles(path).items()}
        handles = {called(key): (key, file) for key, file in stored_in.items()}
        self._folder = folder
        self._found: dict[str, tuple[str, Any]] = {}
        tied: dict[int, list[str]] = {}
        for name, parameter in skeleton.named_parameters(remove_duplicate=False):
            tied.setdefault(id(parameter), []).append(name)
        prefix = f"{skeleton.base_model_prefix}."
        missing = []
        for names in tied.values():
            # Older files (GPT-2 on the hub) hold the inner model's names.
            stored = next((key for name in names for key in (name, name.removeprefix(prefix)) if key in handles), None)
            if stored is None:
                missing.append(names[0])
            else:
                self._found[names[0]] = handles[stored]
        if missing:
            raise ResourceError(
                f"the weights in {folder} are not stored under the names that transformers' model has",
                cause=f"{len(missing)} not found: {', '.join(missing[:3])}",
                fix="export to adapter; this architecture cannot be streamed",
            )

    def __getitem__(self, name: str) -> Tensor:
        key, file = self._found[name]
        tensor: Tensor = file.get_tensor(key)
        if not tensor.is_floating_point():
            raise ResourceError(
                f"the weights in {self._folder} are quantised ({key}: {tensor.dtype}); a merge needs the full ones",
                fix="train on the unquantised model, or export to adapter",
            )
        return tensor.float()

    def __iter__(self) -> Any:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _handles(path: Path) -> dict[str, Any]:
    """Key -> the open file that holds it. Pages are mapped, so an open file takes no memory."""
    file: Any = safe_open(path, framework="pt")
    return dict.fromkeys(file.keys(), file)


def _stored_name(name: str) -> str:
    """How PEFT names a parameter of a layer in its file: without the adapter's name, DoRA's vector without .weight.

    "lora_A.default.weight" -> "lora_A.weight"; "lora_magnitude_vector.default.weight" -> "lora_magnitude_vector".
    """
    if name.startswith("lora_magnitude_vector."):
        return "lora_magnitude_vector"
    return name.replace(".default", "", 1)
