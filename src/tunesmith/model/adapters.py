"""Tuned weights to a folder and back, in PEFT's and transformers' own formats. Knows no run directory and no loop."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config import BUILTIN_PREFIX
from tunesmith.errors import ResourceError, SettingsError, TrainingError
from tunesmith.model.load import LoadedModel, explained, load_base, load_tokenizer, name_in_model, quiet
from tunesmith.model.pissa import as_lora, is_pissa
from tunesmith.model.source import TOKENIZER_FILES, Source, read_json, refuse_code

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SUPPORTED_ADAPTERS = ("LORA", "IA3", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING")


def save_adapter(
    model: PreTrainedModel | PeftModel,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    base_path: str,
    base_revision: str | None = None,
) -> None:
    """Write what was trained, and the tokenizer: an adapter as PEFT does, a whole model as transformers does.

    Args:
        base_path: goes into adapter_config.json as base_model_name_or_path.
        base_revision: `LoadedModel.revision` of the base; `load_adapter` refuses another base.

    Raises:
        TrainingError: a weight is NaN or infinite; nothing was written.
    """
    if isinstance(model, PeftModel):
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    else:
        weights = dict(model.named_parameters())
    refuse_non_finite(weights)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        if isinstance(model, PeftModel):
            _save_peft(model, folder, base_path, base_revision)
        else:
            model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer as transformers does, but not how it was loaded, which that keeps among its settings."""
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)


def load_adapter(
    folder: str | Path, *, dtype: str = "auto", device: str = "auto", quantize: str = "none"
) -> LoadedModel:
    """Load a tuned model: an adapter on its base (a PeftModel, so `disable_adapter()` is the base), or whole weights.

    The base is looked for by the name in adapter_config.json, then relative to the adapter's folder.

    Returns:
        LoadedModel whose path is the folder and whose revision is the base's.

    Raises:
        ResourceError: no tuned model there, a kind of adapter this does not load, a base that is missing or is not the
            one the adapter was trained on.
        SettingsError: an unknown dtype or device.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ResourceError(f"there is no folder {str(folder)!r}", fix="give the model/ folder of a finished run")
    if not (folder / ADAPTER_CONFIG).is_file():
        return load_base(str(folder), dtype=dtype, device=device, quantize=quantize)
    config = read_json(folder / ADAPTER_CONFIG)
    check_adapter(folder, config)
    return _with_adapter(_load_its_base(folder, config, dtype=dtype, device=device, quantize=quantize), folder)


def check_switch(loaded: LoadedModel, folder: str | Path) -> None:
    """Prove that `switch_adapter` may put the adapter of a folder on a loaded model, without reading its weights.

    Raises:
        ResourceError: no adapter there, a kind that this does not load, or one that belongs to another base.
    """
    folder = Path(folder).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ResourceError(
            f"{str(folder)!r} holds no adapter: the model was trained whole",
            fix="open it on its own; only adapters can be exchanged on a loaded base",
        )
    config = read_json(folder / ADAPTER_CONFIG)
    check_adapter(folder, config)
    name, recorded = config["base_model_name_or_path"], config.get("revision")
    model = loaded.model
    here = model.active_peft_config.base_model_name_or_path if isinstance(model, PeftModel) else loaded.path
    if (recorded != loaded.revision) if recorded else (name != here):
        raise ResourceError(
            f"the adapter in {str(folder)!r} belongs to another base",
            cause=f"it was trained on {name} ({recorded or 'no revision'}), loaded is {here} ({loaded.revision})",
            fix="open it on its own",
        )


def switch_adapter(loaded: LoadedModel, folder: str | Path) -> LoadedModel:
    """Put an adapter that passed `check_switch` on a loaded base, in the place of the one that is on it, if any.

    `loaded` is used up: its model is changed in place, also when the weights turn out to be damaged.

    Raises:
        ResourceError: the adapter's weights or tokenizer cannot be read.
    """
    model = loaded.model
    return _with_adapter(replace(loaded, model=model.unload() if isinstance(model, PeftModel) else model), Path(folder))


def load_trained(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Put the weights that an earlier run saved into a model made trainable by the same method, in place, unrounded.

    Args:
        model: from `apply_method`. folder: written by `save_adapter`.

    Raises:
        ResourceError: the weights are not there, are damaged, or are not those of this method on this base.
    """
    with explained(str(folder)):
        if isinstance(model, PeftModel):
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
            weights = load_file(folder / ADAPTER_WEIGHTS)
        else:
            expected, called = dict(model.named_parameters()), name_in_model(model)
            weights = {
                called(name): tensor
                for path in sorted(folder.glob("*.safetensors"))
                for name, tensor in load_file(path).items()
            }
    _check_names(folder, expected=expected.keys(), found=weights.keys())
    refuse_non_finite(weights)
    with explained(str(folder)), torch.no_grad():
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, weights)
        else:
            for name, parameter in expected.items():
                parameter.copy_(weights[name])


