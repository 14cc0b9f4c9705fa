"""Pre-training: texts -> tokenizer -> blocks -> weights, new or of a base, through the same loop as fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tunesmith.config import ModelConfig, RunConfig, dump_config, unread_settings
from tunesmith.data import Corpus, StepPlan, blocks, read_corpus
from tunesmith.errors import SettingsError
from tunesmith.model import (
    END_OF_TEXT,
    accelerated,
    autocast,
    choose_device,
    choose_dtype,
    count_parameters,
    default_learning_rate,
    load_base,
    load_skeleton,
    new_model,
    new_tokenizer,
    recompute_activations,
)
from tunesmith.prompts import Template, check_template, render
from tunesmith.runs import MetricsLog, Run, atomic_folder, plot_run
from tunesmith.train import resolve
from tunesmith.train.allocator import keep_freed_memory
from tunesmith.train.budget import MicroBatches
from tunesmith.train.checkpoint import Checkpoints, TrainingState
from tunesmith.train.device import Processes, joined
from tunesmith.train.loop import fit
from tunesmith.train.observe import Observer, log_metrics
from tunesmith.train.outcome import Likelihood, MeanNll, measured, raise_if_stopped, recorded, use_best
from tunesmith.train.signals import listen_for_stop
from tunesmith.types import Encoded, Example

_LEARNING_RATE = 2e-3  # for a few million parameters at a few thousand tokens a step
_PROBE_BLOCKS = 32  # blocks of held-out text measured during training; the end measures all of them


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """The run and its measurement on documents never trained on."""

    run: Run
    steps: int
    tokens: int
    bits_per_byte: float
    held_out_bytes: int


def train_from_scratch(
    config: RunConfig,
    *,
    destination: Run | Path,
    mean_nll: MeanNll,
    observers: Sequence[Observer] = (),
    allow_drift: bool = False,
) -> PretrainResult:
    """Train a new tokenizer and model, or a base further, on the texts of `config.pretrain`.

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
    keep_freed_memory()
    with joined(config.model.device, sharding=config.train.sharding) as processes:
        return _pretrain(
            _resolve(config),
            destination=destination,
            mean_nll=mean_nll,
            observers=observers,
            allow_drift=allow_drift,
            processes=processes,
        )


