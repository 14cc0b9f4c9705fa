"""Pre-training: texts -> tokenizer -> blocks -> weights, new or of a base, through the same loop as fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tunesmith.config import RunConfig, dump_config, unread_settings
from tunesmith.data import Corpus, StepPlan, ids_sha256, read_corpus
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.model import (
    apply_method,
    choose_device,
    choose_dtype,
    context_tokens,
    count_parameters,
    default_learning_rate,
    find_source,
    load_base,
    load_skeleton,
    load_tokenizer,
    memory_errors,
    new_model,
    new_tokenizer,
    quiet,
    save_tokenizer,
    slow_format,
)
from tunesmith.runs import Run, atomic_folder, plot_run
from tunesmith.train import resolve
from tunesmith.train.budget import memory_need
from tunesmith.train.checkpoint import TrainingState
from tunesmith.train.corpus_blocks import corpus_blocks, end_of_text
from tunesmith.train.device import Processes
from tunesmith.train.observe import Observer
from tunesmith.train.outcome import MeanNll, PretrainPlan, stopped
from tunesmith.train.signals import PutOff
from tunesmith.train.trainer import Start, Trainer, started
from tunesmith.types import Encoded, Finding

_LEARNING_RATE = 2e-3  # for a few million parameters at a few thousand tokens a step
_LEARNING_RATE_OF_BASE = 2e-4  # at most; measured on a model of 15 M parameters: docs/pretraining.md
_FEW_STEPS = 20  # below which a fourth of the blocks a step was better on two texts: docs/pretraining.md
_OWN_MODEL = "made by this run"  # why model.path in the settings of a run is what it is
_FREE_SETTINGS = {"documents", "qa", "base"}  # where things are, which a resumed run may change
_PROBE_BLOCKS = 32  # blocks of held-out text measured during training; the end measures all of them


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """The run and its measurement on documents never trained on; `base_bits_per_byte` is that of a base, before."""

    run: Run
    steps: int
    tokens: int
    bits_per_byte: float
    held_out_bytes: int
    base_bits_per_byte: float | None


def train_on_texts(
    config: RunConfig,
    *,
    destination: Run | Path,
    mean_nll: MeanNll,
    announce: Callable[[PretrainPlan], None] = lambda plan: None,
    observers: Sequence[Observer] = (),
    allow_drift: bool = False,
) -> PretrainResult:
    """Train a new tokenizer and model, or a base further, on the texts of `config.pretrain`.

    `announce` is told the plan once, before the first step.

    Resumes when `destination` is an unfinished run; a finished one is returned as it is. `allow_drift`: resume although
    data, settings or versions have changed.
    The run's model/ folder is a plain Hugging Face model in bfloat16. Bits per byte = total negative log-likelihood
    of the held-out documents, their end-of-text tokens included, / ln 2 / their UTF-8 bytes.

    Raises:
        DataError: a file is missing or damaged.
        SettingsError: a setting that pre-training, or this base, does not have.
        ResourceError: the base is not there or not usable.
        Stopped: a signal asked for it; the run can be resumed.
    """
    if isinstance(destination, Run) and destination.manifest["status"] == "finished":
        return _result(destination)
    with started(config, destination, mean_nll=mean_nll, observers=observers, allow_drift=allow_drift) as start:
        return _pretrain(config, start, announce)


def _pretrain(config: RunConfig, start: Start, announce: Callable[[PretrainPlan], None]) -> PretrainResult:
    processes, run = start.processes, start.run
    with processes.together():
        config = _checked(config)
    corpus = _begun(config, start)
    with processes.together():
        base = _base(run, config, processes)
        rows, held_out = corpus_blocks(corpus, base.tokenizer, config, vocab_size=base.model.config.vocab_size)
        config, plan = _planned(config, rows, base)
    sums = {"data": corpus.sha256, "ids": ids_sha256([*rows, *held_out])}
    identity = resolve.identity_of(config, plan, **sums, base=base.revision, device=base.device.type)
    identity["pretrain"] = config.pretrain.model_dump(mode="json", exclude=_FREE_SETTINGS)
    trainer = Trainer(start, config, base.model, plan, device=base.device, dtype=base.dtype, identity=identity)

    def begin() -> None:
        _record(run, config, rows, corpus)
        announce(_announced(trainer, corpus, rows, plan, base))

    with trainer.running(begin=begin):
        _measure_base(trainer, held_out, corpus.held_out)
        state = trainer.fit(rows, plan=plan, held_out=_probe(held_out))
        try:
            nll = trainer.measure(held_out).nll
        except PutOff:
            message = "stopped before the measurement; every step is saved"
            raise stopped(run, state, message, trainer.stop, processes) from None
        processes.reassemble(base.model)
        processes.first(lambda: _finish(run, base, state, nll=nll, texts=corpus.held_out))
    return _result(run)


def _checked(config: RunConfig) -> RunConfig:
    """The settings as pre-training wants them, once they and the base are known to be usable."""
    config = _resolve(config)
    if config.pretrain.base is not None:
        _check_base(config, config.pretrain.base)
    return config


def _check_base(config: RunConfig, base: str) -> None:
    """Refuse a base that is not usable for these texts, before anything is written."""
    skeleton = load_skeleton(base, config.model.revision)
    if getattr(skeleton.config, "quantization_config", None) is not None:
        raise SettingsError(
            f"{base} is quantised, and pre-training changes every weight",
            fix="set pretrain.base to the model that it was made from",
        )
    longest = context_tokens(skeleton)
    if longest is not None and config.pretrain.context > longest:
        raise SettingsError(
            f"pretrain.context is {config.pretrain.context}, but {base} reads {longest} tokens at most",
            fix=f"set pretrain.context to {longest} or less",
        )
    tokenizer = load_tokenizer(find_source(base, config.model.revision))
    if end_of_text(tokenizer) is None:
        raise ResourceError(
            f"the tokenizer of {base} has no end-of-text token, so no document could end",
            cause="eos_token is missing in tokenizer_config.json",
            fix="set eos_token there to the token the model was trained to stop at, or take another model",
        )
    if config.pretrain.qa and not tokenizer.chat_template:
        raise SettingsError(
            f"the tokenizer of {base} has no chat template, which pretrain.qa is rendered with",
            fix="leave pretrain.qa out, or take a base with a chat template",
        )


def _begun(config: RunConfig, start: Start) -> Corpus:
    """The texts; and the run, with its own tokenizer on disk if it makes one."""
    with start.processes.together():
        corpus = read_corpus(config)

    def begin() -> None:
        if not start.is_resumed:
            _create(config, start.run.path, corpus)
        if config.pretrain.base is None:
            _make_tokenizer(start.run, config, corpus)

    start.processes.first(begin)
    return corpus


def _planned(config: RunConfig, rows: Sequence[Encoded], base: _Base) -> tuple[RunConfig, StepPlan]:
    if config.model.dtype == "auto":
        config = config.resolved("model.dtype", str(base.dtype).removeprefix("torch."), base.dtype_reason)
    plan = resolve.plan_steps(config, rows).after(config.pretrain.epochs_before)
    parameters, length = count_parameters(base.model)[1], config.pretrain.context
    config = resolve.resolve_loop(config, plan, base.device, base.dtype, parameters=parameters, mean_length=length)
    return config, plan


def _announced(trainer: Trainer, corpus: Corpus, rows: Sequence[Encoded], plan: StepPlan, base: _Base) -> PretrainPlan:
    config, processes = trainer.config, trainer.processes
    speed = resolve.speed_findings(config, base.model, base.device, longest=max(map(len, rows)))
    limits = [*slow_format(base.dtype, base.device), *_few_steps(config, plan.total_steps)]
    return PretrainPlan(
        run=trainer.run,
        config=config,
        corpus=corpus,
        tokens=sum(map(len, rows)),
        parameters=count_parameters(base.model)[1],
        steps=plan.total_steps,
        device=processes.on(base.device),
        measures_base=_measures_base(trainer),
        findings=(*corpus.findings, *speed, *limits),
        memory=None if processes.sharded else memory_need(base.model, config.train.optimizer, base.device),
    )


def _few_steps(config: RunConfig, steps: int) -> list[Finding]:
    train = config.train
    if steps >= _FEW_STEPS or train.gradient_accumulation_steps == 1 or train.max_steps is not None:
        return []
    blocks = train.batch_size * train.gradient_accumulation_steps
    message = f"the run has {steps} steps of {blocks} blocks: so little text teaches more in smaller steps"
    return [Finding("note", "few_steps", message, fix="--gradient_accumulation_steps 1")]


def _record(run: Run, config: RunConfig, rows: Sequence[Encoded], corpus: Corpus) -> None:
    """What is about to be trained: settings, none of them open any more, and the size of the texts."""
    run.update_config(dump_config(_with_own_model(config, run.path)))
    run.update_manifest(train_tokens=sum(map(len, rows)), held_out_documents=len(corpus.held_out))


def _resolve(config: RunConfig) -> RunConfig:
    """Settings that were left open, as pre-training wants them."""
    unread = unread_settings(config.method, "full")
    if config.model.quantize not in ("auto", "none"):
        unread.append("model.quantize")
    if unread:
        raise SettingsError(
            f"pre-training trains every weight and has no {' and no '.join(unread)}",
            fix=f"leave {'it' if len(unread) == 1 else 'them'} out",
        )
    if config.origin("model.path") not in ("default", f"detected: {_OWN_MODEL}"):
        raise SettingsError(
            f"model.path is {config.model.path}, and pre-training makes a model of its own",
            fix="leave it out; set pretrain.base to go on from a model",
        )
    unread = config.pretrain.unread_beside_base()
    if unread and config.pretrain.base is None:
        raise SettingsError("a new model has no epochs before", fix=f"leave out {unread[0]}, or set pretrain.base")
    if unread:
        raise SettingsError(
            f"a base has its own vocabulary and shape: {', '.join(unread)} cannot be chosen",
            fix=f"leave {'it' if len(unread) == 1 else 'them'} out, or leave out pretrain.base for a new model",
        )
    if config.train.order == "curriculum":
        raise SettingsError(
            "pre-training cuts texts into blocks of one length, which have no order from easy to hard",
            fix="set train.order to random",
        )
    config = resolve.with_peak_of_phases(config)
    config = config.resolved("method.name", "full", "pre-training trains every weight")
    train = config.train
    for name, given, value, reason in (
        ("epochs", train.epochs, 1.0, "1 pass: pre-training reads every text once"),
        ("learning_rate", train.learning_rate, *_default_rate(config)),
        ("weight_decay", train.weight_decay, 0.1, "usual for pre-training"),
    ):
        if given is None:
            config = config.resolved(f"train.{name}", value, reason)
    return config


def _default_rate(config: RunConfig) -> tuple[float, str]:
    """Peak learning rate of a new model, which is small, or of a base, which more would make forget; and why."""
    if config.pretrain.base is None:
        return _LEARNING_RATE, "pre-training a small model"
    base = load_skeleton(config.pretrain.base, config.model.revision)
    of_size = default_learning_rate("full", count_parameters(base)[1])
    return min(of_size, (_LEARNING_RATE_OF_BASE, "at a higher rate a base forgets more than it learns"))


def _create(config: RunConfig, folder: Path, corpus: Corpus) -> None:
    manifest = {
        "kind": "pretrain",
        "base": config.pretrain.base,
        "data": {"sha256": corpus.sha256, "documents": len(corpus.documents), "pairs": len(corpus.pairs)},
        "seed": config.seed,
        "versions": resolve.package_versions(),
    }
    Run.create(folder, config_text=dump_config(_with_own_model(config, folder)), manifest=manifest)


def _with_own_model(config: RunConfig, folder: Path) -> RunConfig:
    """As a run in `folder` keeps it: what others load from it is the model that it makes."""
    return config.resolved("model.path", str((folder / "model").absolute()), _OWN_MODEL)


def _tokenizer_dir(run: Run) -> Path:
    return run.path / "tokenizer"


def _make_tokenizer(run: Run, config: RunConfig, corpus: Corpus) -> None:
    with run.claimed():
        folder = _tokenizer_dir(run)
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                new_tokenizer(corpus.documents, config.pretrain).save_pretrained(temporary)


@dataclass(frozen=True, slots=True)
class _Base:
    """What is trained: weights in float32, the device and number format computed on and in, a base's fingerprint."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    revision: str | None


