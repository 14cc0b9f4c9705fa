"""Which architectures llama.cpp computes as transformers does, and what a GGUF file says of each. One literal table.

Keys are those of the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), without the
architecture in front. Knows shapes and names, reads no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.errors import SettingsError

Number = int | float
Change = Literal["permute", "transpose", "plus one"]

_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How one model_type of transformers is written.

    name: llama.cpp's; enum: its name in gguf.MODEL_ARCH.
    numbers: key -> value from the model's configuration.
    activations: those that llama.cpp computes for it.
    fixed: settings that llama.cpp has only in this way.
    changes: pattern of a tensor's name -> what is done to it.
    """

    name: str
    enum: str
    numbers: Mapping[str, Callable[[Any], Number]]
    activations: tuple[str, ...]
    fixed: Mapping[str, object] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)


def _head_size(config: Any) -> int:
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def _rotated(config: Any) -> int:
    return int(_head_size(config) * config.rope_parameters.get("partial_rotary_factor", 1.0))


def context_length(config: Any) -> int:
    """Tokens up to which llama.cpp, which has no sliding window here, computes the same."""
    window = getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


_EVERY: dict[str, Callable[[Any], Number]] = {
    "vocab_size": lambda c: c.vocab_size,
    "block_count": lambda c: c.num_hidden_layers,
    "context_length": context_length,
    "embedding_length": lambda c: c.hidden_size,
    "attention.head_count": lambda c: c.num_attention_heads,
}
_GROUPED: dict[str, Callable[[Any], Number]] = {
    **_EVERY,
    "feed_forward_length": lambda c: c.intermediate_size,
    "attention.head_count_kv": lambda c: c.num_key_value_heads,
    "attention.layer_norm_rms_epsilon": lambda c: float(c.rms_norm_eps),
    "rope.freq_base": lambda c: float(c.rope_parameters["rope_theta"]),
}
_HEAD_SIZES: dict[str, Callable[[Any], Number]] = {
    "attention.key_length": _head_size,
    "attention.value_length": _head_size,
}
_ROTATION: dict[str, Callable[[Any], Number]] = {"rope.dimension_count": _rotated}

_LLAMA = Architecture(
    name="llama",
    enum="LLAMA",
    numbers={**_GROUPED, **_HEAD_SIZES, **_ROTATION},
    activations=("silu",),
    # ggml's rotary embedding for llama turns neighbouring numbers, transformers' turns the two halves of a head
    changes={r"\.(q|k)_proj\.(weight|bias)$": "permute"},
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture(name="qwen2", enum="QWEN2", numbers=_GROUPED, activations=("silu",)),
    "qwen3": Architecture(
        name="qwen3",
        enum="QWEN3",
        numbers={**_GROUPED, **_HEAD_SIZES},
        activations=("silu",),
        fixed={"attention_bias": False},
    ),
    "gpt2": Architecture(
        name="gpt2",
        enum="GPT2",
        numbers={
            **_EVERY,
            "feed_forward_length": lambda c: c.n_inner or 4 * c.hidden_size,
            "attention.layer_norm_epsilon": lambda c: float(c.layer_norm_epsilon),
        },
        activations=_TANH_GELU,
        fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        changes={r"\.(c_attn|c_proj|c_fc)\.weight$": "transpose"},  # Conv1D stores (in, out)
    ),
    "phi": Architecture(
        name="phi2",
        enum="PHI2",
        numbers={
            **_EVERY,
            **_ROTATION,
            "feed_forward_length": lambda c: c.intermediate_size,
            "attention.head_count_kv": lambda c: c.num_key_value_heads or c.num_attention_heads,
            "attention.layer_norm_epsilon": lambda c: float(c.layer_norm_eps),
            "rope.freq_base": lambda c: float(c.rope_parameters["rope_theta"]),
        },
        activations=_TANH_GELU,
        fixed={"qk_layernorm": False},
    ),
    "phi3": Architecture(
        name="phi3",
        enum="PHI3",
        numbers={
            **_GROUPED,
            **_ROTATION,
            "attention.sliding_window": lambda c: c.sliding_window or 0,
            "rope.scaling.original_context_length": lambda c: (
                c.rope_parameters.get("original_max_position_embeddings") or c.original_max_position_embeddings
            ),
        },
        activations=("silu",),
    ),
    "gemma": Architecture(
        name="gemma",
        enum="GEMMA",
        numbers={**_GROUPED, **_HEAD_SIZES},
        activations=_TANH_GELU,
        fixed={"attention_bias": False},
        changes={r"norm\.weight$": "plus one"},  # transformers multiplies by 1 + weight
    ),
}


def find_architecture(config: Any) -> Architecture:
    """The row of a model's configuration.

    Raises:
        SettingsError: llama.cpp computes something else, or this table does not know; names every difference.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise SettingsError(
            f"models of the architecture {kind!r} cannot be written as GGUF; known: {', '.join(ARCHITECTURES)}",
            fix="export to merged, and use a server that reads safetensors (vLLM, transformers)",
        )
    found = ARCHITECTURES[kind]
    problems = [
        f"{name} is {getattr(config, name)!r}, llama.cpp has only {wanted!r}"
        for name, wanted in found.fixed.items()
        if getattr(config, name, wanted) != wanted
    ]
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    if activation not in found.activations:
        problems.append(f"the activation is {activation}, llama.cpp has {', '.join(found.activations)}")
    rope = _rope_type(config)
    if rope not in ("default", "linear", "llama3") or (rope != "default" and kind == "phi3"):
        problems.append(f"rotary embeddings are scaled by {rope!r}; default, linear and llama3 can be written")
    if problems:
        raise SettingsError(
            f"this {kind} model cannot be written as GGUF: llama.cpp would compute something else",
            problems=tuple(problems),
            fix="export to merged, and use a server that reads safetensors (vLLM, transformers)",
        )
    return found


def _rope_type(config: Any) -> str:
    parameters: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    return str(parameters.get("rope_type", "default"))


def rope_scaling(config: Any) -> tuple[dict[str, Number | str], dict[str, Tensor]]:
    """Keys and extra tensors of scaled rotary embeddings.

    Source of the factors: `_compute_llama3_parameters` of transformers/modeling_rope_utils.py, as the divisors that
    llama.cpp takes.
    """
    kind = _rope_type(config)
    if kind == "linear":
        factor = float(config.rope_parameters["factor"])
        return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}, {}
    if kind != "llama3":
        return {}, {}
    rope = config.rope_parameters
    size = _head_size(config)
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return {}, {"rope_freqs.weight": 1 / ((1 - smooth) / rope["factor"] + smooth)}


def change(tensor: Tensor, name: str, architecture: Architecture, config: Any) -> Tensor:
    """A tensor of transformers as llama.cpp wants it, rows first."""
    kind = change_of(name, architecture)
    if kind == "transpose":
        return tensor.T.contiguous()
    if kind == "plus one":
        return tensor + 1
    if kind == "permute":
        return permute(tensor, config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)
    return tensor


def change_of(name: str, architecture: Architecture) -> Change | None:
    """What `change` does to the tensor `name` of transformers."""
    return next((kind for pattern, kind in architecture.changes.items() if re.search(pattern, name)), None)


def permute(tensor: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection from two halves a head to neighbouring pairs: 0 1 2 3 -> 0 2 1 3."""
    rows = tensor.shape[0]
    return tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
