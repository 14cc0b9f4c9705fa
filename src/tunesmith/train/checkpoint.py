"""Checkpoints: trainable weights, optimizer state and counters in safetensors and JSON, whole or not at all.

    checkpoints/
      step-000050/  weights.safetensors  optimizer.safetensors  state.json  manifest.json (SHA-256 of the other three)
      LATEST  BEST  one line each, the name of a step folder

Nothing random is stored: every step seeds its own generator from (seed, step) and finds its rows the same way.
A checkpoint is believed only after every byte of it was compared with its hash. LATEST and BEST are hints for people,
never read here: after a roll-back, or when a checkpoint was set aside, they may name a folder that is gone. The newest
is found by its number, and which one is the best stands in the state itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.config import OF_OLDER_RUNS
from tunesmith.errors import ResourceError, SettingsError, TrainingError
from tunesmith.runs import (
    atomic_folder,
    atomic_write,
    disk_errors,
    file_sha256,
    recover,
    remove_folder,
    require_free,
)
from tunesmith.train.device import ALONE, Processes

_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
_LASTING = "train.optimizer was"  # the difference that nobody can accept


@dataclass(slots=True)
class TrainingState:
    """Everything a run remembers besides weights and optimizer. Losses in nats per token, time in seconds.

    validation_pending: the validation due after `step` was put off by a stop. anchor: step of the last checkpoint that
    the plan asked for (a stop makes others): where a roll-back goes, whether or not the run was ever stopped.
    skipped: steps whose loss or gradient was not finite. rate_factor: what the schedule's rate is multiplied by; a
    roll-back and a plateau lower it. recent_losses: what a loss is compared with. tokens_per_batch: what fits into
    memory, if less than asked for. one_lane: passes side by side did not fit. loss_scale: what the loss is multiplied
    by for the backward pass in float16, once a step was done; scaled_steps: for how many steps it has been.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    validation_pending: bool = False
    anchor: int | None = None
    skipped: list[int] = field(default_factory=list)
    rollbacks: int = 0
    rate_factor: float = 1.0
    recent_losses: list[float] = field(default_factory=list)
    tokens_per_batch: int | None = None
    one_lane: bool = False
    loss_scale: float | None = None
    scaled_steps: int = 0


