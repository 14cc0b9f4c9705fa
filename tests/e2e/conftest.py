"""What the tests of whole runs share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tunesmith.train import Event


def stop_at(step: int) -> Callable[[Event], None]:
    """An observer that asks the run to stop after `step`, as Ctrl-C and `kill` do."""

    def observe(event: Event) -> None:
        if event.kind == "train" and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return observe
