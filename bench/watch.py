"""What a run of any trainer leaves behind: seconds, tokens and loss of every step, and the peak of its memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Watch:
    """Called at the end of every optimizer step. Steps follow each other without a gap, so data loading counts."""

    synchronize: bool = False  # CUDA computes behind the back of the clock
    clock: Callable[[], float] = time.perf_counter
    step_seconds: list[float] = field(default_factory=list)
    step_tokens: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    trainable: int = 0
    compute: str = "float32"  # the format of the matrix products, which names the ceiling
    notes: list[str] = field(default_factory=list)
    _last: float = 0.0

    def start(self) -> None:
        """Training begins: model and rows are loaded."""
        self._last = self._now()

    def step(self, tokens: int) -> None:
        """A step has ended that trained on `tokens` tokens, padding not counted."""
        now = self._now()
        self.step_seconds.append(now - self._last)
        self.step_tokens.append(tokens)
        self._last = now

    def _now(self) -> float:
        if self.synchronize:
            import torch

            torch.cuda.synchronize()
        return self.clock()


def peak_bytes() -> int:
    """The most memory that this process has had so far, with everything in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
