"""The other trainers, each as its users run it. Rows come in the order that `fit` takes them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from bench.job import ALPHA, CONTENDERS, LEARNING_RATE, LONGEST_ROW, RANK, SCRIPT_WIDTH, SEED, SIZES, Contender, Job
from bench.watch import Watch
from bench.workload import PAD_ID, in_step_order, rows_of, seed_adapter
from tunesmith.types import Encoded

_IGNORED = -100  # the label of a token without loss, in transformers


def train_script(job: Job, folder: Path, watch: Watch) -> None:
    """The notebook script: the whole data set padded to one width, the plain Trainer, PEFT."""
    half = SIZES[job.size].device == "cuda" and job.kind != "agreement"
    watch.compute = "bfloat16" if half else "float32"  # on CUDA float16 products are as fast as bfloat16
    with TemporaryDirectory() as output:
        trainer = Trainer(
            model=_adapted_model(job, folder, watch),
            args=TrainingArguments(output, fp16=half, train_sampling_strategy="sequential", **_shared(job)),
            train_dataset=[_padded(row) for row in in_step_order(rows_of(job), job)],
            data_collator=default_data_collator,
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[_Clock(watch)],
        )
        trainer.train()


def train_trl(job: Job, folder: Path, watch: Watch) -> None:
    """TRL's SFTTrainer on token ids with labels, which it takes as they are."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = _trl_arguments(job, CONTENDERS[job.contender], watch)
    watch.compute = "float32" if job.kind == "agreement" else "bfloat16"
    rows = [{"input_ids": row.input_ids.tolist(), "labels": _labels(row)} for row in in_step_order(rows_of(job), job)]
    with TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=_adapted_model(job, folder, watch),
            args=SFTConfig(output, **{**_shared(job), **arguments}),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[_Clock(watch)],
        )
        trainer.train()


def _trl_arguments(job: Job, contender: Contender, watch: Watch) -> dict[str, Any]:
    arguments = {"train_sampling_strategy": "sequential", **contender.arguments}
    cuda = SIZES[job.size].device == "cuda"
    if job.kind == "agreement":
        arguments |= {"bf16": False, "train_sampling_strategy": "sequential"}
    if contender.packs:
        block = 4096 if cuda else 1024
        mean = job.row_tokens or LONGEST_ROW // 2
        arguments["max_length"] = block
        arguments["gradient_accumulation_steps"] = max(1, round(job.rows_per_step * mean / block))
        if cuda and find_spec("liger_kernel"):
            arguments["use_liger_kernel"] = True
            watch.notes.append("Liger kernels")
    return arguments


def _shared(job: Job) -> dict[str, Any]:
    """What every contender shares: optimizer, rate, rows per step, one pass."""
    micro_rows = min(CONTENDERS[job.contender].micro_rows, job.rows_per_step // 2)
    return {
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": job.rows_per_step // micro_rows,
        "num_train_epochs": 1,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "seed": SEED,
        "use_cpu": SIZES[job.size].device == "cpu",
        "logging_steps": 1,
        "include_num_input_tokens_seen": "non_padding",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _adapted_model(job: Job, folder: Path, watch: Watch) -> Any:
    """The model in the contender's format with the adapter that all share."""
    contender = CONTENDERS[job.contender]
    exact = job.kind == "agreement"
    dtype = "float32" if exact else contender.dtype
    settings: dict[str, Any] = {}
    if contender.arguments.get("padding_free") or contender.packs:
        flash = SIZES[job.size].device == "cuda" and find_spec("flash_attn") is not None and not exact
        settings["attn_implementation"] = "flash_attention_2" if flash else "sdpa"
        watch.notes.append(f"attention: {settings['attn_implementation']}")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **settings)
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0 if exact else contender.dropout,
        target_modules="all-linear",
        fan_in_fan_out=SIZES[job.size].architecture == "gpt2",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora)
    watch.trainable = seed_adapter(model)
    return model


def _padded(row: Encoded) -> dict[str, list[int]]:
    rest = SCRIPT_WIDTH - len(row)
    return {
        "input_ids": row.input_ids.tolist() + [PAD_ID] * rest,
        "attention_mask": [1] * len(row) + [0] * rest,
        "labels": _labels(row) + [_IGNORED] * rest,
    }


def _labels(row: Encoded) -> list[int]:
    labels: list[int] = np.where(row.supervised, row.input_ids, _IGNORED).tolist()
    return labels


class _Clock(TrainerCallback):
    """Reads the clock, the token counter and the loss of every step."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.step(state.num_input_tokens_seen - self.tokens)
        self.tokens = state.num_input_tokens_seen

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.watch.losses.append(float(logs["loss"]))