def merge(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Add the adapter to the base weights. The given model is used up; a model without adapter is returned as it is.

    The sum is rounded to the format of the base weights: load with dtype float32 for an exact merge.

    Raises:
        SettingsError: it is a soft prompt, or the base is quantised. TrainingError: the sum is NaN or infinite.
    """
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise SettingsError(
            "a soft prompt stands before the text and cannot be merged into the weights",
            fix="run it with its base in PEFT, or train with method.name lora",
        )
    if getattr(model.get_base_model(), "is_quantized", False):
        raise SettingsError(
            "an adapter is not merged into a quantised base, which would round it away",
            fix="load it with model.quantize none",
        )
    try:
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise TrainingError(
            "the adapter cannot be added to its base: the sum is not finite",
            cause=str(error),
            fix="train again with a lower train.learning_rate, or merge an earlier checkpoint",
        ) from error
    return merged


def refuse_non_finite(weights: dict[str, Tensor]) -> None:
    """Raise TrainingError, naming the first tensors, if any number is NaN or infinite."""
    numbers = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    broken = [name for name, tensor in numbers.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            f"{len(broken)} of {len(weights)} weight tensors hold NaN or infinite numbers",
            cause=f"first: {', '.join(broken[:3])}",
            fix="lower train.learning_rate, set train.max_grad_norm to 1, or go on from an earlier checkpoint",
        )


def _save_peft(model: PeftModel, folder: Path, base_path: str, base_revision: str | None) -> None:
    card = folder / "README.md"
    earlier_card = card.read_bytes() if card.exists() else None
    config = model.active_peft_config
    config.base_model_name_or_path = base_path
    config.revision = base_revision
    from_pissa = is_pissa(model)
    # save_embedding_layers="auto" would ask the hub for the base's vocabulary size.
    model.save_pretrained(
        str(folder),
        safe_serialization=True,
        save_embedding_layers=False,
        state_dict=as_lora(model) if from_pissa else None,
    )
    card.unlink(missing_ok=True)  # PEFT's half-filled model card; the real one is written later
    if earlier_card is not None:
        card.write_bytes(earlier_card)
    path = folder / ADAPTER_CONFIG
    content: dict[str, Any] = read_json(path)
    # PEFT writes a set in the order of the process's hash seed; the same run must give the same bytes.
    for name in ("target_modules", "feedforward_modules"):
        if name in content:
            content[name] = sorted(_texts(content[name]))
    if from_pissa:
        content.update(r=2 * content["r"], lora_alpha=2 * content["lora_alpha"])
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _texts(value: object) -> Iterable[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def check_adapter(folder: Path, config: dict[str, Any]) -> None:
    """Judge an adapter by its config and its file names, before anything is loaded.

    Raises:
        ResourceError: a kind that is not supported, no base named, no safetensors, or a config that asks for code.
    """
    refuse_code(f"{ADAPTER_CONFIG} of {str(folder)!r}", config)
    kind = config.get("peft_type")
    if kind is None and "fine_tune_type" in config:
        raise ResourceError(
            f"{str(folder)!r} holds an adapter of mlx-lm, which transformers cannot load",
            fix="use it with mlx_lm.generate --adapter-path, or take the run itself, or its export --to adapter",
        )
    # megatron_config makes PEFT import the module named in megatron_core.
    if kind not in SUPPORTED_ADAPTERS or config.get("megatron_config"):
        raise ResourceError(
            f"{str(folder)!r} holds an adapter of the kind {kind!r}; supported: {', '.join(SUPPORTED_ADAPTERS)}",
            fix="merge it into its base with the tool that made it, and give the merged folder",
        )
    if not config.get("base_model_name_or_path"):
        raise ResourceError(
            f"{folder / ADAPTER_CONFIG} does not say which base model the adapter belongs to",
            fix="write its folder, hub id or builtin:nano into base_model_name_or_path",
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        there = sorted(entry.name for entry in folder.iterdir())
        raise ResourceError(
            f"{str(folder)!r} has no {ADAPTER_WEIGHTS}",
            cause=f"found there: {', '.join(there)}; pickled weights (.bin) are not loaded: they can run code",
            fix="copy the adapter again, or convert it with PEFT: model.save_pretrained(folder)",
        )


def _load_its_base(folder: Path, config: dict[str, Any], *, dtype: str, device: str, quantize: str) -> LoadedModel:
    name, revision = its_base(folder, config)
    base = load_base(name, revision=revision, dtype=dtype, device=device, quantize=quantize)
    refuse_other_base(folder, config, name, base.revision)
    return base


def its_base(folder: Path, config: dict[str, Any]) -> tuple[str, str | None]:
    """Path and revision of the base that adapter_config.json names, a relative folder seen from the adapter's."""
    name, recorded = str(config["base_model_name_or_path"]), config.get("revision")
    local = name.startswith(BUILTIN_PREFIX) or Path(name).expanduser().exists()
    if not local and (folder / name).is_dir():
        name, local = str(folder / name), True
    return name, None if local or str(recorded).startswith("sha256") else recorded


def refuse_other_base(folder: Path, config: dict[str, Any], name: str, found: str) -> None:
    """Refuse a local base with another fingerprint than the one the adapter was trained on.

    Raises:
        ResourceError: naming both.
    """
    recorded = config.get("revision")
    if str(recorded).startswith("sha256") and recorded != found:
        raise ResourceError(
            f"the base model {name!r} is not the one the adapter in {str(folder)!r} was trained on: its files changed",
            cause=f"trained on {recorded}, found {found}",
            fix="put the original base back, or train again on the one that is there",
        )


def _with_adapter(base: LoadedModel, folder: Path) -> LoadedModel:
    """The adapter of a checked folder, and its tokenizer where it has one, on a base that has none."""
    with quiet(), explained(str(folder)):
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            base = replace(base, tokenizer=load_tokenizer(Source(str(folder), str(folder), folder=folder)))
        model = PeftModel.from_pretrained(base.model, str(folder), is_trainable=False, torch_device=str(base.device))
    _check_adapter_weights(folder, model)
    return replace(base, model=model.eval(), path=str(folder))


def _check_adapter_weights(folder: Path, model: PeftModel) -> None:
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    refuse_unfitting(folder, set(expected))
    refuse_non_finite(expected)


def refuse_unfitting(folder: Path, expected: set[str]) -> None:
    """PEFT only warns about tensors that are missing or that fit nowhere: the answers would quietly be the base's.

    Raises:
        ResourceError: the adapter's file has other tensors than its config and its base call for.
    """
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        _check_names(folder, expected=expected, found=file.keys())


def _check_names(folder: Path, *, expected: Iterable[str], found: Iterable[str]) -> None:
    lacking, extra = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    if lacking or extra:
        raise ResourceError(
            f"the weights in {folder} do not fit their base: {len(lacking)} tensors missing, {len(extra)} unknown",
            cause=f"first: {', '.join((lacking + extra)[:3])}",
            fix="copy the model again, or give it the base it was trained on",
        )
