"""Settings whose right value depends on the model, the data or the length of the run, and the run's manifest."""

from __future__ import annotations

import math
import sys
from importlib import metadata
from typing import Any

from tunesmith import __version__
from tunesmith.config import RunConfig
from tunesmith.data import DataReport, StepPlan
from tunesmith.model import LoadedModel, default_learning_rate
from tunesmith.train.loop import Autocast, LoopSettings
from tunesmith.train.schedule import Schedule

_EVALUATIONS_PER_RUN = 10
_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
_FREE_VERSIONS = ("python", "safetensors")  # no result depends on them


def resolve_settings(config: RunConfig, base: LoadedModel, *, template_name: str, parameters: int) -> RunConfig:
    """Fill in what was left to the program; each value's origin says why it was chosen."""
    config = config.resolved("model.dtype", str(base.dtype).removeprefix("torch."), base.dtype_reason)
    if config.prompt.template == "auto":
        config = config.resolved("prompt.template", template_name, "by the model's tokenizer and the shape of the data")
    if config.train.learning_rate is None:
        rate, reason = default_learning_rate(config.method.name, parameters)
        config = config.resolved("train.learning_rate", rate, reason)
    return config


def resolve_cadence(config: RunConfig, plan: StepPlan) -> RunConfig:
    """Steps between validations and between checkpoints, when they were left open."""
    if config.train.eval_steps is None:
        steps = max(1, math.ceil(plan.total_steps / _EVALUATIONS_PER_RUN))
        config = config.resolved("train.eval_steps", steps, f"{plan.total_steps} steps / {_EVALUATIONS_PER_RUN}")
    if config.train.save_steps is None:
        config = config.resolved("train.save_steps", config.train.eval_steps, "the same as train.eval_steps")
    return config


def schedule_for(config: RunConfig, plan: StepPlan) -> Schedule:
    """The learning-rate schedule of a run. `train.learning_rate` must be resolved."""
    train = config.train
    if train.learning_rate is None:
        raise ValueError("train.learning_rate is not resolved")
    warmup = train.warmup_steps if train.warmup_steps is not None else round(train.warmup_ratio * plan.total_steps)
    return Schedule(
        train.schedule,
        peak=train.learning_rate,
        total_steps=plan.total_steps,
        warmup_steps=min(warmup, plan.total_steps),
        floor=train.min_lr_ratio,
    )


def loop_settings(config: RunConfig, plan: StepPlan, *, pad_id: int, autocast: Autocast) -> LoopSettings:
    """The loop's own view of the settings. `train.eval_steps` and `save_steps` must be resolved."""
    train = config.train
    if train.eval_steps is None or train.save_steps is None:
        raise ValueError("train.eval_steps and train.save_steps are not resolved")
    return LoopSettings(
        schedule=schedule_for(config, plan),
        autocast=autocast,
        batch_size=train.batch_size,
        pad_id=pad_id,
        weight_decay=train.weight_decay,
        betas=(train.beta1, train.beta2),
        max_grad_norm=train.max_grad_norm,
        eval_steps=train.eval_steps,
        save_steps=train.save_steps,
        patience=train.early_stopping_patience,
        threshold=train.early_stopping_threshold,
    )


def plan_steps(config: RunConfig, rows: int) -> StepPlan:
    """Which rows each step of a run over `rows` sequences sees."""
    return StepPlan.for_run(
        rows,
        rows_per_step=config.train.batch_size * config.train.gradient_accumulation_steps,
        epochs=config.train.epochs,
        max_steps=config.train.max_steps,
        seed=config.seed,
    )


# What a resumed run may change: where things are, how often they are saved, how much is computed at once.
_FREE_SETTINGS = {
    "data": {"path", "validation_path", "test_path"},
    "model": {"path", "revision", "device"},
    "train": {
        *("epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
        *("save_steps", "save_total_limit", "keep_best"),
    },
    "pretrain": {"documents", "qa"},
}


def identity_of(config: RunConfig, plan: StepPlan, *, data: str, base: str | None, device: str) -> dict[str, object]:
    """What must not change when a run is resumed, because the steps already done would mean something else.

    Args:
        data: SHA-256 of the files. base: fingerprint of the model, None for one made by this run.
        device: type of device that is computed on.
    """
    sections = ("model", "data", "prompt", "method", "train", *(("pretrain",) if base is None else ()))
    settings = config.model_dump(mode="json", include=set(sections))
    for section, names in _FREE_SETTINGS.items():
        for name in names & settings.get(section, {}).keys():
            del settings[section][name]
    versions = {name: version for name, version in package_versions().items() if name not in _FREE_VERSIONS}
    return {
        "data SHA-256": data,
        "base model": base,
        "device": device,
        "seed": config.seed,
        "rows": plan.rows,
        "rows_per_step": plan.rows_per_step,
        "total_steps": plan.total_steps,
        **settings,
        "versions": versions,
    }


def manifest_of(config: RunConfig, report: DataReport, base: LoadedModel) -> dict[str, Any]:
    """What the run directory says about itself."""
    return {
        "kind": "finetune",
        "model": {"path": config.model.path, "revision": base.revision},
        "method": config.method.name,
        "data": report.to_json(),
        "seed": config.seed,
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    python = ".".join(map(str, sys.version_info[:3]))
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"tunesmith": __version__, "python": python, **packages}
