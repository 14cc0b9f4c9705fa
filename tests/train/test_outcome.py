"""What is left of a run that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import TrainingError
from tunesmith.runs import Run
from tunesmith.train.device import ALONE
from tunesmith.train.outcome import recorded
from tunesmith.train.signals import StopRequest


def test_what_failed_is_told_when_its_pictures_fail_too(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", config_text="seed: 1\n", manifest={"kind": "finetune"})
    run.metrics_path.write_text("no line\n{}\n")
    with pytest.raises(TrainingError, match="the loss is nan"), recorded(run, StopRequest(), ALONE, begin=lambda: None):
        raise TrainingError("the loss is nan")
    assert run.manifest["status"] == "failed"
