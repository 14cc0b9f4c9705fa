"""How the models of a comparison are named, and opened: each name a model of this machine, or an address.

A model is named as `tunesmith chat` names it (a run, an adapter's folder, a base), as RUN@STEP for a checkpoint, `base`
for the base of the first run (with the run's template, as in eval), or by an address: ollama:NAME,
http://127.0.0.1:8080/v1#NAME. Nothing here imports torch before a model is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.api.look import is_base, is_pretrained
from tunesmith.config import GenerateConfig, load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.evaluate import JUDGING, Tools
from tunesmith.generate import Endpoint
from tunesmith.runs import Run
from tunesmith.types import Finding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunesmith.api.session import Session

BASE = "base"
_OPENING = ("device", "dtype", "quantize")
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
    found = _step_of(reference)
    name = reference if found is None else found[0]
    if reference == BASE or Endpoint.parse(reference) is not None or _is_adapter(name) or is_base(name):
        return None
    return Run.open(name)


def first_run(references: Sequence[str]) -> Run | None:
    """The first run that is named, whose test rows and settings the comparison goes by.

    Raises:
        SettingsError: a name stands for nothing, or is `base` and no run is named, or one that was pre-trained.
    """
    runs = [run_of(reference) for reference in references]  # all, so that a misspelt one is told before any is asked
    found = next((run for run in runs if run is not None), None)
    if found is None and BASE in references:
        raise SettingsError("base is the base of a run, and no run is named", fix="name the base itself, or a run")
    if found is not None and BASE in references and is_pretrained(found):
        began = found.settings["pretrain"]["base"]
        raise SettingsError(
            f"{found.name} was pre-trained: it is a base itself, and has none beside it",
            cause=f"it began from {began}" if began else "it began from scratch",
            fix=f"name a model to hold it against: tunesmith compare {began or 'MODEL'} {found.name} --data FILE",
        )
    return found


def unsent_settings(references: Sequence[str], settings: GenerateConfig) -> list[Finding]:
    """Servers that write without a setting which models of this machine write with; one finding for each reason."""
    endpoints = {name: found for name in references if (found := Endpoint.parse(name)) is not None}
    refused = refused_settings(endpoints, settings)
    unsent = {name: lacking for name, endpoint in endpoints.items() if (lacking := endpoint.unsent(settings))}
    if not unsent:
        return refused
    lacking = [f"generate.{one}" for one in dict.fromkeys(one for names in unsent.values() for one in names)]
    message = (
        f"not sent, as only llama-server and vLLM are known to take it: {', '.join(lacking)} (to {', '.join(unsent)}); "
        "what is set there holds"
    )
    fix = "set it there: of Ollama as PARAMETER in the Modelfile, as tunesmith export does"
    return [Finding("warning", "setting_not_sent", message, fix), *refused]


def refused_settings(endpoints: Mapping[str, Endpoint], settings: GenerateConfig) -> list[Finding]:
    """Servers that refused a setting and were asked without it; one finding for all of them.

    Args:
        endpoints: by what they are called. settings: by which they were to write.
    """
    refused = {name: names for name, endpoint in endpoints.items() if (names := endpoint.refused(settings))}
    if not refused:
        return []
    message = "; ".join(f"{name} refuses {', '.join(names)}" for name, names in refused.items())
    fix = "its answers are written by settings of its own: take a model that obeys, if they have to be the same again"
    return [Finding("warning", "setting_refused", message, fix)]


def judge_findings(tools: Tools) -> list[Finding]:
    """What a judge was asked without, if there is one."""
    judge = tools.judge
    return [] if judge is None else refused_settings({f"the judge {judge.endpoint.model}": judge.endpoint}, JUDGING)


def opening(overrides: Mapping[str, object]) -> dict[str, object]:
    """Of the settings given now, those by which every model is opened: on which device, in which numbers."""
    given = load_config(overrides=dict(overrides))
    return {
        f"model.{name}": getattr(given.model, name) for name in _OPENING if given.origin(f"model.{name}") != "default"
    }


def open_model(reference: str, settings: Mapping[str, object]) -> Session:
    """A model of this machine, with the weights of a checkpoint where one is named.

    Args:
        settings: to change, such as the seed and those of `opening`.

    Raises:
        SettingsError, ResourceError: it is not there, or not usable.
    """
    from tunesmith.api.session import open_session

    found = _step_of(reference)
    if found is None:
        return open_session(reference, dict(settings))
    name, step = found
    session = open_session(name, dict(settings))
    _load_step(session, Run.open(name), step)
    return session


def checkpoint_folder(reference: str, run: Run) -> Path | None:
    """Where the weights of RUN@STEP are, in the run; None where no step is named."""
    found = _step_of(reference)
    return None if found is None else _step_folder(run, found[1])


def weight_bytes(model: nn.Module, *, without_adapter: bool = False) -> int:
    """Memory of the weights of a model, its adapter's included or not."""
    from peft import PeftModel, get_peft_model_state_dict

    weights = list(model.parameters())
    adapter = []
    if without_adapter and isinstance(model, PeftModel):
        adapter = list(get_peft_model_state_dict(model, save_embedding_layers=False).values())
    return _bytes_of(weights) - _bytes_of(adapter)


def _bytes_of(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _step_of(reference: str) -> tuple[str, int] | None:
    """Run and step of RUN@STEP; None of any other name."""
    found = _CHECKPOINT.fullmatch(reference)
    return None if found is None or _is_path(reference) else (found["run"], int(found["step"]))


def _is_adapter(reference: str) -> bool:
    return (Path(reference).expanduser() / "adapter_config.json").exists()


def _is_path(reference: str) -> bool:
    """Whether a folder has this very name, @ included."""
    return Path(reference).expanduser().exists()


def _step_folder(run: Run, step: int) -> Path:
    return run.checkpoints_dir / f"step-{step:06d}"


def _load_step(session: Session, run: Run, step: int) -> None:
    from safetensors.torch import load_file

    from tunesmith.train import damage

    folder = _step_folder(run, step)
    if not folder.is_dir():
        kept = sorted(int(path.name.removeprefix("step-")) for path in run.checkpoints_dir.glob("step-*"))
        raise ResourceError(
            f"{run.name} has no checkpoint of step {step}", fix=f"kept are: {', '.join(map(str, kept)) or 'none'}"
        )
    problem = damage(folder)
    if problem is not None:
        raise ResourceError(f"the checkpoint {folder} is damaged", cause=problem, fix="name another step of the run")
    _, unknown = session.loaded.model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    if unknown:
        raise ResourceError(
            f"the checkpoint {folder} does not fit the saved model of {run.name}",
            cause=f"{len(unknown)} weights have another name there, such as {unknown[0]}",
            fix="its method is saved in another form than it is trained; compare the finished run",
        )
