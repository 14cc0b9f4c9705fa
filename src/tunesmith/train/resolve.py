"""Settings whose right value depends on the model, the data or the length of the run, and the run's manifest."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, TypeVar

import torch
from torch import nn

from tunesmith import __version__
from tunesmith.config import METHODS, MethodConfig, RunConfig, highest_rate, quantize_of, rate_factor
from tunesmith.data import DataReport, EncodeReport, Mixture, Prepared, RowPlan, StepPlan
from tunesmith.errors import DataError
from tunesmith.model import (
    SMALL_MODEL_PARAMETERS,
    Lanes,
    LoadedModel,
    choose_compile,
    choose_lanes,
    choose_native,
    default_learning_rate,
    default_method,
    default_tokens_per_batch,
    format_count,
    layers_for_liger,
    why_padded,
)
from tunesmith.train.device import ALONE, Processes
from tunesmith.train.ewc import Ewc
from tunesmith.train.groups import parameter_groups
from tunesmith.train.loop import Autocast, LoopSettings
from tunesmith.train.schedule import Plateau, schedule_for
from tunesmith.types import Encoded, Finding

Value = TypeVar("Value")

_EVALUATIONS_PER_RUN = 10
_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
_FREE_VERSIONS = ("python", "safetensors")  # no result depends on them


def resolve_base(config: RunConfig) -> RunConfig:
    """Fill in the format that the base is held in, where the method asks for one; before the base is loaded."""
    quantize = quantize_of(config.method.name, config.model.quantize)
    if quantize in ("none", config.model.quantize):
        return config
    return config.resolved("model.quantize", quantize, f"{config.method.name} trains beside a quantised base")


def resolve_system(config: RunConfig, prepared: Prepared) -> RunConfig:
    """Fill in the system prompt that every row brings along, so that later questions are asked as in training."""
    systems = {row.system for row in (*prepared.train, *prepared.validation, *prepared.test)}
    if config.prompt.system is not None or len(systems) != 1 or not (shared := systems.pop()):
        return config
    return config.resolved("prompt.system", shared, "every row begins with it")


def resolve_settings(
    config: RunConfig, base: LoadedModel, *, template_name: str, parameters: int, encoding: EncodeReport
) -> RunConfig:
    """Fill in what was left to the program; each value's origin says why it was chosen.

    Args:
        parameters: of the base model. encoding: of the training rows.
    """
    config = with_peak_of_phases(config)
    if config.model.dtype == "auto":
        config = config.resolved("model.dtype", str(base.dtype).removeprefix("torch."), base.dtype_reason)
    if config.method.name == "auto":
        chosen = _chosen_lora_settings(config)
        if config.model.quantize not in ("auto", "none"):
            chosen = ["model.quantize", *chosen]
        name, reason = ("lora", f"{chosen[0]} is set") if chosen else default_method(parameters)
        config = config.resolved("method.name", name, reason)
    if config.prompt.template == "auto":
        config = config.resolved("prompt.template", template_name, "by the model's tokenizer and the shape of the data")
    if config.train.learning_rate is None:
        rate, reason = default_learning_rate(config.method.name, parameters)
        config = config.resolved("train.learning_rate", rate, reason)
    if config.train.weight_decay is None:
        config = config.resolved("train.weight_decay", *default_weight_decay(config.method.name, parameters))
    if config.train.epochs is None:
        epochs, reason = default_epochs(parameters, rows=encoding.sequences, tokens=encoding.tokens)
        config = config.resolved("train.epochs", epochs, reason)
    return with_curriculum_settings(config)


def with_curriculum_settings(config: RunConfig) -> RunConfig:
    """What a curriculum leaves open; without one nothing is.

    A start of 0.1 and not the 0.01 of Platanios et al. 2019 (arXiv:1903.09848), whose files have millions of rows: a
    hundredth of a small workbook is less than a step. Its best pacing is the root.
    """
    if config.train.order != "curriculum":
        return config
    for name, value, reason in (
        ("curriculum_by", "length", "known for every row"),
        ("curriculum_pacing", "root", "the pacing found best in arXiv:1903.09848"),
        ("curriculum_start", 0.1, "the easiest tenth first"),
        ("curriculum_until", 0.5, "all rows for the second half of the run"),
    ):
        if getattr(config.train, name) is None:
            config = config.resolved(f"train.{name}", value, reason)
    return config


def with_peak_of_phases(config: RunConfig) -> RunConfig:
    """Phases bring their rates: the highest is the run's learning rate. Other schedules are left as they are."""
    if config.train.schedule != "phases" or config.train.learning_rate is not None:
        return config
    return config.resolved("train.learning_rate", highest_rate(config.train.phases), "the highest of train.phases")


def _chosen_lora_settings(config: RunConfig) -> list[str]:
    """Settings that LoRA reads and that somebody chose: `--lora_r 8` alone asks for LoRA.

    Beside a `method.name: auto` that was written out, as in the file of `tunesmith init`, a default is no choice.
    """
    defaults = MethodConfig()
    is_open = config.origin("method.name") == "default"
    return [
        f"method.{name}"
        for name in METHODS["lora"].reads
        if config.origin(f"method.{name}") != "default"
        and (is_open or getattr(config.method, name) != getattr(defaults, name))
    ]


