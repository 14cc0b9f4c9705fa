"""What training says before and after: the plan, the result, and a stop that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from tunesmith.config import RunConfig, load_config
from tunesmith.data import Corpus, DataReport, EncodeReport, groups
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.runs import Run, plot_run
from tunesmith.train.budget import MemoryNeed, MicroBatches, within_memory
from tunesmith.train.checkpoint import Checkpoints, TrainingState, load_weights
from tunesmith.train.device import Processes
from tunesmith.train.observe import Event, Observer
from tunesmith.train.signals import PutOff, StopRequest
from tunesmith.types import Encoded, Finding


class Likelihood(Protocol):
    """What a validation returns: negative log-likelihood in nats, in all and per supervised token."""

    @property
    def nll(self) -> float: ...

    @property
    def mean(self) -> float: ...


class MeanNll(Protocol):
    """Measures a model on encoded rows. Passed in from above, because evaluation stands on top of training."""

    def __call__(self, model: nn.Module, encoded: Sequence[Encoded], *, tokens_per_batch: int) -> Likelihood: ...


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Of one task: its training rows, the rows that the run sees, and its share of those of all tasks."""

    task: str
    rows: int
    seen: int
    share: float

    @property
    def passes(self) -> float:
        """How often a row is seen on average."""
        return self.seen / self.rows


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about to do, for printing before it starts. `findings` are about template and tokenizer.

    tasks: what it sees of each of several data sets. memory: None where the weights are divided among processes.
    """

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
    tasks: tuple[TaskPlan, ...] = ()
    memory: MemoryNeed | None = None


@dataclass(frozen=True, slots=True)
class PretrainPlan:
    """What pre-training is about to do. tokens: of what is trained on, in one pass.

    measures_base: whether a base is measured before the first step. memory: None where the weights are divided among
    processes.
    """

    run: Run
    config: RunConfig
    corpus: Corpus
    tokens: int
    parameters: int
    steps: int
    device: str
    measures_base: bool
    findings: tuple[Finding, ...]
    memory: MemoryNeed | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run: its state after the last step and where everything is."""

    run: Run
    config: RunConfig
    state: TrainingState
    total_steps: int

    @classmethod
    def of_finished(cls, run: Run) -> TrainResult:
        """What a run that ended earlier came to, by its manifest, with the settings it had."""
        config = load_config(stored=run.config_path)
        return cls(run, config, TrainingState(**run.manifest["training"]), run.manifest["total_steps"])


@contextmanager
def recorded(run: Run, stop: StopRequest, processes: Processes, *, begin: Callable[[], object]) -> Iterator[None]:
    """The run is `running` inside; when training fails, it is `failed` and its pictures show how far it came.

    Args:
        begin: what the first process writes and tells of a run once nobody else trains it.

    Raises:
        Stopped: a second signal asked to stop at once; nothing on disk is half-written.
        SettingsError: another process trains this run; it is left as it is.
    """

    def record(status: str) -> None:
        if processes.is_first:
            run.update_manifest(status=status)

    with ExitStack() as claim:
        with processes.together():
            if processes.is_first:
                claim.enter_context(run.claimed())
        processes.first(begin)
        try:
            record("running")
            yield
        except Stopped:
            raise
        except KeyboardInterrupt as error:
            record("stopped")
            raise Stopped(
                "stopped at once; what was saved last is kept",
                fix=f"resume with: {run.resume_command}",
                signal_number=stop.signal_number,
            ) from error
        except BaseException:
            with suppress(TunesmithError):  # the disk, or a damaged log, may be what failed: that is told, not this
                record("failed")
                if processes.is_first:
                    plot_run(run)
            raise


def raise_if_stopped(run: Run, state: TrainingState, total_steps: int, stop: StopRequest, processes: Processes) -> None:
    """Record that the run waits to be resumed, and say how.

    Raises:
        Stopped: it ended before its last step, or the validation after it, without early stopping.
    """
    if state.stopped_early or (state.step == total_steps and not state.validation_pending):
        return
    saved = "everything up to there is saved" if state.step else "there was nothing to save"
    done = f"step {state.step} of {total_steps}" if state.step else "no step"
    raise stopped(run, state, f"stopped after {done}; {saved}", stop, processes)


def stopped(run: Run, state: TrainingState, message: str, stop: StopRequest, processes: Processes) -> TunesmithError:
    """Record that the run waits to be resumed. Returns the error that says so, and how, on all processes."""
    processes.first(lambda: run.update_manifest(status="stopped", step=state.step))
    number = processes.highest(stop.signal_number or 0) or None
    return processes.echo(Stopped(message, fix=f"resume with: {run.resume_command}", signal_number=number))


@dataclass(frozen=True, slots=True)
class _Summed:
    """What was measured, by all processes. `nll` in nats over `tokens` supervised tokens."""

    nll: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.nll / self.tokens


def measured(
    mean_nll: MeanNll,
    model: nn.Module,
    encoded: Sequence[Encoded],
    *,
    sizes: MicroBatches,
    processes: Processes,
    put_off: Callable[[], bool] = lambda: False,
) -> Likelihood:
    """`mean_nll` on at most `sizes.limit` tokens at once; memory that runs out here leaves the training steps alone.

    Several processes take a share of the rows each and add up what they found.

    Args:
        put_off: asked before every pass, unless the weights are divided: then nobody can make fewer than the others.

    Raises:
        PutOff: on all processes, when one was told so.
    """
    rows = [row for row in encoded if row.target_tokens] or encoded  # nothing to score at all is told below

    def measure() -> tuple[float, bool]:
        own = groups(rows, rows=processes.share([len(row) for row in rows]), tokens=sizes.limit)
        nll = 0.0
        for group, counts in processes.even(own, lambda: [0]):
            if not processes.sharded and put_off():
                return 0.0, True
            found = mean_nll(model, [rows[index] for index in group], tokens_per_batch=sizes.limit).nll
            nll += found if counts else 0.0
        return nll, False

    nll, is_put_off = within_memory(sizes, measure, halved=lambda: None, processes=processes)
    nll, told = processes.total([nll, float(is_put_off)])
    if told:
        raise PutOff
    return _Summed(nll, sum(row.target_tokens for row in encoded))


def use_best(
    checkpoints: Checkpoints, state: TrainingState, model: nn.Module, observers: Sequence[Observer] = ()
) -> None:
    """Put the weights of the best validation into the model. When they are lost, it keeps the last; observers hear."""
    best = checkpoints.best(state)
    if best is not None:
        load_weights(model, best, checkpoints.processes)
    elif state.best_step is not None:
        message = f"the best checkpoint (step {state.best_step}) is damaged: the model is that of step {state.step}"
        for observe in observers:
            observe(Event("notice", state.step, state.step, {"message": message}))
