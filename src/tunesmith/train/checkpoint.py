"""Checkpoints: trainable weights, optimizer state and counters in safetensors and JSON, whole or not at all.

    checkpoints/
      step-000050/  weights.safetensors  optimizer.safetensors  state.json  manifest.json (SHA-256 of the other three)
      LATEST  BEST  one line each, the name of a step folder

Nothing random is stored: every step seeds its own generator from (seed, step) and finds its rows the same way.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.errors import SettingsError, TrainingError
from tunesmith.runs import atomic_folder, atomic_write

_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@dataclass(slots=True)
class TrainingState:
    """Everything a run remembers besides weights and optimizer. Losses in nats per token, time in seconds."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False


class Checkpoints:
    """The checkpoints folder of one run.

    Args:
        folder: where they live; made when the first one is saved.
        identity: what must be the same when the run is resumed (data hash, seed, rows per step ...).
        keep: how many to keep. The newest and the best are kept whatever the number.
    """

    def __init__(self, folder: Path, *, identity: Mapping[str, object], keep: int) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.keep = keep
        self.messages: list[str] = []

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> Path:
        """Write `step-NNNNNN`, point LATEST (and BEST when this step is the best) at it, then drop the oldest."""
        weights = trainable_weights(model)
        bad = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
        if bad:
            raise TrainingError(
                f"{bad[0]} holds NaN or infinity after step {state.step}", fix="lower train.learning_rate"
            )
        target = self.folder / f"step-{state.step:06d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            save_file(weights, folder / "weights.safetensors")
            save_file(_optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
            content = {"state": asdict(state), "identity": self.identity}
            (folder / "state.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
            hashes = {name: _sha256(folder / name) for name in _FILES}
            (folder / "manifest.json").write_text(json.dumps({"sha256": hashes}, indent=2), encoding="utf-8")
        atomic_write(self.folder / "LATEST", target.name + "\n")
        if state.best_step == state.step:
            atomic_write(self.folder / "BEST", target.name + "\n")
        self._prune()
        return target

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
        """Load the newest good checkpoint into model and optimizer; None when there is none.

        A damaged one is renamed to `damaged-...` and the one before it is used; `messages` says so.

        Raises:
            SettingsError: the checkpoint belongs to other data or other settings.
        """
        for folder in reversed(self.list()):
            problem = _damage(folder)
            if problem:
                folder.rename(folder.with_name(f"damaged-{folder.name}"))
                self.messages.append(f"{folder.name} is damaged ({problem}): set aside, using the one before it")
                continue
            content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            self._check_identity(content["identity"], folder)
            load_weights(model, folder)
            _load_optimizer(model, optimizer, load_file(folder / "optimizer.safetensors"))
            return TrainingState(**content["state"])
        return None

    def best(self) -> Path | None:
        """Folder of the best checkpoint, if one was named and is undamaged."""
        pointer = self.folder / "BEST"
        if not pointer.exists():
            return None
        folder = self.folder / pointer.read_text(encoding="utf-8").strip()
        return folder if folder.is_dir() and not _damage(folder) else None

    def latest_step(self) -> int:
        """Step of the newest checkpoint, 0 when there is none."""
        folders = self.list()
        return int(folders[-1].name.removeprefix("step-")) if folders else 0

    def list(self) -> list[Path]:
        """Step folders, oldest first."""
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _check_identity(self, stored: Mapping[str, Any], folder: Path) -> None:
        different = [
            f"{name}: was {stored.get(name)!r}, is {value!r}"
            for name, value in self.identity.items()
            if stored.get(name) != value
        ]
        if different:
            raise SettingsError(
                f"{folder} cannot be resumed: it belongs to other data or settings",
                cause="; ".join(different),
                fix="restore them, or start a new run",
            )

    def _prune(self) -> None:
        folders = self.list()
        best = self.best()
        for folder in folders[: -self.keep]:
            if folder != best:
                shutil.rmtree(folder)


def trainable_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name, on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint's weights into the model's trainable parameters, in place."""
    stored = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(stored[name])


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state keyed `<what>/<parameter>`, e.g. `exp_avg/model.layers.0...`."""
    return {
        f"{key}/{name}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        what, name = key.split("/", 1)
        parameter = parameters[name]
        # AdamW keeps its step counter in float32 wherever the moments live; fused kernels want it on their device
        device = parameter.device if what != "step" or parameter.is_cuda else torch.device("cpu")
        optimizer.state[parameter][what] = value.to(device)


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None. Every byte is read: a flipped bit counts."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        for name in _FILES:
            if _sha256(folder / name) != hashes[name]:
                return f"{name} does not match its SHA-256"
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