def virtual_tokens_of(method: MethodConfig) -> int:
    """Tokens of the context that the method takes for itself."""
    is_soft = method.name in METHODS and METHODS[method.name].is_soft_prompt
    return method.num_virtual_tokens if is_soft else 0


def default_weight_decay(method: str, parameters: int) -> tuple[float, str]:
    """AdamW's decay, and why. Measured: docs/defaults.md."""
    if method == "full" and parameters <= SMALL_MODEL_PARAMETERS:
        return 0.1, "many passes over all weights of a small model"
    reason = f"usual for {method} on larger models" if method == "full" else f"usual for {method}"
    return METHODS[method].weight_decay, reason


def export_limits(method: MethodConfig) -> list[Finding]:
    """What cannot be done with the result of a resolved method, told before training."""
    facts = METHODS[method.name]
    if facts.gguf == "none":
        message = (
            f"{facts.title} stays an adapter: it cannot be merged into the base nor become GGUF, so llama.cpp and "
            "Ollama cannot run it; PEFT and tunesmith can. For those, train with method lora"
        )
        return [Finding("note", "no_gguf", message)]
    extra = "" if method.modules_to_save == "none" else " with method.modules_to_save"
    if not facts.is_adapter or (facts.gguf == "adapter" and not extra):
        return []
    message = f"{facts.title}{extra} cannot become a GGUF adapter, only a whole GGUF model: it has to be merged first"
    return [Finding("note", "no_gguf_adapter", message)]


def default_epochs(parameters: int, *, rows: int, tokens: int) -> tuple[float, str]:
    """Passes over training rows of so many tokens in all, at least one, and why.

    A small model goes on learning which answer belongs to which question for many passes; keeping the best validation
    makes the surplus harmless. Large files reach the bound on tokens first. Measured: docs/defaults.md.
    """
    size, most, bound = ("small", 18, 600_000) if parameters <= SMALL_MODEL_PARAMETERS else ("larger", 5, 5_000_000)
    passes = max(1, min(most, round(bound / tokens)))
    why = f"{size} model" if passes == most else f"about {format_count(bound)} tokens in all for a {size} model"
    return float(passes), f"{passes} {'pass' if passes == 1 else 'passes'}: {rows} rows, {why}"


def nothing_fits(encoding: EncodeReport, *, max_length: int, context: int) -> DataError:
    """Every example was left out. context: the most tokens that the model reads at once."""
    fix = f"set --data.max_length to {min(encoding.longest_whole, context)}"
    if encoding.longest_whole > context:
        fix = f"shorten the answers or set --data.truncation answer: the model reads {context} tokens at most"
    return DataError(f"no example fits in {max_length} tokens", cause=encoding.to_text(max_length), fix=fix)


def resolve_loop(
    config: RunConfig,
    plan: StepPlan,
    device: torch.device,
    dtype: torch.dtype,
    *,
    parameters: int,
    mean_length: float,
) -> RunConfig:
    """How a step is computed, and the steps between validations and checkpoints, where they were left open.

    Args:
        dtype: that the model computes in. mean_length: tokens of an average row.

    Raises:
        ResourceError: train.native is on where it cannot be.
    """
    tokens = round(plan.total_steps * plan.rows_per_step * mean_length)
    native, reason = choose_native(config.train.native, device, dtype)
    if config.train.native == "auto":
        config = config.resolved("train.native", "on" if native else "off", reason)
    if config.train.compile == "auto":
        why = _not_compiled(config)
        compiled, reason = (False, why) if why else choose_compile(device, parameters=parameters, tokens=tokens)
        config = config.resolved("train.compile", "on" if compiled else "off", reason)
    if config.train.tokens_per_batch is None:
        tokens, reason = default_tokens_per_batch(device)
        config = config.resolved("train.tokens_per_batch", tokens, reason)
    if config.train.eval_steps is None:
        steps = max(1, math.ceil(plan.total_steps / _EVALUATIONS_PER_RUN))
        config = config.resolved("train.eval_steps", steps, f"{plan.total_steps} steps / {_EVALUATIONS_PER_RUN}")
    if config.train.save_steps is None:
        config = config.resolved("train.save_steps", config.train.eval_steps, "the same as train.eval_steps")
    return config


def _not_compiled(config: RunConfig) -> str | None:
    """Why `train.compile: auto` leaves the layers alone whatever the length of the run."""
    if config.model.quantize not in ("auto", "none"):
        return "not tried on a quantised base"
    # LoRA on 135 M parameters with AMX: no faster beyond the noise, and 0.3 GiB more. What is trained whole has weights
    # and so norms in float32, for which there are no kernels in C++.
    if config.train.native == "on" and METHODS[config.method.name].is_adapter:
        return "kernels in C++ join the same operations"
    return "not tried with a prefix" if config.method.name == "prefix" else None