def _pretrain(
    config: RunConfig,
    *,
    destination: Run | Path,
    mean_nll: MeanNll,
    observers: Sequence[Observer],
    allow_drift: bool,
    processes: Processes,
) -> PretrainResult:
    if config.pretrain.base is not None:
        _check_base(config)
    run, corpus = _begun(config, destination, processes)
    with processes.together():
        start = _start(run, config, processes)
        model, tokenizer = start.model, start.tokenizer
        rows, held_out = _rows(corpus, tokenizer, config)
    processes.start_equal(model)
    processes.shard(model)
    config, plan = _planned(config, rows, model)
    identity = resolve.identity_of(config, plan, data=corpus.sha256, base=start.revision, device=model.device.type)
    keep = config.train.save_total_limit
    checkpoints = Checkpoints(
        run.checkpoints_dir, identity=identity, keep=keep, allow_drift=allow_drift, processes=processes
    )
    checkpoints.check(model)

    def compute() -> AbstractContextManager[object]:
        return autocast(model.device, start.dtype)

    settings = resolve.loop_settings(config, plan, model, autocast=compute, processes=processes)
    sizes = MicroBatches(settings.tokens_per_batch, longest=config.pretrain.context)

    def measure(chosen: Sequence[Encoded], put_off: Callable[[], bool] = lambda: False) -> Likelihood:
        with compute():
            return measured(mean_nll, model, chosen, sizes=sizes, processes=processes, put_off=put_off)

    probe = held_out[:: max(1, len(held_out) // _PROBE_BLOCKS)]
    counts = {"train_tokens": sum(map(len, rows)), "held_out_documents": len(corpus.held_out)}
    processes.first(lambda: run.update_manifest(**counts))
    observers = [log_metrics(MetricsLog(run.metrics_path)), *observers] if processes.is_first else []
    fast = accelerated(model, compiled=config.train.compile == "on", lanes=settings.lanes)
    with listen_for_stop() as stop, recorded(run, stop, processes), fast:
        state = fit(
            model,
            rows,
            plan=plan,
            settings=settings,
            checkpoints=checkpoints,
            validate=lambda: measure(probe, lambda: stop.is_asked).mean,
            observers=observers,
            stop=stop,
        )
        raise_if_stopped(run, state, plan.total_steps, stop, processes)
        if config.train.keep_best:
            use_best(checkpoints, state, model, observers)
        nll = measure(held_out).nll
        processes.reassemble(model)
        processes.first(lambda: _finish(run, model, tokenizer, state, nll=nll, texts=corpus.held_out))
    return _result(run)


def _check_base(config: RunConfig) -> None:
    """Refuse a base that is not usable or reads shorter texts, before anything is written."""
    base = str(config.pretrain.base)
    longest = load_skeleton(base, config.model.revision).config.max_position_embeddings
    if config.pretrain.context > longest:
        raise SettingsError(
            f"pretrain.context is {config.pretrain.context}, but {base} reads {longest} tokens at most",
            fix=f"set pretrain.context to {longest} or less",
        )


def _begun(config: RunConfig, destination: Run | Path, processes: Processes) -> tuple[Run, Corpus]:
    """The run, with its own tokenizer on disk if it makes one, and the texts."""
    with processes.together():
        corpus = read_corpus(config.pretrain.documents, config.pretrain.qa, holdout=config.pretrain.holdout)

    def begin() -> str:
        run = destination if isinstance(destination, Run) else _create(config, destination, corpus)
        if config.pretrain.base is None:
            _make_tokenizer(run, config, corpus)
        return str(run.path)

    return Run(Path(processes.first(begin))), corpus


def _planned(config: RunConfig, rows: Sequence[Encoded], model: PreTrainedModel) -> tuple[RunConfig, StepPlan]:
    plan = resolve.plan_steps(config, rows).after(config.pretrain.epochs_before)
    parameters, length = count_parameters(model)[1], config.pretrain.context
    return resolve.resolve_loop(config, plan, model.device, parameters=parameters, mean_length=length), plan


def _resolve(config: RunConfig) -> RunConfig:
    """Settings that were left open, as a model from scratch wants them."""
    unread = unread_settings(config.method, "full")
    if unread:
        raise SettingsError(
            f"pre-training trains every weight and has no {' and no '.join(unread)}",
            fix=f"leave {'it' if len(unread) == 1 else 'them'} out",
        )
    _check_model_unset(config)
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
    return default_learning_rate("full", count_parameters(base)[1])


def _check_model_unset(config: RunConfig) -> None:
    """Refuse `--model`, which would be a new model all the same. A file of `tunesmith init` has it at its default."""
    path, origin = config.model.path, config.origin("model.path")
    is_chosen = origin in ("flag", "argument") or path != ModelConfig().path
    if is_chosen and not origin.startswith("detected"):
        raise SettingsError(
            f"pre-training makes a new model and does not read model.path ({path})",
            fix=f"to go on from that model set pretrain.base to {path}; else leave model.path out",
        )


def _create(config: RunConfig, folder: Path, corpus: Corpus) -> Run:
    manifest = {
        "kind": "pretrain",
        "base": config.pretrain.base,
        "data": {"sha256": corpus.sha256, "documents": len(corpus.documents), "pairs": len(corpus.pairs)},
        "seed": config.seed,
        "versions": resolve.package_versions(),
    }
    named = config.resolved("model.path", str((folder / "model").absolute()), "made by this run")
    return Run.create(folder, config_text=dump_config(named), manifest=manifest)


def _tokenizer_dir(run: Run) -> Path:
    return run.path / "tokenizer"


def _make_tokenizer(run: Run, config: RunConfig, corpus: Corpus) -> None:
    folder = _tokenizer_dir(run)
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            new_tokenizer(corpus.documents, config.pretrain).save_pretrained(temporary)


@dataclass(frozen=True, slots=True)
class _Start:
    """What is trained: weights in float32 on their device, the number format computed in, the base's fingerprint."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    revision: str | None


def _start(run: Run, config: RunConfig, processes: Processes) -> _Start:
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
        model.requires_grad_(True)
    if not processes.sharded:
        model.to(device)
    if config.train.gradient_checkpointing:
        recompute_activations(model)
    dtype, _ = choose_dtype(config.model.dtype, device, total_parameters=count_parameters(model)[1])
    return _Start(model, tokenizer, dtype, revision)


def _rows(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> tuple[list[Encoded], list[Encoded]]:
    """Training blocks, and the blocks of each held-out document."""
    length = config.pretrain.context
    end = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)
    rows = blocks(_shuffled_sequences(corpus, tokenizer, end, config), length)
    held_out = [row for ids in _document_ids(corpus.held_out, tokenizer, end) for row in blocks([ids], length)]
    return rows, held_out


def _document_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, end: int) -> list[NDArray[np.int64]]:
    # split_special_tokens: a document that mentions <|im_end|> is text about it, not the token
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [np.append(np.asarray(row, dtype=np.int64), end) for row in ids]


def _shuffled_sequences(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, end: int, config: RunConfig
) -> list[NDArray[np.int64]]:
    """Documents and Q/A chats in one seeded order. Chats are packed between documents and end as documents do."""
    sequences = _document_ids(corpus.documents, tokenizer, end)
    if corpus.pairs:  # checked for them alone: a base without a chat template takes the one that train would take
        template = check_template("auto", tokenizer)
        chats = [_chat_ids(pair, template, tokenizer, end) for pair in corpus.pairs]
        sequences += chats * config.pretrain.qa_repeats
    order = np.random.default_rng(config.seed).permutation(len(sequences))
    return [sequences[index] for index in order]


def _chat_ids(pair: Example, template: Template, tokenizer: PreTrainedTokenizerBase, end: int) -> NDArray[np.int64]:
    return np.append(render(pair, template, tokenizer, train_on="all").input_ids, end)


def _finish(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    state: TrainingState,
    *,
    nll: float,
    texts: Sequence[str],
) -> None:
    """Save model, pictures and the measurement: `nll` nats on the held-out `texts`."""
    held_out_bytes = sum(len(text.encode()) for text in texts)
    bits_per_byte = nll / math.log(2) / held_out_bytes
    for parameter in model.parameters():  # not model.bfloat16(): where weights were divided, FSDP is in its way
        parameter.data = parameter.data.bfloat16()
    with atomic_folder(run.model_dir) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    plot_run(run, status="finished")
    run.update_manifest(
        status="finished", bits_per_byte=bits_per_byte, held_out_bytes=held_out_bytes, training=asdict(state)
    )


def _result(run: Run) -> PretrainResult:
    content = run.manifest
    training = content["training"]
    return PretrainResult(
        run, training["step"], training["tokens"], content["bits_per_byte"], content["held_out_bytes"]
    )
