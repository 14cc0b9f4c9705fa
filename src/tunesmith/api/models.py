"""How the models of a comparison are named, and opened: each name a model of this machine, or an address.

A model is named as `tunesmith chat` names it (a run, an adapter's folder, a base), as RUN@STEP for a checkpoint, `base`
for the base of the first run, or by an address: ollama:NAME, http://127.0.0.1:8080/v1#NAME.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from tunesmith.api.look import is_base
from tunesmith.api.session import Session, open_session
from tunesmith.config import RunConfig
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.generate import Endpoint
from tunesmith.runs import Run

BASE = "base"
_CHECKPOINT = re.compile(r"(?P<run>.+)@(?P<step>\d+)")


def check_names(references: Sequence[str]) -> None:
    """
    Raises:
        SettingsError: fewer than two models, or one twice.
    """
    if len(references) < 2:
        raise SettingsError("there is nothing to compare with", fix="tunesmith compare base RUN, or name two models")
    twice = [name for name in dict.fromkeys(references) if list(references).count(name) > 1]
    if twice:
        raise SettingsError(f"{twice[0]} is named twice", fix="name each model once")


def run_of(reference: str) -> Run | None:
    """The run that a name stands for, of a checkpoint too; None for a base, an adapter's folder and an address.

    Raises:
        SettingsError: it is none of all these.
    """
    name = _CHECKPOINT.sub(r"\g<run>", reference) if not _is_path(reference) else reference
    if reference == BASE or Endpoint.parse(reference) is not None or _is_adapter(name) or is_base(name):
        return None
    return Run.open(name)


def first_run(references: Sequence[str]) -> Run | None:
    """The first run that is named, whose test rows and settings the comparison goes by.

    Raises:
        SettingsError: a name stands for nothing.
    """
    runs = [run_of(reference) for reference in references]  # all, so that a misspelt one is told before any is asked
    return next((run for run in runs if run is not None), None)


def resolved(reference: str, run: Run | None) -> str:
    """The name itself; for `base`, that of the base of the run.

    Raises:
        SettingsError: it is `base`, and no run is named.
    """
    if reference != BASE:
        return reference
    if run is None:
        raise SettingsError("base is the base of a run, and no run is named", fix="name the base itself, or a run")
    return str(run.manifest["model"]["path"])


def open_model(reference: str, config: RunConfig) -> Session:
    """A model of this machine, with the weights of a checkpoint where one is named.

    Raises:
        SettingsError, ResourceError: it is not there, or not usable.
    """
    found = _CHECKPOINT.fullmatch(reference)
    if found is None or _is_path(reference):
        return open_session(reference, {"seed": config.seed})
    session = open_session(found["run"], {"seed": config.seed})
    _load_step(session, Run.open(found["run"]), int(found["step"]))
    return session


def weight_bytes(session: Session) -> int:
    """Memory of the weights that answer: those of the base and, of a tuned model, the adapter's."""
    return sum(weight.numel() * weight.element_size() for weight in session.loaded.model.parameters())


def _is_adapter(reference: str) -> bool:
    return (Path(reference).expanduser() / "adapter_config.json").exists()


def _is_path(reference: str) -> bool:
    """Whether a folder has this very name, @ included."""
    return Path(reference).expanduser().exists()


def _load_step(session: Session, run: Run, step: int) -> None:
    file = run.checkpoints_dir / f"step-{step:06d}" / "weights.safetensors"
    if not file.is_file():
        kept = sorted(int(path.name.removeprefix("step-")) for path in run.checkpoints_dir.glob("step-*"))
        raise ResourceError(
            f"{run.name} has no checkpoint of step {step}", fix=f"kept are: {', '.join(map(str, kept)) or 'none'}"
        )
    _, unknown = session.loaded.model.load_state_dict(load_file(file), strict=False)
    if unknown:
        raise ResourceError(
            f"the checkpoint {file.parent} does not fit the saved model of {run.name}",
            cause=f"{unknown[0]} and {len(unknown) - 1} more have another name there",
            fix="its method is saved in another form than it is trained; compare the finished run",
        )
