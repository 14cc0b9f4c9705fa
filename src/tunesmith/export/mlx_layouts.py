"""Which architectures mlx-lm computes as transformers does, and how it reads each. One literal table.

Source: ml-explore/mlx-lm, mlx_lm/models/*.py (0.32.2). It reads the settings that transformers had before version 5:
`rope_theta` and `rope_scaling` beside each other, where transformers 5 writes `rope_parameters` alone; what it does not
find it takes from defaults of its own and computes something else, without a word. So they are written for it.

Knows shapes and names, reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tunesmith.errors import SettingsError

_FIX = "export to merged, and use a program that reads safetensors (vLLM, transformers)"
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one model_type of transformers is written.

    settings: key of config.json -> its value, of what mlx-lm reads and transformers keeps elsewhere or leaves out.
    activations: those that mlx-lm computes for it. ropes: scalings of rotary embeddings likewise.
    fixed: settings that mlx-lm has only in this way; a value, or a function of the configuration.
    renamed: beginning of a tensor's name -> what mlx-lm has in its place. transposed: pattern of tensors' names.
    """

    settings: Mapping[str, Callable[[Any], object]]
    activations: tuple[str, ...] = ("silu",)
    ropes: tuple[str, ...] = ("default",)
    fixed: Mapping[str, object] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    transposed: str | None = None

    def name(self, name: str) -> str:
        """What mlx-lm calls a tensor or module of transformers."""
        ours = next((beginning for beginning in self.renamed if name.startswith(beginning)), "")
        return self.renamed.get(ours, "") + name.removeprefix(ours)

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of transformers as mlx-lm wants it, rows first."""
        return tensor.T if self.transposed and re.search(self.transposed, name) else tensor

    def config(self, config: Any) -> dict[str, object]:
        """Keys to put into config.json."""
        return {key: value for key, read in self.settings.items() if (value := read(config)) is not None}


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rope(config: Any, key: str) -> Any:
    return (config.rope_parameters or {}).get(key)


def _scaling(config: Any) -> dict[str, object] | None:
    """The scaling as transformers 4 wrote it, None for none; `type` is the older name of `rope_type`."""
    kind = _rope(config, "rope_type")
    if kind in (None, "default"):
        return None
    scaling = {key: value for key, value in config.rope_parameters.items() if key != "rope_theta"}
    return {"original_max_position_embeddings": config.max_position_embeddings, **scaling, "type": kind}


_THETA: dict[str, Callable[[Any], object]] = {"rope_theta": lambda c: float(_rope(c, "rope_theta"))}
_TIED: dict[str, Callable[[Any], object]] = {"tie_word_embeddings": lambda c: bool(c.tie_word_embeddings)}
_SCALED = {**_THETA, **_TIED, "rope_scaling": _scaling}
_PARTIAL: dict[str, Callable[[Any], object]] = {
    "partial_rotary_factor": lambda c: float(_rope(c, "partial_rotary_factor") or 1.0)
}
_HEADS: dict[str, Callable[[Any], object]] = {"head_dim": _head_size}
_ROPES = ("default", "linear", "llama3", "yarn")
_GEMMA_ACTIVATIONS = ("gelu", *_TANH_GELU)  # `gemma` is computed with the exact GELU, which differs by up to 5e-4

_LLAMA = Layout(settings={**_SCALED, **_HEADS}, ropes=_ROPES)

LAYOUTS: Mapping[str, Layout] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Layout(settings=_SCALED, ropes=_ROPES),
    "qwen3": Layout(settings={**_SCALED, **_HEADS}, ropes=_ROPES, fixed={"attention_bias": False}),
    "gpt2": Layout(
        settings={"n_ctx": lambda c: c.n_positions},
        activations=_TANH_GELU,
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
            "n_inner": lambda c: c.n_inner and 4 * c.n_embd,
        },
        renamed={"transformer.": "model."},
        transposed=r"\.(c_attn|c_proj|c_fc)\.weight$",  # Conv1D stores (in, out)
    ),
    "phi": Layout(
        settings={**_THETA, **_PARTIAL},
        activations=_TANH_GELU,
        fixed={"qk_layernorm": False, "tie_word_embeddings": False},
    ),
    "phi3": Layout(settings={**_THETA, **_TIED, **_PARTIAL}),
    "gemma": Layout(
        settings={**_THETA, **_HEADS},
        activations=_GEMMA_ACTIVATIONS,
        fixed={"attention_bias": False, "tie_word_embeddings": True},
    ),
    "gemma2": Layout(
        settings={**_THETA, **_HEADS},
        activations=_TANH_GELU,
        fixed={"attention_bias": False, "tie_word_embeddings": True},
    ),
    "olmo2": Layout(settings=_SCALED, ropes=_ROPES),
    "smollm3": Layout(settings={**_SCALED, **_HEADS}, ropes=_ROPES, fixed={"use_sliding_window": False}),
    "granite": Layout(settings=_SCALED, ropes=_ROPES),
}


def find_layout(config: Any) -> Layout:
    """The row of a model's configuration.

    Raises:
        SettingsError: mlx-lm computes something else, or this table does not know; names every difference.
    """
    kind = config.model_type
    if kind not in LAYOUTS:
        raise SettingsError(
            f"models of the architecture {kind!r} cannot be written for mlx-lm; known: {', '.join(LAYOUTS)}", fix=_FIX
        )
    found = LAYOUTS[kind]
    fixed = {name: value(config) if callable(value) else value for name, value in found.fixed.items()}
    problems = [
        f"{name} is {getattr(config, name)!r}, mlx-lm has only {wanted!r}"
        for name, wanted in fixed.items()
        if getattr(config, name, wanted) != wanted
    ]
    activations = (getattr(config, name, None) for name in ("hidden_act", "hidden_activation", "activation_function"))
    activation = next((name for name in activations if name), None)
    if activation not in found.activations:
        problems.append(f"the activation is {activation}, mlx-lm has {', '.join(found.activations)}")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in found.ropes:
        problems.append(f"rotary embeddings are scaled by {rope!r}, mlx-lm has {', '.join(found.ropes)}")
    if problems:
        raise SettingsError(
            f"this {kind} model cannot be written for mlx-lm: it would compute something else",
            problems=tuple(problems),
            fix=_FIX,
        )
    return found
