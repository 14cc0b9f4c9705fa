"""The main path: read, prepare, encode, load, apply, fit, save. It reads top to bottom; the parts are deep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.config import RunConfig, dump_config, quantize_of
from tunesmith.data import EncodeReport, Prepared, ReplayPlan, StepPlan, encode, ids_sha256, prepare
from tunesmith.model import (
    LoadedModel,
    apply_method,
    autocast,
    check_method,
    context_tokens,
    count_parameters,
    load_base,
    save_adapter,
    slow_format,
)
from tunesmith.prompts import Template, check_template, prepare_tokenizer
from tunesmith.runs import Run, atomic_folder, plot_run
from tunesmith.train import resolve
from tunesmith.train.budget import MicroBatches, memory_need
from tunesmith.train.checkpoint import TrainingState
from tunesmith.train.continual import Past, keep_fisher, keep_rows
from tunesmith.train.device import Processes
from tunesmith.train.difficulty import curriculum_of, row_losses, stored_losses
from tunesmith.train.observe import Observer
from tunesmith.train.outcome import MeanNll, Plan, TrainResult, stopped
from tunesmith.train.signals import PutOff
from tunesmith.train.tasks import task_plans
from tunesmith.train.trainer import Start, Trainer, started
from tunesmith.types import Encoded, Finding


def train(
    config: RunConfig,
    *,
    destination: Run | Path,
    mean_nll: MeanNll,
    announce: Callable[[Plan], None] = lambda plan: None,
    observers: Sequence[Observer] = (),
    allow_drift: bool = False,
) -> TrainResult:
    """Fine-tune as configured and leave a complete run directory. A finished run is returned as it is.

    Under torchrun every process calls this and all train one model; the first one announces, observes and writes.

    Args:
        config: resolved settings.
        destination: an existing run to resume, or the folder of a new one.
        mean_nll: the validation measurement.
        announce: called once with the plan, before the first step.
        observers: called with every event of the loop.
        allow_drift: resume although data, settings or package versions are not those the run was started with.

    Raises:
        DataError: nothing trainable in the data. TrainingError: NaN that would not go away.
        ResourceError: the model, the device, the memory or the disk space is not there.
        SettingsError: a setting does not fit. Stopped: a signal asked for it; the run can be resumed.
    """
    if isinstance(destination, Run) and destination.manifest["status"] == "finished":
        return TrainResult.of_finished(destination)
    with started(config, destination, mean_nll=mean_nll, observers=observers, allow_drift=allow_drift) as start:
        return _train(config, start, announce)


def _train(config: RunConfig, start: Start, announce: Callable[[Plan], None]) -> TrainResult:
    processes, run = start.processes, start.run
    with processes.together():
        ready = _ready(config, processes)
    config, ids, base, model = ready.config, ready.ids, ready.base, ready.model

    # what may not change when the run is resumed; nothing is written before all of this has worked
    sums = {"data": ready.prepared.report.sha256, "ids": ids_sha256([*ids.rows, *ids.held_out])}
    identity = resolve.identity_of(config, ready.plan, **sums, base=base.revision, device=base.device.type)
    penalty = None
    if ready.past:
        compute = partial(autocast, base.device, base.dtype)
        penalty = ready.past.penalty(model, ids.old, config, run=run, autocast=compute, processes=processes)
        identity |= ready.past.identity(config, penalty)
    trainer = Trainer(
        start, config, model, ready.plan, device=base.device, dtype=base.dtype, identity=identity, penalty=penalty
    )
    if not start.is_resumed:
        processes.first(lambda: _create(run, ready))

    def begin() -> None:
        if start.is_resumed:
            run.update_config(dump_config(config))
        keep_fisher(run, penalty)
        announce(_announced(ready, trainer))

    # the loop, the best weights, the pictures, the record
    with trainer.running(begin=begin):
        plan = _paced(ready, trainer)
        share = config.continual.replay_share if ids.old else None
        state = trainer.fit(
            [*ids.rows, *ids.old],
            plan=ReplayPlan(plan, len(ids.old), share) if share else plan,
            held_out=ids.held_out,
        )
        processes.reassemble(model)
        processes.first(lambda: _finish(run, ready, state))
    return TrainResult(run, config, state, plan.total_steps)


@dataclass(frozen=True, slots=True)
class _TokenIds:
    """Rows as the model reads them: to train on, to validate on, and those of earlier runs. encoding: of the first."""

    rows: list[Encoded]
    held_out: list[Encoded]
    old: list[Encoded]
    encoding: EncodeReport


@dataclass(frozen=True, slots=True)
class _Ready:
    """All that a run needs before its first step; nothing of it is on disk.

    config: every setting resolved. plan: which rows each step sees, the curriculum and the old rows apart.
    trainable, parameters: numbers in the model. findings: what to tell about template, tokenizer, speed and rates.
    """

    config: RunConfig
    prepared: Prepared
    past: Past | None
    base: LoadedModel
    model: PreTrainedModel | PeftModel
    ids: _TokenIds
    plan: StepPlan
    trainable: int
    parameters: int
    findings: tuple[Finding, ...]


def _ready(config: RunConfig, processes: Processes) -> _Ready:
    config = resolve.resolve_base(config)
    check_method(config.method, config.model.path, revision=config.model.revision)

    # the data: read, cleaned, split; and what the run goes on from, if from anything
    prepared, past = prepare(config), Past.of(config)
    config = resolve.resolve_system(config, prepared)

    # the model, its tokenizer, and the template that every later step will use
    base = load_base(
        config.model.path,
        revision=config.model.revision,
        dtype=config.model.dtype,
        device=processes.device,
        quantize=quantize_of(config.method.name, config.model.quantize),
        on_host=processes.sharded,
    )
    padding = prepare_tokenizer(base.tokenizer, base.model.config.vocab_size)
    thinking = any("<think>" in example.answer for example in prepared.train)
    template = check_template(config.prompt.template, base.tokenizer, shape=prepared.report.shape, thinking=thinking)
    template.attach(base.tokenizer)

    # token ids: what is too long, what carries loss
    ids = _token_ids(config, prepared, past, base, template)

    # the method, and the settings that depend on all of the above
    config = resolve.resolve_settings(
        config, base, template_name=template.name, parameters=count_parameters(base.model)[1], encoding=ids.encoding
    )
    limits = [*slow_format(base.dtype, base.device), *resolve.export_limits(config.method)]
    model = _with_method(config, base)
    rates = resolve.told_rates(config, model)
    if past:
        past.start(model)
    trainable, parameters = count_parameters(model)
    plan = resolve.plan_steps(config, ids.rows)
    mean_length = sum(map(len, ids.rows)) / len(ids.rows)
    config = resolve.resolve_loop(config, plan, base.device, base.dtype, parameters=parameters, mean_length=mean_length)
    speed = resolve.speed_findings(config, model, base.device, longest=max(map(len, [*ids.rows, *ids.old])))
    findings = (*filter(None, [padding]), *template.findings, *speed, *limits, *rates)
    return _Ready(config, prepared, past, base, model, ids, plan, trainable, parameters, findings)


def _token_ids(
    config: RunConfig, prepared: Prepared, past: Past | None, base: LoadedModel, template: Template
) -> _TokenIds:
    context = (context_tokens(base.model) or sys.maxsize) - resolve.virtual_tokens_of(config.method)
    max_length = min(config.data.max_length, context)
    encoded = partial(
        encode,
        template=template,
        tokenizer=base.tokenizer,
        max_length=max_length,
        truncation=config.data.truncation,
        train_on=config.prompt.train_on,
    )
    rows, encoding = encoded(prepared.train)
    held_out, _ = encoded(prepared.validation)
    old, _ = encoded(past.examples(config) if past else ())
    if not rows:
        raise resolve.nothing_fits(encoding, max_length=max_length, context=context)
    return _TokenIds(rows, held_out, old, encoding)


def _with_method(config: RunConfig, base: LoadedModel) -> PreTrainedModel | PeftModel:
    torch.manual_seed(config.seed)  # adapters begin with random numbers
    return apply_method(
        base.model,
        config.method,
        dtype=base.dtype,
        gradient_checkpointing=config.train.gradient_checkpointing,
        prompt_ids=base.tokenizer(config.method.init_text)["input_ids"] if config.method.init_text else None,
    )


def _create(run: Run, ready: _Ready) -> None:
    manifest = resolve.manifest_of(ready.config, ready.prepared.report, ready.base)
    Run.create(run.path, config_text=dump_config(ready.config), manifest=manifest)


def _announced(ready: _Ready, trainer: Trainer) -> Plan:
    config, device, processes = ready.config, ready.base.device, trainer.processes
    return Plan(
        run=trainer.run,
        config=config,
        data=ready.prepared.report,
        encoding=ready.ids.encoding,
        findings=ready.findings,
        trainable=ready.trainable,
        parameters=ready.parameters,
        steps=ready.plan.total_steps,
        resumed_from=trainer.checkpoints.latest_step(),
        device=processes.on(device),
        tasks=task_plans(ready.plan),
        memory=None if processes.sharded else memory_need(ready.model, config.train.optimizer, device),
    )


def _paced(ready: _Ready, trainer: Trainer) -> StepPlan:
    """The plan, with the easy rows first where that is asked for.

    Raises:
        Stopped: a signal asked for it while they were ranked; the run can be resumed.
    """
    if ready.config.train.order != "curriculum":
        return ready.plan
    rows, settings, processes = ready.ids.rows, trainer.settings, trainer.processes

    def losses_before() -> list[float]:
        sizes = MicroBatches(settings.tokens_per_batch, longest=max(map(len, rows)))
        measure = partial(
            row_losses,
            *(ready.model, rows),
            sizes=sizes,
            autocast=settings.autocast,
            processes=processes,
            put_off=lambda: trainer.stop.is_asked,
        )
        return stored_losses(trainer.run, rows, measure, base=ready.base.revision, processes=processes)

    try:
        return ready.plan.paced(curriculum_of(ready.config.train, rows, losses_before))
    except PutOff:
        state, message = TrainingState(trainer.checkpoints.latest_step()), "stopped while the rows were ranked by loss"
        raise stopped(trainer.run, state, message, trainer.stop, processes) from None


def _finish(run: Run, ready: _Ready, state: TrainingState) -> None:
    """Save what was trained, the pictures and the record."""
    config, base = ready.config, ready.base
    with atomic_folder(run.model_dir) as target:
        save_adapter(
            ready.model, target, tokenizer=base.tokenizer, base_path=config.model.path, base_revision=base.revision
        )
    plot_run(run, status="finished")
    run.update_manifest(
        status="finished",
        training=asdict(state),
        epochs=ready.plan.epoch_at(state.step),
        total_steps=ready.plan.total_steps,
        trainable_parameters=ready.trainable,
        replay=keep_rows(run, ready.prepared.train, config, ready.past),
    )