class Checkpoints:
    """The checkpoints folder of one run.

    `messages` collects what the user should know of: a damaged checkpoint, accepted differences.

    Args:
        folder: where they live; made when the first one is saved.
        identity: what must be the same when the run is resumed (data hash, settings, versions ...), as JSON has it.
        keep: how many of the newest to keep. The best and the one to roll back to are kept besides.
        allow_drift: resume although the identity differs.
        processes: those that train. The first decides and writes; all of them read. Whatever their number and division
            of the weights, the files are the same.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: Mapping[str, object],
        keep: int,
        allow_drift: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        self.keep = keep
        self.allow_drift = allow_drift
        self.processes = processes
        self.messages: list[str] = []

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> Path:
        """Write `step-NNNNNN`, point LATEST (and BEST when this step is the best) at it, then drop the oldest.

        Raises:
            TrainingError: a number of it is not finite; nothing was written.
            ResourceError: it could not be written, or did not read back; the older ones are as they were.
        """
        weights = self.processes.whole(_trainable(model))
        moments = self.processes.whole(_optimizer_tensors(model, optimizer))
        return Path(self.processes.first(lambda: str(self._write(weights, moments, state))))

    def _write(self, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor], state: TrainingState) -> Path:
        for name, tensor in [*weights.items(), *moments.items()]:
            if not torch.isfinite(tensor).all():
                raise TrainingError(
                    f"{name} holds NaN or infinity after step {state.step}", fix="lower train.learning_rate"
                )
        target = self._folder_of(state.step)
        with atomic_folder(target) as folder:
            save_file(weights, folder / "weights.safetensors")
            save_file(moments, folder / "optimizer.safetensors")
            content = {"state": asdict(state), "identity": self.identity}
            (folder / "state.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
            hashes = {name: file_sha256(folder / name) for name in _FILES}
            (folder / "manifest.json").write_text(json.dumps({"sha256": hashes}, indent=2), encoding="utf-8")
        atomic_write(self.folder / "LATEST", target.name + "\n")
        if state.best_step == state.step:
            atomic_write(self.folder / "BEST", target.name + "\n")
        self._prune(target, state)
        return target

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
        """Load the newest good checkpoint into model and optimizer; None when there is none.

        A damaged one is renamed to `damaged-...` and the one before it is used; `messages` says so. When the best one
        is damaged, the best of the steps still to come takes its place.

        Raises:
            SettingsError: the checkpoint belongs to other data, settings or package versions.
        """

        def find() -> dict[str, Any] | None:
            recover(self.folder)
            self._check_identity()
            return self._found(self.list())

        return self._load(self.processes.first(find), model, optimizer)

    def roll_back(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, step: int) -> TrainingState | None:
        """Load the newest good checkpoint up to `step`, then delete the newer ones: they are of a past given up."""

        def find() -> dict[str, Any] | None:
            return self._found([folder for folder in self.list() if _step_of(folder) <= step])

        def forget(after: int) -> None:
            for folder in self.list():
                if _step_of(folder) > after:
                    remove_folder(folder)

        state = self._load(self.processes.first(find), model, optimizer)
        if state is not None:
            good = state.step
            self.processes.first(lambda: forget(good))
        return state

    def check(self, model: nn.Module) -> None:
        """Whether training can start here, asked before anything is written.

        Raises:
            SettingsError: the newest checkpoint belongs to other data, settings or versions, which are named; to
            another method or model, which nobody can accept; or the processes themselves differ.
            ResourceError: the checkpoints still to be kept, and one more while it is written, do not fit on the disk.
        """

        def check() -> None:
            self._check_identity()
            self._check_shapes(_trainable(model))
            count = max(1, self.keep + 2 - len(self.list()))  # the newest, the best, and the next while it is written
            require_free(self.folder, count * checkpoint_bytes(model), purpose=f"room for {count} checkpoints")

        self.processes.require_equal(self.identity)
        self.processes.first(check)

    def best(self, state: TrainingState) -> Path | None:
        """Folder of the best checkpoint, if there is one and it is undamaged."""
        has_best = self.processes.first(lambda: self._has_best(state))
        return self._folder_of(state.best_step) if has_best and state.best_step is not None else None

    def latest_step(self) -> int:
        """Step of the newest checkpoint, 0 when there is none."""
        folders = self.list()
        return _step_of(folders[-1]) if folders else 0

    def list(self) -> list[Path]:
        """Step folders, oldest first."""
        named = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted((folder for folder in named if folder.name.removeprefix("step-").isdigit()), key=_step_of)

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _good(self, folders: Sequence[Path]) -> Path | None:
        """The last one that is whole. Those after it are set aside."""
        for folder in reversed(folders):
            problem = damage(folder)
            if problem is None:
                return folder
            self._set_aside(folder, problem)
        return None

    def _set_aside(self, folder: Path, problem: str) -> None:
        aside, number = folder.with_name(f"damaged-{folder.name}"), 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"damaged-{folder.name}-{number}")
        with disk_errors(folder):
            folder.rename(aside)
        self.messages.append(f"checkpoint {folder.name} is damaged ({problem}): kept as {aside.name}, not used")

    def _found(self, folders: Sequence[Path]) -> dict[str, Any] | None:
        """The newest good one's state, as it is to be resumed."""
        folder = self._good(folders)
        if folder is None:
            return None
        content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state = TrainingState(**content["state"])
        if state.best_step is not None and not self._has_best(state):
            self.messages.append(
                f"the best checkpoint (step {state.best_step}) is lost: the best step from here on takes its place"
            )
            state.best_loss = state.best_step = None
        return asdict(state)

    def _has_best(self, state: TrainingState) -> bool:
        return state.best_step is not None and damage(self._folder_of(state.best_step)) is None

    def _load(
        self, found: dict[str, Any] | None, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> TrainingState | None:
        if found is None:
            return None
        state = TrainingState(**found)
        folder = self._folder_of(state.step)
        load_weights(model, folder, self.processes)
        _load_optimizer(model, optimizer, load_file(folder / "optimizer.safetensors"), self.processes)
        return state

    def _check_identity(self) -> None:
        for folder in reversed(self.list()):
            try:
                content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                stored = content["identity"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # damaged: `restore` sets it aside
            different = list(_differences(stored, self.identity))
            lasting = [difference for difference in different if difference.startswith(_LASTING)]
            if lasting and self.allow_drift:
                raise SettingsError(
                    f"{folder} cannot be resumed with another optimizer, to which its state says nothing:",
                    problems=tuple(lasting),
                    fix="restore it, or start a new run",
                )
            if different and not self.allow_drift:
                raise SettingsError(
                    f"{folder} cannot be resumed: it belongs to other data, settings or versions:",
                    problems=tuple(different),
                    fix="restore them, start a new run, or accept the differences with --allow-drift",
                )
            notes = [f"resuming although {difference}" for difference in different]
            self.messages += [note for note in notes if note not in self.messages]
            return

    def _check_shapes(self, trained: Mapping[str, torch.Tensor]) -> None:
        expected = {name: tuple(tensor.shape) for name, tensor in trained.items()}
        for folder in reversed(self.list()):
            try:
                with safe_open(folder / "weights.safetensors", framework="pt") as file:
                    stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a dict
            except (OSError, SafetensorError):
                continue  # damaged: `restore` sets it aside
            unlike = sorted(name for name, _ in stored.items() ^ expected.items())
            if unlike:
                was, now = (shapes.get(unlike[0], "nothing") for shapes in (stored, expected))
                raise SettingsError(
                    f"the weights in {folder} do not fit the model that is to be trained",
                    cause=f"{unlike[0]} was {was}, is {now}",
                    fix="restore the method and the model that the run was started with, or start a new run",
                )
            return

    def _prune(self, newest: Path, state: TrainingState) -> None:
        """Delete all but the newest `keep`, the best and the anchor, once the newest is known to be good."""
        needed = {newest, *(self._folder_of(step) for step in (state.best_step, state.anchor) if step is not None)}
        old = [folder for folder in self.list()[: -self.keep] if folder not in needed]
        problem = damage(newest) if old else None
        if problem is not None:
            self._set_aside(newest, problem)
            raise ResourceError(
                f"the checkpoint {newest} did not read back as it was written",
                cause=problem,
                fix="check the disk, or choose another with --output-dir; the older ones are kept",
            )
        for folder in old:
            remove_folder(folder)


def checkpoint_bytes(model: nn.Module) -> int:
    """Size of one checkpoint: the trainable weights, and AdamW's two moments of each in the same format."""
    return 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def trainable_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name, on the CPU."""
    return ALONE.whole(_trainable(model))


def load_weights(model: nn.Module, folder: Path, processes: Processes = ALONE) -> None:
    """Copy a checkpoint's weights into the model's trainable parameters, in place."""
    stored = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(processes.like(parameter, stored[name].to(parameter.device)))


def _trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state keyed `<what>/<parameter>`, e.g. `exp_avg/model.layers.0...`. A Python integer is int64 without
    dimensions."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensor = torch.as_tensor(value)
            # bitsandbytes shares its quantisation tables among all parameters, which safetensors does not
            tensors[f"{key}/{name}"] = tensor.clone() if key.startswith("qmap") else tensor
    return tensors


def _load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], processes: Processes
) -> None:
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        what, name = key.split("/", 1)
        parameter = parameters[name]
        if value.dtype == torch.int64:
            optimizer.state[parameter][what] = int(value)
            continue
        # AdamW keeps its step counter in float32 wherever the moments live; fused kernels want it on their device
        device = parameter.device if what != "step" or parameter.is_cuda else torch.device("cpu")
        optimizer.state[parameter][what] = processes.like(parameter, value.to(device))


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None. Every byte is read: a flipped bit counts."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        for name in _FILES:
            if file_sha256(folder / name) != hashes[name]:
                return f"{name} does not match its SHA-256"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _differences(stored: object, current: object, name: str = "") -> Iterator[str]:
    """`train.epochs was 3, is 5` for every leaf of two nested mappings that is not the same."""
    if isinstance(stored, Mapping) and isinstance(current, Mapping):
        for key in [*current, *(key for key in stored if key not in current)]:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(stored.get(key, OF_OLDER_RUNS.get(inner)), current.get(key), inner)
    elif stored != current:
        yield f"{name} was {json.dumps(stored)}, is {json.dumps(current)}"


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
