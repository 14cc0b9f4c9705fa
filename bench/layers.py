"""Where the parameters of well-known models are, and what LoRA beside them costs: `python -m bench.layers`.

Writes the table of docs/layers.md. Nothing is loaded: the shapes below are those of the models' config.json, and a test
holds each against the number of parameters that its authors give.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.pages import DOCS, filled, table

PAGE = DOCS / "layers.md"
RANK = 16
CHOICES = ("all", "attention", "mlp", "query,value")
_GROUPED = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
# name -> architecture, its shape, parameters in millions as published
SHAPES: Mapping[str, tuple[str, Mapping[str, Any], float]] = {
    "GPT-2": ("gpt2", {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}, 124),
    "SmolLM-135M": (
        "llama",
        {
            **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
            **{"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
        },
        135,
    ),
    "Qwen2.5-0.5B": (
        "qwen2",
        {
            **{"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24},
            **{"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
        },
        490,
    ),
    "Gemma-2B": (
        "gemma",
        {
            **{"vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18},
            **{"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256},
        },
        2510,
    ),
    "Phi-2": (
        "phi",
        {
            **{"vocab_size": 51200, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32},
            **{"num_attention_heads": 32, "partial_rotary_factor": 0.4},
        },
        2780,
    ),
    "Phi-3-mini": (
        "phi3",
        {
            **{"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32},
            **{"num_attention_heads": 32, "num_key_value_heads": 32, "pad_token_id": 32000},
        },
        3820,
    ),
    "Mistral-7B-v0.3": ("mistral", {**_GROUPED, "vocab_size": 32768, "intermediate_size": 14336}, 7250),
    "Qwen2.5-7B": (
        "qwen2",
        {
            **{"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
            **{"num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False},
        },
        7610,
    ),
    "Llama-3.1-8B": ("llama", {**_GROUPED, "vocab_size": 128256, "intermediate_size": 14336}, 8030),
}


def guides(name: str) -> dict[str, Any]:
    """The layer guide of a shape with LoRA on each of CHOICES."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.config import MethodConfig
    from tunesmith.model import layer_guide

    architecture, shape, _ = SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape))
    return {
        choice: layer_guide(model, MethodConfig(name="lora", r=RANK, target_modules=choice.split(",")))
        for choice in CHOICES
    }


def line(name: str) -> list[str]:
    """A line of the table: parameters, the share of each part, and LoRA's parameters on each of CHOICES."""
    found = guides(name)
    layers = found["all"].layers
    total = found["all"].parameters
    parts = [sum(layer.parameters for layer in layers if layer.part == part) for part in ("attention", "mlp")]
    outside = sum(layer.parameters for layer in layers if layer.part in ("embeddings", "head"))
    return [
        name,
        f"{total / 1e6:,.0f} M",
        *(f"{size / total:.0%}" for size in (outside, *parts)),
        *(f"{found[choice].chosen_parameters / 1e6:.1f} M" for choice in CHOICES),
    ]


def page() -> str:
    """docs/layers.md as it should be."""
    columns = ["model", "parameters", "embeddings and head", "attention", "MLP", *(f"`{choice}`" for choice in CHOICES)]
    return filled(PAGE, "\n".join(table(columns, [line(name) for name in SHAPES])))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
