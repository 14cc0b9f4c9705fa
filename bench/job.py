"""What can be measured: model shapes, contenders, and one measurement as plain values. Imports nothing heavy.

The program that starts the measurements must stay small: Linux counts its memory into the peak of a child (see
`worker.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["machine", "model", "speed", "agreement", "growth"]
SEED = 20261121
# Rows are at most this long, so that the padded script loses none of them; 512 is the width it pads to.
SHORTEST_ROW, LONGEST_ROW, SCRIPT_WIDTH = 50, 480, 512
# Row i is prompt up to a share of its length drawn from this range; the rest is the supervised answer.
PROMPT_SHARE = (0.3, 0.6)
LEARNING_RATE = 2e-4
RANK, ALPHA = 16, 32
QUICK_SIZE = "tiny"  # shows that everything runs; nothing it says about speed means anything


@dataclass(frozen=True, slots=True)
class Size:
    """A model with random weights. `shape` are the arguments of its transformers config class."""

    architecture: Literal["llama", "gpt2", "qwen2"]
    shape: Mapping[str, Any]
    device: Literal["cpu", "cuda"] = "cpu"
    rows_per_step: int = 16


@dataclass(frozen=True, slots=True)
class Contender:
    """A trainer with its settings. micro_rows: rows per forward pass. dtype: that of the frozen weights.

    dropout: of the adapter. arguments: what differs from the defaults of its own trainer.
    """

    trainer: Literal["ours", "script", "trl"]
    about: str
    dropout: float = 0.05
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    micro_rows: int = 4
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def packs(self) -> bool:
        """Whether it decides itself which rows share a step, so that its curve cannot be held against ours."""
        return bool(self.arguments.get("packing"))


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement, made in a process of its own.

    rows: trained on once. row_tokens: the length of every row; None draws it from SHORTEST_ROW..LONGEST_ROW.
    """

    kind: Kind
    size: str = ""
    contender: str = ""
    round: int = 0
    rows: int = 0
    rows_per_step: int = 0
    row_tokens: int | None = None


SIZES: Mapping[str, Size] = {
    "llama-135m": Size(  # SmolLM-135M
        "llama",
        {
            **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
            **{"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048},
            "tie_word_embeddings": True,
        },
    ),
    "gpt2-124m": Size(
        "gpt2",
        {
            **{"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
            # GPT-2's own dropout is off: with it no two runs have the same losses.
            **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        },
    ),
    "qwen2-0.5b": Size(
        "qwen2",
        {
            **{"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24},
            **{"num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096},
            "tie_word_embeddings": True,
        },
        device="cuda",
        rows_per_step=64,
    ),
    "qwen2-1.5b": Size(
        "qwen2",
        {
            **{"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
            **{"num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 4096},
            "tie_word_embeddings": True,
        },
        device="cuda",
        rows_per_step=64,
    ),
    QUICK_SIZE: Size(
        "llama",
        {
            **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
            "tie_word_embeddings": True,
        },
        rows_per_step=4,
    ),
}

# Plain ones first. Every one gets the same rows, labels, model, adapter, optimizer and rate.
CONTENDERS: Mapping[str, Contender] = {
    "ours": Contender("ours", "Tunesmith with its defaults, LoRA dropout 0.05"),
    "ours-no-dropout": Contender(
        "ours", "Tunesmith with its defaults, no dropout, as the best settings of TRL", dropout=0.0
    ),
    "script": Contender(
        "script",
        f"transformers Trainer + PEFT, rows padded to {SCRIPT_WIDTH}, 4 rows a pass, dropout 0.05, float32 "
        "(fp16 on CUDA)",
        dtype="float32",
    ),
    "trl-default": Contender(
        "trl",
        "TRL SFTTrainer with its defaults: bf16 autocast over float32 weights, gradient checkpointing, 8 rows a pass; "
        "dropout 0.05, the default of its command line",
        dtype="float32",
        micro_rows=8,
    ),
    "trl-best": Contender(
        "trl",
        "TRL SFTTrainer: bf16 weights, rows grouped by length, no gradient checkpointing, no dropout, 4 rows a pass",
        dropout=0.0,
        dtype="bfloat16",
        arguments={"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"},
    ),
    "trl-padding-free": Contender(
        "trl",
        "as trl-best, rows concatenated instead of padded, FlashAttention 2 where installed",
        dropout=0.0,
        dtype="bfloat16",
        arguments={"gradient_checkpointing": False, "padding_free": True, "max_length": None},
    ),
    "trl-packing": Contender(
        "trl",
        "as trl-best, rows packed into blocks of 1024 tokens; on CUDA 4096, with FlashAttention 2 and Liger",
        dropout=0.0,
        dtype="bfloat16",
        micro_rows=1,
        arguments={"gradient_checkpointing": False, "packing": True},
    ),
}
