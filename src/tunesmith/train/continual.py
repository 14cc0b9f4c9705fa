"""Going on from a finished run: whether it can be, what is taken over from it, its weights and the rows it kept.

Knows the run directories of both, and no model but the one it is handed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.config import METHODS, MethodConfig, RunConfig, load_config
from tunesmith.data import ReplayBuffer
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.model import load_trained, memory_errors
from tunesmith.runs import Run, atomic_write, file_sha256
from tunesmith.train.device import Processes
from tunesmith.train.ewc import Ewc, diagonal_fisher, read_fisher
from tunesmith.train.loop import Autocast
from tunesmith.types import Encoded, Example

# Share of old rows where none is given: docs/continual.md has what it was measured to do.
DEFAULT_SHARE = 0.2
_KEPT = "replay.jsonl"
_FISHER = "fisher.safetensors"
# Besides model and method: the same text becomes the same tokens.
_TAKEN_OVER = ("prompt.template", "prompt.system", "data.max_length")


def continued(config: RunConfig) -> RunConfig:
    """The settings of a new run, with what its parent decides filled in and told as the origin.

    Without a parent they are returned as they are.

    Raises:
        SettingsError: the parent cannot be continued, or not like this; all that does not fit is told together.
    """
    if config.continual.parent is None:
        return config
    parent = Run.open(config.continual.parent)
    earlier = load_config(stored=parent.config_path)
    _require_finished(parent)
    origin = f"run {parent.name}"
    buffer = kept_rows(parent)
    problems = [
        *_other_model(config, earlier, parent),
        *_other_method(config, trained_method(earlier)),
        *_missing_rows(config, buffer, parent),
    ]
    if problems:
        raise SettingsError(
            f"{parent.name} cannot be continued like this:",
            problems=tuple(problems),
            fix="change these settings; without --continue a new run starts from any model with any method",
        )
    path = config.continual.parent
    config = config.replaced("continual.parent", str(parent.path.absolute()), config.origin("continual.parent"))
    config = config.replaced("model.path", _start(earlier, parent), origin)
    revision = earlier.model.revision if _is_adapter(earlier) else None
    if revision != config.model.revision:
        config = config.replaced("model.revision", revision, origin)
    for name, value in trained_method(earlier).model_dump().items():
        if name == "name" or getattr(config.method, name) != value:
            config = config.replaced(f"method.{name}", value, origin)
    for name in _TAKEN_OVER:
        section, leaf = name.split(".")
        value = getattr(getattr(earlier, section), leaf)
        if config.origin(name) == "default" and value != getattr(getattr(config, section), leaf):
            config = config.replaced(name, value, origin)
    if config.continual.replay_share is None:
        share = DEFAULT_SHARE if buffer.rows else 0.0
        reason = (
            f"{len(buffer.rows)} of {buffer.seen} rows are kept by {path}" if buffer.rows else f"{path} kept no rows"
        )
        config = config.resolved("continual.replay_share", share, reason)
    if buffer.seen and config.origin("continual.buffer_rows") == "default":
        config = config.replaced("continual.buffer_rows", buffer.capacity, origin)
    return config


def trained_method(config: RunConfig) -> MethodConfig:
    """The method that goes on with what a finished run saved: its own, but a PiSSA adapter is saved as plain LoRA."""
    method = config.method
    if method.name != "pissa":
        return method
    return method.model_copy(update={"name": "lora", "r": 2 * method.r, "alpha": 2 * method.alpha})


def kept_rows(run: Run) -> ReplayBuffer:
    """The training rows that a run kept for those that go on from it; none where it is older than this is.

    Raises:
        ResourceError: they are not there any more, or not as they were written.
    """
    facts = run.manifest.get("replay")
    if facts is None:
        return ReplayBuffer(0)
    path = run.path / _KEPT
    try:
        text = path.read_bytes().decode() if facts["rows"] else ""
        if hashlib.sha256(text.encode()).hexdigest() != facts["sha256"]:
            raise ValueError("it does not match its SHA-256")
        return ReplayBuffer.from_text(text, capacity=facts["capacity"], seen=facts["seen"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResourceError(
            f"the rows that {run.name} kept cannot be read: {path}",
            cause=str(error),
            fix="restore the file from a copy of the run, or train the parent again",
        ) from error


def keep_rows(run: Run, examples: Sequence[Example], config: RunConfig, past: Past | None) -> dict[str, object]:
    """Write the rows that a run keeps: of its own, and of those that its parent kept. Returns their facts."""
    settings = config.continual
    before = past.buffer.of_capacity(settings.buffer_rows, seed=config.seed) if past else None
    buffer = (before or ReplayBuffer(settings.buffer_rows)).after(examples, run=run.name, seed=config.seed)
    if buffer.rows:
        atomic_write(run.path / _KEPT, buffer.to_text())
    return buffer.facts


@dataclass(frozen=True, slots=True)
class Past:
    """What a run goes on from. `buffer` holds the rows that the parent kept."""

    parent: Run
    buffer: ReplayBuffer

    @classmethod
    def of(cls, config: RunConfig) -> Past | None:
        """That of a run with settings from `continued`; None when it has no parent.

        Raises:
            SettingsError, ResourceError: the parent is not there any more, or damaged.
        """
        if config.continual.parent is None:
            return None
        parent = Run.open(config.continual.parent)
        _require_finished(parent)
        return cls(parent, kept_rows(parent))

    def examples(self, config: RunConfig) -> list[Example]:
        """The kept rows, where anything is done with them."""
        wanted = config.continual.replay_share or config.continual.ewc_lambda
        return [kept.example for kept in self.buffer.rows] if wanted else []

    def start(self, model: PreTrainedModel | PeftModel) -> None:
        """Put what the parent has trained into a model made trainable by its method, in place."""
        load_trained(model, self.parent.model_dir)

    def penalty(
        self,
        model: PreTrainedModel | PeftModel,
        rows: Sequence[Encoded],
        config: RunConfig,
        *,
        run: Run,
        autocast: Autocast,
        processes: Processes,
    ) -> Ewc | None:
        """Elastic weight consolidation around the model's weights as they are now; None at strength 0.

        The Fisher information is read from the run that is resumed, or estimated.

        Raises:
            ResourceError: the memory does not hold it.
        """
        strength, file = config.continual.ewc_lambda, run.path / _FISHER
        if not strength:
            return None
        if processes.first(file.is_file):
            return Ewc(model, read_fisher(file.read_bytes()), strength=strength)
        draw = torch.Generator().manual_seed(config.seed)
        chosen = torch.randperm(len(rows), generator=draw)[: config.continual.fisher_rows].tolist()
        fix = "lower data.max_length, or leave continual.ewc_lambda out; continual.replay_share takes no memory"
        with autocast(), memory_errors("the Fisher information of the old rows", fix=fix):
            fisher = diagonal_fisher(model, [rows[index] for index in chosen], seed=config.seed, processes=processes)
        return Ewc(model, fisher, strength=strength)

    def identity(self, config: RunConfig, penalty: Ewc | None) -> dict[str, object]:
        """What must be the same when the run is resumed."""
        settings = config.continual.model_dump(include={"replay_share", "ewc_lambda", "fisher_rows"})
        weights = {path.name: file_sha256(path) for path in sorted(self.parent.model_dir.glob("*.safetensors"))}
        rows = self.buffer.facts["sha256"]
        return {"continual": {**settings, "parent": weights, "rows": rows, "fisher": penalty and penalty.sha256}}


def keep_fisher(run: Run, penalty: Ewc | None) -> None:
    """Write the Fisher information of a penalty into its run, once."""
    if penalty is not None and not (run.path / _FISHER).exists():
        atomic_write(run.path / _FISHER, penalty.to_bytes())


def _require_finished(parent: Run) -> None:
    manifest = parent.manifest
    if manifest.get("kind", "finetune") != "finetune":
        raise SettingsError(
            f"{parent.name} was made by tunesmith {manifest['kind']}, which keeps no rows and has no parent's method",
            fix=f"train on its model: leave --continue out, and give --model {parent.model_dir}",
        )
    if manifest["status"] != "finished" or not parent.model_dir.is_dir():
        raise SettingsError(
            f"{parent.name} is not finished: its status is {manifest['status']}",
            fix=f"finish it first: {parent.resume_command}",
        )


def _is_adapter(config: RunConfig) -> bool:
    return METHODS[config.method.name].is_adapter


def _start(earlier: RunConfig, parent: Run) -> str:
    """The model to load: the base of the parent's adapter, or the parent's own weights."""
    return earlier.model.path if _is_adapter(earlier) else str(parent.model_dir.absolute())


def _other_model(config: RunConfig, earlier: RunConfig, parent: Run) -> Iterator[str]:
    wanted, revision = config.model.path, config.model.revision
    own = {earlier.model.path, _start(earlier, parent)}
    if config.origin("model.path") != "default" and not {wanted, str(Path(wanted).absolute())} & own:
        yield f"model.path is {wanted}, {parent.name} was trained on {earlier.model.path}: leave it out"
    if revision is not None and revision != earlier.model.revision:
        yield f"model.revision is {revision}, {parent.name} has {earlier.model.revision}: leave it out"


def _other_method(config: RunConfig, method: MethodConfig) -> Iterator[str]:
    for name, value in method.model_dump().items():
        wanted = getattr(config.method, name)
        is_given = config.origin(f"method.{name}") != "default" and wanted != "auto"
        if is_given and wanted != value:
            saved = value if name == "name" or METHODS[method.name].is_adapter else "none"
            yield f"method.{name} is {wanted}, that of the saved weights is {saved}: leave it out"


def _missing_rows(config: RunConfig, buffer: ReplayBuffer, parent: Run) -> Iterator[str]:
    settings = config.continual
    if not buffer.rows:
        why = f"{parent.name} kept no rows: train it again with continual.buffer_rows above 0, or leave this out"
        yield from (
            f"continual.{name} is {getattr(settings, name):g}, and {why}"
            for name in ("replay_share", "ewc_lambda")
            if getattr(settings, name)
        )
    if config.origin("continual.buffer_rows") != "default" and settings.buffer_rows:
        try:
            buffer.of_capacity(settings.buffer_rows, seed=config.seed)
        except ValueError as error:
            yield (
                f"continual.buffer_rows is {settings.buffer_rows}, {parent.name} kept {buffer.capacity}: {error}; "
                "leave it out or lower it"
            )
    if settings.ewc_lambda and config.train.sharding == "full":
        yield "continual.ewc_lambda does not work with train.sharding full: leave one of them out"