def _base(run: Run, config: RunConfig, processes: Processes) -> _Base:
    device = choose_device(processes.device)
    revision: str | None = None
    if config.pretrain.base is None:
        own: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(_tokenizer_dir(run))
        model: Any = new_model(config.pretrain, own, seed=config.seed)
        tokenizer: PreTrainedTokenizerBase = own
    else:
        base = load_base(
            config.pretrain.base, revision=config.model.revision, dtype="float32", device=processes.device, on_host=True
        )
        model, tokenizer, revision = base.model, base.tokenizer, base.revision
    if not processes.sharded:
        fix = "take a smaller model, or divide it among several GPUs with train.sharding full"
        with memory_errors("all weights in float32", fix=fix):
            model.to(device)
    recomputes = config.train.gradient_checkpointing
    model = apply_method(model, config.method, dtype=torch.float32, gradient_checkpointing=recomputes)
    dtype, reason = choose_dtype(config.model.dtype, device, total_parameters=count_parameters(model)[1])
    return _Base(model, tokenizer, device, dtype, reason, revision)


def _probe(held_out: Sequence[Encoded]) -> Sequence[Encoded]:
    return held_out[:: max(1, len(held_out) // _PROBE_BLOCKS)]


def _measures_base(trainer: Trainer) -> bool:
    return trainer.config.pretrain.base is not None and "base_bits_per_byte" not in trainer.run.manifest


def _measure_base(trainer: Trainer, held_out: Sequence[Encoded], texts: Sequence[str]) -> None:
    """Write down what a base makes of the held-out `texts`, once, before a step is done or restored."""
    if not _measures_base(trainer):
        return
    try:
        nll = trainer.measure(held_out).nll
    except PutOff:  # a stop is asked for: the resumed run measures it
        return
    trainer.processes.first(lambda: trainer.run.update_manifest(base_bits_per_byte=_bits_per_byte(nll, texts)))


def _finish(run: Run, base: _Base, state: TrainingState, *, nll: float, texts: Sequence[str]) -> None:
    """Save model, pictures and the measurement: `nll` nats on the held-out `texts`."""
    for parameter in base.model.parameters():  # not model.bfloat16(): where weights were divided, FSDP is in its way
        parameter.data = parameter.data.bfloat16()
    with atomic_folder(run.model_dir) as folder, quiet():
        base.model.save_pretrained(folder)
        save_tokenizer(base.tokenizer, folder)
    plot_run(run, status="finished")
    run.update_manifest(
        status="finished",
        bits_per_byte=_bits_per_byte(nll, texts),
        held_out_bytes=_byte_count(texts),
        training=asdict(state),
    )


def _bits_per_byte(nll: float, texts: Sequence[str]) -> float:
    return nll / math.log(2) / _byte_count(texts)


def _byte_count(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _result(run: Run) -> PretrainResult:
    content = run.manifest
    return PretrainResult(
        run,
        steps=content["training"]["step"],
        tokens=content["training"]["tokens"],
        bits_per_byte=content["bits_per_byte"],
        held_out_bytes=content["held_out_bytes"],
        base_bits_per_byte=content.get("base_bits_per_byte"),
    )
