"""Where the answers of a model are kept: a file for each model, template, settings and seed that they depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from tunesmith.api.session import Session
from tunesmith.runs import Run


def log_path(run: Run, session: Session, who: Literal["base", "tuned"]) -> Path:
    """The file of answers of a run's model, or of its base, under eval/answers/."""
    # Size and time of the weights, not their content: to read them all would take longer than many an evaluation.
    files = [] if who == "base" else sorted(run.model_dir.glob("*.safetensors"))
    depends_on = {
        "base": run.manifest["model"]["revision"],
        "weights": [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files],
        "template": session.loaded.tokenizer.chat_template,
        "dtype": str(session.loaded.dtype),
        "generate": session.config.generate.model_dump(),
        "seed": session.config.seed,
    }
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
    return run.eval_dir / "answers" / f"{who}-{digest}.jsonl"
