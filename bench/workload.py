"""The same model and the same rows for every contender, each a pure function of its seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.job import LONGEST_ROW, PROMPT_SHARE, SEED, SHORTEST_ROW, SIZES, Job
from tunesmith.data import StepPlan
from tunesmith.types import Encoded

PAD_ID, END_ID = 0, 1
_FIRST_ID = 2  # below are padding and end; a row never holds the padding id, so peers can count real tokens
# Rows use this many distinct ids with frequencies 1/rank, as words do: there is something to learn, so that curves that
# agree say more than two flat lines would.
_DISTINCT_IDS = 500


def make_rows(count: int, *, vocab_size: int, row_tokens: int | None) -> list[Encoded]:
    """`count` rows: a prompt without loss, then a supervised answer. Lengths in tokens as `Job.row_tokens` says."""
    random = np.random.default_rng([SEED, row_tokens or 0])
    distinct = min(_DISTINCT_IDS, vocab_size - _FIRST_ID)
    ids = _FIRST_ID + random.permutation(vocab_size - _FIRST_ID)[:distinct]
    weights = 1.0 / np.arange(1, distinct + 1)
    rows = []
    for index in range(count):
        length = row_tokens or int(random.integers(SHORTEST_ROW, LONGEST_ROW + 1))
        tokens = ids[random.choice(distinct, size=length, p=weights / weights.sum())]
        prompt = max(1, round(length * random.uniform(*PROMPT_SHARE)))
        rows.append(Encoded(tokens.astype(np.int64), np.arange(length) >= prompt, row=index))
    return rows


def rows_of(job: Job) -> list[Encoded]:
    """The rows of a measurement, in no order."""
    return make_rows(job.rows, vocab_size=SIZES[job.size].shape["vocab_size"], row_tokens=job.row_tokens)


def in_step_order(rows: Sequence[Encoded], job: Job) -> list[Encoded]:
    """The rows as `fit` takes them, step after step, for trainers that read a data set from its start to its end."""
    plan = StepPlan.for_run(len(rows), rows_per_step=job.rows_per_step, epochs=1, max_steps=None, seed=SEED)
    return [rows[index] for step in range(plan.total_steps) for index in plan.rows_of(step)]


def save_model(size: str, folder: Path) -> dict[str, int]:
    """Write random float32 weights and a stand-in tokenizer to `folder`; return what floating-point counts need."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    shape = SIZES[size]
    config = AutoConfig.for_model(
        shape.architecture, **shape.shape, bos_token_id=END_ID, eos_token_id=END_ID, pad_token_id=PAD_ID
    )
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    # Trainers ask for a tokenizer although the rows are token ids already.
    vocabulary = {"<pad>": PAD_ID, "<end>": END_ID, "<unknown>": 2}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>")),
        **{"pad_token": "<pad>", "eos_token": "<end>", "bos_token": "<end>", "unk_token": "<unknown>"},
    ).save_pretrained(folder)
    return _facts(model)


def seed_adapter(model: Any) -> int:
    """Give LoRA's A matrices the same numbers in every contender (B starts at zero). Returns the trainable count."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    trainable = sorted(
        ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad), key=lambda item: item[0]
    )
    for name, weight in trainable:
        if "lora_A" in name:
            noise = (
                torch.randn(weight.shape, generator=generator) / (3 * weight.shape[1]) ** 0.5
            )  # as wide as those of PEFT
            weight.data.copy_(noise)
    return sum(weight.numel() for _, weight in trainable)


def _facts(model: Any) -> dict[str, int]:
    """Parameter counts: all, linear layers of the decoder, output head; attention width is heads * head size."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    config = model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "linear_parameters": sum(m.weight.numel() for m in linear),
        "head_parameters": head.weight.numel(),
        "layers": config.num_hidden_layers,
        "attention_width": head_size * config.num_attention_heads,
    }