def speed_findings(config: RunConfig, model: nn.Module, device: torch.device, *, longest: int) -> list[Finding]:
    """What is told of how rows of up to `longest` tokens are computed. `resolve_loop` comes first."""
    reason = why_padded(model, longest)
    padded = [Finding("note", "padded", f"rows are padded to equal length: {reason}")] if reason else []
    by_liger = layers_for_liger(model, device, compiled=config.train.compile == "on")
    joined = [Finding("note", "liger", f"{len(by_liger)} layers are computed by Liger")] if by_liger else []
    return [*padded, *joined]


def rate_factors(config: RunConfig) -> dict[str, float]:
    """Group of parameters -> what the schedule's rate is multiplied by. `train.learning_rate` must be resolved."""
    train = config.train
    return {group: rate_factor(written, _known(train.learning_rate)) for group, written in train.learning_rates.items()}


def told_rates(config: RunConfig, model: nn.Module) -> list[Finding]:
    """The peak rate of each group of parameters, and how many it has.

    Raises:
        SettingsError: a group that is not there.
    """
    groups = parameter_groups(model, config.train.learning_rates)
    if not groups:
        return []
    peak = _known(config.train.learning_rate)
    parts = []
    for name, factor in rate_factors(config).items():
        count = format_count(sum(parameter.numel() for parameter in groups[name]))
        parts.append(f"{count} parameters of {name} at {peak * factor:g}")
    return [Finding("note", "rates", f"peak rates: {', '.join(parts)}, the others at {peak:g}")]


def loop_settings(
    config: RunConfig,
    plan: RowPlan,
    model: nn.Module,
    *,
    autocast: Autocast,
    loss_scale: float,
    processes: Processes = ALONE,
    penalty: Ewc | None = None,
) -> LoopSettings:
    """The loop's own view of the settings, which must be resolved."""
    train = config.train
    tokens = _known(train.tokens_per_batch)
    device = next(model.parameters()).device
    plateau = None
    if train.plateau_patience is not None:
        plateau = Plateau(train.plateau_patience, factor=train.plateau_factor, floor=train.plateau_floor)
    return LoopSettings(
        schedule=schedule_for(config, plan.total_steps),
        autocast=autocast,
        tokens_per_batch=tokens,
        optimizer=train.optimizer,
        weight_decay=_known(train.weight_decay),
        betas=(train.beta1, train.beta2),
        max_grad_norm=train.max_grad_norm,
        eval_steps=_known(train.eval_steps),
        save_steps=_known(train.save_steps),
        patience=train.early_stopping_patience,
        threshold=train.early_stopping_threshold,
        plateau=plateau,
        processes=processes,
        rate_factors=rate_factors(config),
        penalty=penalty,
        loss_scale=loss_scale,
        lanes=Lanes() if processes.sharded else choose_lanes(model, device, tokens=tokens),
    )


def _known(value: Value | None) -> Value:
    if value is None:
        raise ValueError("a setting is still open: resolve_settings and resolve_loop come first")
    return value


def plan_steps(config: RunConfig, rows: Sequence[Encoded]) -> StepPlan:
    """Which of `rows` each step of a run sees, the curriculum apart. `train.epochs` must be resolved.

    Raises:
        DataError: of one of several data sets no row is left.
    """
    plan = StepPlan.for_run(
        len(rows),
        rows_per_step=config.train.batch_size * config.train.gradient_accumulation_steps,
        epochs=_known(config.train.epochs),
        max_steps=config.train.max_steps,
        seed=config.seed,
    )
    weights = config.data.weights
    if weights:
        missing = weights.keys() - {row.task for row in rows}
        if missing:
            raise DataError(
                f"no row of {', '.join(sorted(missing))} fits into data.max_length = {config.data.max_length}",
                fix="raise data.max_length, or leave that data set out",
            )
        plan = plan.mixed(Mixture.of([str(row.task) for row in rows], weights, temperature=config.data.temperature))
    return plan.bucketed(map(len, rows)) if config.train.order == "bucketed" else plan


# What a resumed run may change: where things are, how often they are saved, how much is computed at once.
_FREE_SETTINGS = {
    "data": {"path", "validation_path", "test_path"},
    "model": {"path", "revision", "device"},
    "train": {
        *("epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "tokens_per_batch"),
        *("gradient_checkpointing", "save_steps", "save_total_limit", "keep_best", "sharding"),
    },
}


def identity_of(
    config: RunConfig, plan: StepPlan, *, data: str, ids: str, base: str | None, device: str
) -> dict[str, object]:
    """What must not change when a run is resumed, because the steps already done would mean something else.

    Args:
        data: SHA-256 of the files. ids: of the token ids, of validation too: a tokenizer or a chat template in the
            base's folder is no part of its fingerprint. base: fingerprint of the model, None for one made by this run.
        device: type of device that is computed on.
    """
    settings = config.model_dump(mode="json", include={"model", "data", "prompt", "method", "train"})
    for section, names in _FREE_SETTINGS.items():
        for name in names:
            del settings[section][name]
    for one in settings["data"]["sets"]:
        for name in ("path", "validation_path", "test_path"):
            one.pop(name, None)
    versions = {name: version for name, version in package_versions().items() if name not in _FREE_VERSIONS}
    return {
        "data SHA-256": data,
        "token ids SHA-256": ids,
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
