"""Where answers are kept: a file for each model, template, settings and seed that they depend on, and our version.

The replies of a judge depend on what it is asked alone, which is in the key of each: one file for each judge (of Ollama
for each model that had its name), and for each encoder one of the vectors of texts.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import __version__
from tunesmith.config import BUILTIN_PREFIX, RunConfig, find_builtin, quantize_of
from tunesmith.evaluate import AnswerLog, Tools, encoder_identity
from tunesmith.generate import OLLAMA, Endpoint
from tunesmith.runs import Run
from tunesmith.types import Example

if TYPE_CHECKING:
    from tunesmith.api.session import Session

_NO_RESULT = {"batch_size", "requests", "judge_timeout"}  # settings of eval that change how long it takes, nothing else
_CARD = "README.md"  # in the model's folder, but no part of it
# Where a GPU shows itself without torch: NVIDIA's and AMD's drivers on Linux, either one in WSL.
_GPUS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
_VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# Which processor and GPUs they are, on Linux: a label of a line, in the files of the system and of NVIDIA's driver.
_KINDS = (("/proc/cpuinfo", "flags"), ("/proc/driver/nvidia/gpus/*/information", "Model"))
_LONGEST_NAME_BYTES = 160  # file systems allow 255; digests and endings come on top


def answers_file(folder: Path, name: str, config: RunConfig, model: Session | Endpoint) -> Path:
    """The file under `folder` for the answers of a model.

    Of a model of Ollama that is made anew they are other answers; what another server has at an address is not known.

    Args:
        name: of the model; its file begins with it. config: how answers are written.
        model: on this machine, or behind an address.
    """
    depends_on: list[object] = [name, config.generate.model_dump(), config.seed]
    if isinstance(model, Endpoint):
        depends_on += [model.url, model.digest() if name.startswith(OLLAMA) else None]
        depends_on += [sent] if (sent := model.further(config.generate)) else []
    else:
        loaded, settings = model.loaded, model.config.model
        # Size and time of the weights, not their content: to read them all would take longer than many an evaluation.
        depends_on += [loaded.revision, loaded.tokenizer.chat_template, str(loaded.dtype), loaded.device.type]
        depends_on += [quantize_of(model.config.method.name, settings.quantize), __version__]
        depends_on += _stamps(Path(loaded.path), "*.safetensors")
    return folder / f"{file_name(name)}-{_digest(depends_on)}.jsonl"


def measured_file(folder: Path, name: str, run: Run, config: RunConfig, examples: Sequence[Example]) -> Path:
    """The file under `folder` for all that the base or the tuned model of a run makes of some rows.

    Its name is known without loading anything.

    Args:
        name: base or tuned. config: of the run, with what is overridden now.
    """
    depends_on = [
        *[name, config.generate.model_dump(), config.seed, *_of_run(run, config)],
        *[asdict(example) for example in examples],
    ]
    return folder / f"measured-{name}-{_digest(depends_on)}.json"


def answered_file(
    folder: Path, name: str, run: Run, config: RunConfig, *, asked: object, checkpoint: Path | None = None
) -> Path:
    """The file under `folder` for all answers of a run, of its base or of a checkpoint: of a comparison, or to a suite.

    Its name is known without loading anything.

    Args:
        name: of the model, and of the suite. config: of the run, with what is overridden now.
        asked: the questions, and how answers are written. checkpoint: its folder, if it is one.
    """
    weights = [] if checkpoint is None else _stamps(checkpoint)
    depends_on = [name, *_of_run(run, config), *weights, asked]
    return folder / f"answered-{file_name(name)}-{_digest(depends_on)}.json"


def _of_run(run: Run, config: RunConfig) -> list[object]:
    """What the answers of a run and of its base depend on, whatever they are asked."""
    model, manifest = config.model, run.manifest
    return [
        *[{**model.model_dump(), "device": _device(model.device), "dtype": _dtype(config)}],
        *[config.prompt.model_dump(), config.method.name],
        *[manifest.get("model", {}).get("revision"), manifest["data"].get("labels"), __version__],
        *_stamps(run.model_dir, but=_CARD),
        *_stamps(_folder_of(model.path)),
    ]


def _device(asked: str) -> object:
    """The device of the settings; of auto, all by which torch chooses one: to ask torch itself would take seconds.

    Where it changes and the device does not, a model is loaded, and its answers are in the log, which knows the device.
    """
    if asked != "auto":
        return asked
    gpus = sorted(found for pattern in _GPUS for found in glob(pattern))
    visible = [os.environ.get(name) for name in _VISIBLE_GPUS]
    return [asked, platform.system(), platform.machine(), version("torch"), gpus, visible]


def _dtype(config: RunConfig) -> object:
    """The number format of the settings; where a model is opened with auto, all by which one is chosen, as above."""
    if config.model.dtype != "auto" and not config.was_detected("model.dtype"):
        return config.model.dtype
    files = [(file, label) for pattern, label in _KINDS for file in sorted(glob(pattern))]
    return ["auto", *(_line(Path(file), label) for file, label in files)]


def _line(file: Path, label: str) -> str | None:
    """The first line that begins so."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line for line in lines if line.startswith(label)), None)


def _folder_of(model: str) -> Path:
    """Of a base on this machine; one of the hub is known by its revision."""
    return find_builtin(model) if model.startswith(BUILTIN_PREFIX) else Path(model).expanduser()


def _stamps(folder: Path, pattern: str = "*", *, but: str | None = None) -> list[object]:
    """Name, size and time of the files of a folder; none where there is no such folder."""
    found = folder.glob(pattern) if folder.is_dir() else ()
    files = sorted(path for path in found if path.is_file() and path.name != but)
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _digest(depends_on: list[object]) -> str:
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:16]


def asked_with(config: RunConfig) -> dict[str, Any]:
    """The settings that a measurement goes by, as eval/summary.json keeps them: another measurement has others."""
    return {
        "eval": config.eval.model_dump(mode="json", exclude=_NO_RESULT),
        "generate": config.generate.model_dump(mode="json"),
    }


def file_folder(run: Run, data: str) -> Path:
    """Where what a run makes of a file of the user is kept."""
    return run.eval_dir / "files" / file_name(Path(data).name)


def tools_of(config: RunConfig, folder: Path, on_progress: Callable[[int, int], None] | None = None) -> Tools:
    """What scores need besides rows; what a judge and an encoder make of texts is kept under `folder`.

    Raises:
        SettingsError: `eval.judge` is no address, or a check is wrong.
    """
    judge = config.eval.judge
    log = None if judge is None else AnswerLog(_judge_file(folder, judge))
    identity = _digest([encoder_identity(config.eval.encoder)])
    vectors = AnswerLog(folder / f"vectors-{identity}.jsonl")
    return Tools.of(config.eval, log=log, vectors=vectors, on_progress=on_progress)


def _judge_file(folder: Path, judge: str) -> Path:
    """The file for the replies of a judge: of Ollama those of the model that has the name now."""
    depends_on: list[object] = [judge]
    if (endpoint := Endpoint.parse(judge)) is not None and judge.startswith(OLLAMA):
        depends_on.append(endpoint.digest())
    return folder / f"judge-{file_name(judge)}-{_digest(depends_on)}.jsonl"


def file_name(text: str) -> str:
    """A text made fit for the name of a file; of a long one the beginning and a digest."""
    name = re.sub(r"[^\w.-]+", "-", text).strip(".-") or "unnamed"
    return name if len(name.encode()) <= _LONGEST_NAME_BYTES else f"{_beginning(name)}-{_digest([text])}"


def _beginning(name: str) -> str:
    return name.encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore")
