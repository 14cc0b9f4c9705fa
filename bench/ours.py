"""Tunesmith as a contender: what `tunesmith.train.recipe.train` does from the model to the loop, and nothing else."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from bench.job import ALPHA, CONTENDERS, LEARNING_RATE, RANK, SEED, SIZES, Job
from bench.watch import Watch
from bench.workload import rows_of, seed_adapter
from tunesmith.config import RunConfig, load_config
from tunesmith.data import StepPlan
from tunesmith.model import LoadedModel, accelerated, apply_method, autocast, count_parameters, load_base, loss_scale
from tunesmith.train import Event, fit, resolve
from tunesmith.train.allocator import keep_freed_memory
from tunesmith.train.checkpoint import Checkpoints
from tunesmith.train.loop import LoopSettings
from tunesmith.types import Encoded


@dataclass(frozen=True, slots=True)
class Ready:
    """What the defaults make of a job before its first step. trainable: numbers that train."""

    base: LoadedModel
    model: nn.Module
    rows: list[Encoded]
    plan: StepPlan
    settings: LoopSettings
    fast: AbstractContextManager[None]
    trainable: int


def train_ours(job: Job, folder: Path, watch: Watch) -> None:
    """Train on the job's rows once. Whatever the engine does by default, it does here."""
    ready = make_ready(job, folder)
    watch.trainable = ready.trainable
    watch.compute = str(ready.base.dtype).removeprefix("torch.")
    watch.notes.append(ready.base.dtype_reason)

    def observe(event: Event) -> None:
        if event.kind == "start":
            watch.start()
        elif event.kind == "train":
            watch.step(int(event.values["tokens"] or 0))
            watch.losses.append(float(event.values["loss"] or 0.0))

    with TemporaryDirectory() as checkpoints, ready.fast:
        fit(
            ready.model,
            ready.rows,
            plan=ready.plan,
            settings=ready.settings,
            checkpoints=Checkpoints(Path(checkpoints), identity={}, keep=1),
            observers=[observe],
        )


def make_ready(job: Job, folder: Path) -> Ready:
    keep_freed_memory()
    rows = rows_of(job)
    config = _config(job, folder, len(rows) // job.rows_per_step)
    base = load_base(config.model.path, dtype=config.model.dtype, device=config.model.device)
    model = apply_method(
        base.model, config.method, dtype=base.dtype, gradient_checkpointing=config.train.gradient_checkpointing
    )
    trainable = seed_adapter(model)
    plan = resolve.plan_steps(config, rows)
    parameters, mean_length = count_parameters(model)[1], sum(map(len, rows)) / len(rows)
    config = resolve.resolve_loop(config, plan, base.device, base.dtype, parameters=parameters, mean_length=mean_length)
    compute = partial(autocast, base.device, base.dtype)
    settings = resolve.loop_settings(config, plan, model, autocast=compute, loss_scale=loss_scale(base.dtype))
    compiled, native = config.train.compile == "on", config.train.native == "on"
    fast = accelerated(model, compiled=compiled, native=native, lanes=settings.lanes)
    return Ready(base, model, rows, plan, settings, fast, trainable)


def _config(job: Job, folder: Path, steps: int) -> RunConfig:
    """The defaults, but for what every contender shares."""
    contender = CONTENDERS[job.contender]
    exact = job.kind == "agreement"
    micro_rows = min(contender.micro_rows, job.rows_per_step // 2)
    return load_config(
        overrides={
            "seed": SEED,
            "model.path": str(folder),
            "model.dtype": "float32" if exact else contender.dtype,
            "model.device": SIZES[job.size].device,
            "method.r": RANK,
            "method.alpha": ALPHA,
            "method.dropout": 0.0 if exact else contender.dropout,
            "method.name": "lora",
            "train.epochs": 1,
            "train.weight_decay": 0.01,
            "train.batch_size": micro_rows,
            "train.gradient_accumulation_steps": job.rows_per_step // micro_rows,
            "train.learning_rate": LEARNING_RATE,
            "train.schedule": "constant",
            "train.warmup_steps": 0,
            "train.eval_steps": steps,
            "train.save_steps": steps,
        }
    )
