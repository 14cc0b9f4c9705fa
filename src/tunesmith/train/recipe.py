"""The main path: read, prepare, encode, load, apply, fit, save. It reads top to bottom; the parts are deep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from tunesmith.config import RunConfig, check_config, dump_config, quantize_of
from tunesmith.data import ReplayPlan, encode, ids_sha256, prepare
from tunesmith.model import (
    accelerated,
    apply_method,
    autocast,
    check_method,
    context_tokens,
    count_parameters,
    layers_for_liger,
    load_base,
    loss_scale,
    save_adapter,
    slow_format,
    why_padded,
)
from tunesmith.prompts import check_template, prepare_tokenizer
from tunesmith.runs import MetricsLog, Run, atomic_folder, plot_run
from tunesmith.train import resolve
from tunesmith.train.allocator import keep_freed_memory
from tunesmith.train.budget import MicroBatches, memory_need
from tunesmith.train.checkpoint import Checkpoints
from tunesmith.train.continual import Past, keep_fisher, keep_rows
from tunesmith.train.device import Processes, joined
from tunesmith.train.difficulty import curriculum_of, row_losses, stored_losses
from tunesmith.train.loop import fit
from tunesmith.train.observe import Observer, log_metrics
from tunesmith.train.outcome import (
    Likelihood,
    MeanNll,
    Plan,
    TrainResult,
    measured,
    raise_if_stopped,
    recorded,
    use_best,
)
from tunesmith.train.signals import listen_for_stop
from tunesmith.train.tasks import TaskLosses, task_plans
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
        return TrainResult.of_finished(destination, config)
    check_config(config)
    keep_freed_memory()
    with joined(config.model.device, sharding=config.train.sharding) as processes:
        return _train(
            config,
            destination=destination,
            mean_nll=mean_nll,
            announce=announce,
            observers=observers,
            allow_drift=allow_drift,
            processes=processes,
        )


def _train(
    config: RunConfig,
    *,
    destination: Run | Path,
    mean_nll: MeanNll,
    announce: Callable[[Plan], None],
    observers: Sequence[Observer],
    allow_drift: bool,
    processes: Processes,
) -> TrainResult:
    with processes.together():
        config = resolve.resolve_base(config)
        check_method(config.method, config.model.path, revision=config.model.revision)

        # the data: read, cleaned, split; and what the run goes on from, if from anything
        prepared = prepare(config)
        past = Past.of(config)

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
        template = check_template(
            config.prompt.template, base.tokenizer, shape=prepared.report.shape, thinking=thinking
        )
        template.attach(base.tokenizer)

        # token ids: what is too long, what carries loss
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

        # the method, and the settings that depend on all of the above
        config = resolve.resolve_settings(
            config,
            base,
            template_name=template.name,
            parameters=count_parameters(base.model)[1],
            encoding=encoding,
        )
        limits = [*slow_format(base.dtype, base.device), *resolve.export_limits(config.method)]
        torch.manual_seed(config.seed)  # adapters begin with random numbers
        model = apply_method(
            base.model,
            config.method,
            dtype=base.dtype,
            gradient_checkpointing=config.train.gradient_checkpointing,
            prompt_ids=base.tokenizer(config.method.init_text)["input_ids"] if config.method.init_text else None,
        )
        reason = why_padded(model, max(map(len, [*rows, *old])))
        padded = [Finding("note", "padded", f"rows are padded to equal length: {reason}")] if reason else []
        rates = resolve.told_rates(config, model)
        if past:
            past.start(model)
    trainable, parameters = count_parameters(model)
    plan = resolve.plan_steps(config, rows)
    config = resolve.resolve_loop(
        config, plan, base.device, parameters=parameters, mean_length=sum(map(len, rows)) / len(rows)
    )

    by_liger = layers_for_liger(model, base.device, compiled=config.train.compile == "on")
    joined_operations = [Finding("note", "liger", f"{len(by_liger)} layers are computed by Liger")] if by_liger else []

    def compute() -> AbstractContextManager[object]:
        return autocast(base.device, base.dtype)

    # the run directory: nothing is written before everything above has worked
    folder = destination.path if isinstance(destination, Run) else destination
    run = Run(Path(processes.first(lambda: str(folder))))
    identity = resolve.identity_of(
        config,
        plan,
        data=prepared.report.sha256,
        ids=ids_sha256([*rows, *held_out]),
        base=base.revision,
        device=base.device.type,
    )
    penalty = None
    if past:
        penalty = past.penalty(model, old, config, run=run, autocast=compute, processes=processes)
        identity |= past.identity(config, penalty)
    checkpoints = Checkpoints(
        run.checkpoints_dir,
        identity=identity,
        keep=config.train.save_total_limit,
        allow_drift=allow_drift,
        processes=processes,
    )
    checkpoints.check(model)
    processes.start_equal(model)
    processes.shard(model)

    def create() -> None:
        manifest = resolve.manifest_of(config, prepared.report, base)
        Run.create(run.path, config_text=dump_config(config), manifest=manifest)

    def begin() -> None:
        if isinstance(destination, Run):
            run.update_config(dump_config(config))
        keep_fisher(run, penalty)
        announce(
            Plan(
                run=run,
                config=config,
                data=prepared.report,
                encoding=encoding,
                findings=(*filter(None, [padding]), *template.findings, *padded, *joined_operations, *limits, *rates),
                trainable=trainable,
                parameters=parameters,
                steps=plan.total_steps,
                resumed_from=checkpoints.latest_step(),
                device=processes.on(base.device),
                tasks=task_plans(plan),
                memory=None if processes.sharded else memory_need(model, config.train.optimizer, base.device),
            )
        )

    if not isinstance(destination, Run):
        processes.first(create)

    # the loop
    settings = resolve.loop_settings(
        config,
        plan,
        model,
        autocast=compute,
        processes=processes,
        penalty=penalty,
        loss_scale=loss_scale(base.dtype),
    )
    sizes = MicroBatches(settings.tokens_per_batch, longest=max(map(len, held_out), default=1))

    def measure(chosen: Sequence[Encoded]) -> Likelihood:
        with compute():
            return measured(mean_nll, model, chosen, sizes=sizes, processes=processes, put_off=lambda: stop.is_asked)

    def losses_before() -> list[float]:
        most = MicroBatches(settings.tokens_per_batch, longest=max(map(len, rows)))
        measure = partial(row_losses, model, rows, sizes=most, autocast=compute, processes=processes)
        return stored_losses(run, rows, measure, base=base.revision, processes=processes)

    validation = TaskLosses(measure)
    share = config.continual.replay_share if old else None
    observers = [log_metrics(MetricsLog(run.metrics_path)), *observers] if processes.is_first else []
    observers = [validation.told_to(observe) for observe in observers]
    fast = accelerated(model, compiled=config.train.compile == "on", lanes=settings.lanes)
    with listen_for_stop() as stop, recorded(run, stop, processes, begin=begin), fast:
        if config.train.order == "curriculum":
            plan = plan.paced(curriculum_of(config.train, rows, losses_before))
        state = fit(
            model,
            [*rows, *old],
            plan=ReplayPlan(plan, len(old), share) if share else plan,
            settings=settings,
            checkpoints=checkpoints,
            validate=(lambda: validation.mean(held_out)) if held_out else None,
            observers=observers,
            stop=stop,
        )
        raise_if_stopped(run, state, plan.total_steps, stop, processes)

        # the best weights, the pictures, the record
        if config.train.keep_best:
            use_best(checkpoints, state, model, observers)
        processes.reassemble(model)

        def finish() -> None:
            with atomic_folder(run.model_dir) as target:
                save_adapter(
                    model, target, tokenizer=base.tokenizer, base_path=config.model.path, base_revision=base.revision
                )
            plot_run(run, status="finished")
            run.update_manifest(
                status="finished",
                training=asdict(state),
                epochs=plan.epoch_at(state.step),
                total_steps=plan.total_steps,
                trainable_parameters=trainable,
                replay=keep_rows(run, prepared.train, config, past),
            )

        processes.first(finish)
    return TrainResult(run, config, state, plan.total_steps)
