"""A base model and its tokenizer, ready to compute. Knows no adapter, no template and no data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.utils import logging as transformers_logging

from tunesmith.errors import ResourceError
from tunesmith.model.precision import choose_device, choose_dtype
from tunesmith.model.size import count_parameters
from tunesmith.model.source import Source, compute_fingerprint, find_source
from tunesmith.optional import need

# What the library raises for files that are cut short, of another shape, of a newer format or too large for memory.
LOADING_ERRORS = (
    *(OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, MemoryError),
    *(SafetensorError, StrictDataclassError),
)

# 4-bit NormalFloat with scales that are quantised too (Dettmers et al. 2023, arXiv:2305.14314), and LLM.int8()
# (arXiv:2208.07339)
_FORMATS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode on its device, all weights frozen, and what it is.

    path: as it was asked for. revision: the commit of a hub model, else the fingerprint of the local files (for an
    adapter: of its base). dtype: the format of the computation and of the frozen weights; adapters stay float32.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    path: str
    revision: str
    dtype: torch.dtype
    dtype_reason: str
    device: torch.device


def load_base(
    path: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str = "none",
    on_host: bool = False,
) -> LoadedModel:
    """Load `builtin:name`, a local folder or a hub id, safetensors only, without running code from it.

    Args:
        revision: branch, tag or commit of a hub model; local models have none.
        dtype: auto, float32, bfloat16 or float16. device: auto, cpu, cuda or mps.
        quantize: nf4 or int8 for the linear layers but the head, as model.quantize; none as they are.
        on_host: leave the weights in host memory; whoever divides them moves them to the device piece by piece.

    Raises:
        ResourceError: the model, its weights, its tokenizer, the device or bitsandbytes is not here or not usable.
        SettingsError: an unknown dtype or device, or float16 on a CPU.
    """
    target = choose_device(device)
    choose_dtype(dtype, target, total_parameters=0)  # a wrong name is told before anything is downloaded
    if quantize != "none":
        need("bitsandbytes", extra="qlora")
    source = find_source(path, revision)
    with quiet():
        with explained(path):
            number_format, reason = choose_dtype(dtype, target, total_parameters=count_parameters(_skeleton(source))[1])
        tokenizer = load_tokenizer(source)
        with explained(path):
            model = _load_weights(source, number_format, quantize, target)
            if not on_host and quantize == "none":
                model.to(target)  # type: ignore[arg-type]  # the wrapper around it hides its signature
    model.requires_grad_(False)
    fingerprint = source.commit if source.folder is None else compute_fingerprint(source.folder)
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        path=path,
        revision=str(fingerprint),
        dtype=number_format,
        dtype_reason=reason,
        device=target,
    )


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of a checked model or adapter folder.

    Raises:
        ResourceError: there is none that can be used.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.location, trust_remote_code=False, **_hub_arguments(source)
        )
    except LOADING_ERRORS as error:
        raise ResourceError(
            f"the tokenizer of {source.name!r} cannot be loaded",
            cause=_first_line(error),
            fix="put tokenizer.json and tokenizer_config.json of the model beside its config.json",
        ) from error
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the progress bars and warnings of transformers, peft and huggingface_hub, and restore them after."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def load_skeleton(path: str, revision: str | None = None) -> PreTrainedModel:
    """A model's modules and shapes from its config.json, without weights: on the meta device, no memory.

    Raises:
        ResourceError: as `load_base` does for a model that is not here or not usable.
    """
    source = find_source(path, revision)
    with quiet(), explained(path):
        return _skeleton(source)


def name_in_model(model: PreTrainedModel) -> Callable[[str], str]:
    """Name of a tensor in a file -> its name in the model, wherever transformers only renames.

    It saves some under older names than its model has: the head of GPT-NeoX is embed_out.
    """
    renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]

    def called(key: str) -> str:
        for renaming in renamings:
            key, _ = renaming.rename_source_key(key)
        return key

    return called


def _skeleton(source: Source) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(source.location, trust_remote_code=False, **_hub_arguments(source))
    with torch.device("meta"):
        skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return skeleton


def _load_weights(source: Source, dtype: torch.dtype, quantize: str, device: torch.device) -> PreTrainedModel:
    quantized: dict[str, Any] = {}
    if quantize != "none":
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every matrix that it casts
        settings = BitsAndBytesConfig(**_FORMATS[quantize], bnb_4bit_compute_dtype=dtype)
        quantized = {"quantization_config": settings, "device_map": {"": device}}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.location,
        trust_remote_code=False,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        **quantized,
        **_hub_arguments(source),
    )
    model: PreTrainedModel = loaded[0]
    _keep_layout(model)
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers would fill these with random numbers
        raise ResourceError(
            f"the weights of {source.name!r} lack {len(missing)} tensors its config.json calls for",
            cause=f"missing: {', '.join(missing[:4])}",
            fix="copy or download the model again; config.json and weights must belong together",
        )
    return model


def _keep_layout(model: PreTrainedModel) -> None:
    """Forbid bitsandbytes to rearrange 4-bit weights when a model answers on a CPU with avx512_bf16.

    What it makes of them (0.50) has rounded scales, fails for fewer than 64 inputs, and is multiplied without autograd:
    a run that goes on after its first validation would have other gradients, or none.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _hub_arguments(source: Source) -> dict[str, Any]:
    if source.folder is not None:
        return {"local_files_only": True}
    return {"revision": source.commit, "local_files_only": source.only_cached}


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what the library raises while it loads `name` into one message."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise ResourceError(
            f"the model {name!r} cannot be loaded",
            cause=f"{type(error).__name__}: {_first_line(error)}",
            fix="copy or download the model again; if memory is short choose a smaller model",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
