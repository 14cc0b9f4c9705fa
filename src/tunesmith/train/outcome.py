"""What training says before and after: the plan, the result, and a stop that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from tunesmith.config import RunConfig
from tunesmith.data import DataReport, EncodeReport
from tunesmith.errors import Stopped
from tunesmith.runs import Run, plot_run
from tunesmith.train.checkpoint import TrainingState
from tunesmith.train.signals import StopRequest
from tunesmith.types import Encoded, Finding


class Likelihood(Protocol):
    """What a validation returns: negative log-likelihood in nats, in all and per supervised token."""

    @property
    def nll(self) -> float: ...

    @property
    def mean(self) -> float: ...


class MeanNll(Protocol):
    """Measures a model on encoded rows. Passed in from above, because evaluation stands on top of training."""

    def __call__(self, model: nn.Module, encoded: Sequence[Encoded]) -> Likelihood: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about to do, for printing before it starts. `findings` are about template and tokenizer."""

    run: Run
    config: RunConfig
    data: DataReport
    encoding: EncodeReport
    findings: tuple[Finding, ...]
    trainable: int
    parameters: int
    steps: int
    resumed_from: int
    device: str


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run: its state after the last step and where everything is."""

    run: Run
    config: RunConfig
    state: TrainingState
    total_steps: int


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """The run is `running` inside; when training fails, it is `failed` and its pictures show how far it came."""
    run.update_manifest(status="running")
    try:
        yield
    except BaseException:
        run.update_manifest(status="failed")
        plot_run(run)
        raise


def raise_if_stopped(run: Run, state: TrainingState, total_steps: int, stop: StopRequest) -> None:
    """Record that the run waits to be resumed, and say how.

    Raises:
        Stopped: it ended before its last step without early stopping.
    """
    if state.step == total_steps or state.stopped_early:
        return
    run.update_manifest(status="stopped", step=state.step)
    verb = "pretrain" if run.manifest["kind"] == "pretrain" else "train"
    raise Stopped(
        f"stopped after step {state.step} of {total_steps}; everything up to there is saved",
        fix=f"resume with: tunesmith {verb} --resume {run.path}",
        signal_number=stop.signal_number,
    )
