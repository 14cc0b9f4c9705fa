"""Other people's names for our settings: one table that YAML, command line and Python accept.

Sources: Hugging Face TrainingArguments, PEFT LoraConfig, the FinetuningConfig, Config class and flags of the guides
this project unites, and the keys of LLaMA-Factory, Axolotl and mlx-lm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NOTHING = "auto"  # what no to one value of a setting leaves it at


def _truth(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in {"false", "no", "off", "0", ""}
    return bool(value)


def _lora_or_full(value: object) -> str:
    return "lora" if _truth(value) else "full"


def _if_yes(name: str) -> Callable[[object], str]:
    return lambda value: name if _truth(value) else NOTHING


def _plain_dtype(value: object) -> object:
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _bits(value: object) -> object:
    return {"4": "nf4", "8": "int8", "none": "none"}.get(str(value).lower(), value)


ALIASES: Mapping[str, str | tuple[str, Callable[[object], Any]]] = {
    # model
    "model": "model.path",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "model_path": "model.path",
    "torch_dtype": "model.dtype",
    "dtype": "model.dtype",
    "device": "model.device",
    "fp16": ("model.dtype", _if_yes("float16")),
    "bf16": ("model.dtype", _if_yes("bfloat16")),
    "bnb_4bit_compute_dtype": ("model.dtype", _plain_dtype),
    "load_in_4bit": ("model.quantize", _if_yes("nf4")),
    "load_in_8bit": ("model.quantize", _if_yes("int8")),
    "quantization_bit": ("model.quantize", _bits),
    "quantize": "model.quantize",
    # data
    "data": "data.path",
    "datasets": "data.sets",
    "train_file": "data.path",
    "train_path": "data.path",
    "dataset": "data.path",
    "dataset_path": "data.path",
    "validation_file": "data.validation_path",
    "valid_file": "data.validation_path",
    "eval_file": "data.validation_path",
    "test_file": "data.test_path",
    "sheet": "data.sheet",
    "sheet_name": "data.sheet",
    "max_length": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "sequence_length": "data.max_length",
    "cutoff_len": "data.max_length",
    "block_size": "data.max_length",
    "sequence_len": "data.max_length",
    "max_samples": "data.max_rows",
    "val_size": "data.split.validation",
    "val_set_size": "data.split.validation",
    # prompt
    "prompt": "prompt.template",
    "template": "prompt.template",
    "prompt_template": "prompt.template",
    "system_prompt": "prompt.system",
    # method
    "method": "method.name",
    "finetuning_type": "method.name",
    "fine_tune_type": "method.name",
    "adapter": "method.name",
    "use_lora": ("method.name", _lora_or_full),
    "lora_r": "method.r",
    "lora_rank": "method.r",
    "rank": "method.r",
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "target_modules": "method.target_modules",
    "lora_target_modules": "method.target_modules",
    "lora_target": "method.target_modules",
    "modules_to_save": "method.modules_to_save",
    "num_virtual_tokens": "method.num_virtual_tokens",
    "pre_seq_len": "method.num_virtual_tokens",
    "prefix_length": "method.num_virtual_tokens",
    "init_text": "method.init_text",
    "prompt_tuning_init_text": "method.init_text",
    "init_kv_cache_prefix": "method.init_text",
    "encoder_hidden_size": "method.encoder_hidden_size",
    # train
    "epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "iters": "train.max_steps",
    "training_steps": "train.max_steps",
    "batch_size": "train.batch_size",
    "per_device_train_batch_size": "train.batch_size",
    "train_batch_size": "train.batch_size",
    "micro_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "grad_accumulation_steps": "train.gradient_accumulation_steps",
    "learning_rate": "train.learning_rate",
    "lr": "train.learning_rate",
    "loraplus_lr_ratio": ("train.learning_rates.lora_B", lambda ratio: f"{ratio}x"),
    "loraplus_lr_embedding": "train.learning_rates.embeddings",
    "embedding_learning_rate": "train.learning_rates.embeddings",
    "lr_scheduler_type": "train.schedule",
    "lr_scheduler": "train.schedule",
    "warmup_steps": "train.warmup_steps",
    "warmup_ratio": "train.warmup_ratio",
    "weight_decay": "train.weight_decay",
    "adam_beta1": "train.beta1",
    "adam_beta2": "train.beta2",
    "max_grad_norm": "train.max_grad_norm",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "grad_checkpoint": "train.gradient_checkpointing",
    "eval_steps": "train.eval_steps",
    "eval_interval": "train.eval_steps",
    "steps_per_eval": "train.eval_steps",
    "save_steps": "train.save_steps",
    "save_every": "train.save_steps",
    "save_total_limit": "train.save_total_limit",
    "early_stopping_patience": "train.early_stopping_patience",
    "load_best_model_at_end": "train.keep_best",
    # continual
    "continue": "continual.parent",
    "continue_from": "continual.parent",
    "replay_ratio": "continual.replay_share",
    "replay_buffer_size": "continual.buffer_rows",
    "ewc_lambda": "continual.ewc_lambda",
    # eval and generate
    "eval_batch_size": "eval.batch_size",
    "suites": "eval.suites",
    "per_device_eval_batch_size": "eval.batch_size",
    "max_new_tokens": "generate.max_new_tokens",
    "temperature": "generate.temperature",
    "top_p": "generate.top_p",
    "top_k": "generate.top_k",
    "repetition_penalty": "generate.repetition_penalty",
    # export: llama.cpp's converter, unsloth, and scripts that end in Ollama
    "quantization": "export.quantize",
    "quantization_type": "export.quantize",
    "quantization_method": "export.quantize",
    "gguf_quantization": "export.quantize",
    "outtype": "export.quantize",
    "imatrix": "export.imatrix",
    "ollama_model_name": "export.create",
    "ollama_model": "export.create",
    "ollama_name": "export.create",
    "ollama_host": "export.host",
}

# Those that say yes or no to a value of another setting, and need none on a command line.
YES_OR_NO = frozenset({"fp16", "bf16", "load_in_4bit", "load_in_8bit", "use_lora"})


# Those that nothing here corresponds to: what becomes of the wish behind them.
NO_COUNTERPART: Mapping[str, str] = {
    **dict.fromkeys(
        ("stage", "do_train", "do_eval", "do_predict"), "the verb says what is done: train, eval, pretrain"
    ),
    **dict.fromkeys(("logging_steps", "logging_dir", "report_to"), "every step is a line of the run's metrics.jsonl"),
    "overwrite_output_dir": "a run is never overwritten: give another name, or go on with --resume",
    "resume_from_checkpoint": "go on with --resume RUN",
    **dict.fromkeys(
        ("packing", "sample_packing", "padding_free", "flash_attention", "flash_attn", "group_by_length"),
        "rows are laid end to end without padding wherever that is exact",
    ),
    **dict.fromkeys(
        ("deepspeed", "fsdp", "ddp_timeout"), "start with torchrun, and set train.sharding to full for FSDP2"
    ),
    **dict.fromkeys(("train_on_inputs", "train_on_prompt"), "set prompt.train_on to answers or all"),
}


def canonical(name: str, value: object) -> tuple[str, object]:
    """Our dotted name and value for anybody's name and value. Unknown names pass through unchanged.

    >>> canonical("num_train_epochs", 3)
    ('train.epochs', 3)
    >>> canonical("use-lora", False)
    ('method.name', 'full')
    """
    name = name.replace("-", "_")
    target = ALIASES.get(name, name)
    if isinstance(target, tuple):
        target, convert = target
        return target, convert(value)
    if target == "data.path" and isinstance(value, list):  # train_file: [a.csv, b.csv]
        target = "data.sets"
    return target, value
