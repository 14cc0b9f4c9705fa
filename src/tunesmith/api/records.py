"""Where answers are kept: a file for each model, template, settings and seed that they depend on.

The replies of a judge depend on what it is asked alone, which is in the key of each: one file for each judge.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from tunesmith.api.session import Session
from tunesmith.config import RunConfig
from tunesmith.evaluate import AnswerLog, Tools
from tunesmith.runs import Run


def answers_file(folder: Path, name: str, config: RunConfig, session: Session | None) -> Path:
    """The file under `folder` for the answers of a model.

    Args:
        name: of the model; its file begins with it. config: how answers are written.
        session: of a model of this machine; None for one behind an address.
    """
    depends_on: list[object] = [name, config.generate.model_dump(), config.seed]
    if session is not None:
        place = Path(session.loaded.path)
        # Size and time of the weights, not their content: to read them all would take longer than many an evaluation.
        files = sorted(place.glob("*.safetensors")) if place.is_dir() else []
        depends_on += [session.loaded.revision, session.loaded.tokenizer.chat_template, str(session.loaded.dtype)]
        depends_on += [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{file_name(name)}-{digest}.jsonl"


def file_folder(run: Run, data: str) -> Path:
    """Where what a run makes of a file of the user is kept."""
    return run.eval_dir / "files" / file_name(Path(data).name)


def tools_of(config: RunConfig, folder: Path, on_progress: Callable[[int, int], None]) -> Tools:
    """What scores need besides rows; the replies of a judge are kept under `folder`.

    Raises:
        SettingsError: `eval.judge` is no address, or a check is wrong.
    """
    judge = config.eval.judge
    log = None if judge is None else AnswerLog(folder / f"judge-{file_name(judge)}.jsonl")
    return Tools.of(config.eval, log=log, on_progress=on_progress)


def file_name(text: str) -> str:
    """A text made fit for the name of a file."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-") or "unnamed"
