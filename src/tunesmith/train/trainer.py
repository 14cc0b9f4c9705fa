"""What fine-tuning and pre-training share: a model that is ready, on its way through the loop into its run.

Knows neither files nor methods: whoever makes the model trainable says what may not change when the run is resumed, and
what is saved in the end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tunesmith.config import RunConfig, check_config
from tunesmith.data import RowPlan, StepPlan
from tunesmith.errors import Stopped, Terminated
from tunesmith.model import accelerated, autocast, loss_scale
from tunesmith.runs import MetricsLog, Run
from tunesmith.train import resolve
from tunesmith.train.allocator import keep_freed_memory
from tunesmith.train.budget import MicroBatches
from tunesmith.train.checkpoint import Checkpoints, TrainingState
from tunesmith.train.device import Processes, joined
from tunesmith.train.ewc import Ewc
from tunesmith.train.loop import fit
from tunesmith.train.observe import Observer, log_metrics
from tunesmith.train.outcome import Likelihood, MeanNll, measured, raise_if_stopped, recorded, use_best
from tunesmith.train.signals import StopRequest, listen_for_stop
from tunesmith.train.tasks import TaskLosses
from tunesmith.types import Encoded


@dataclass(frozen=True, slots=True)
class Start:
    """How a run is started, whatever is trained in it.

    run: where it is, on all processes. is_resumed: whether it is there already. mean_nll: the validation measurement.
    observers: called with every event of the loop. allow_drift: resume although data, settings or package versions are
    not those the run was started with. processes: those that train together.
    """

    run: Run
    is_resumed: bool
    mean_nll: MeanNll
    observers: Sequence[Observer]
    allow_drift: bool
    processes: Processes


@contextmanager
def started(
    config: RunConfig,
    destination: Run | Path,
    *,
    mean_nll: MeanNll,
    observers: Sequence[Observer],
    allow_drift: bool,
) -> Iterator[Start]:
    """Inside, the processes that train a run are together.

    Args:
        destination: an existing run to resume, or the folder of a new one. The others: see `Start`.

    Raises:
        SettingsError: settings that `load_config` would refuse, or a device that is not one for several processes.
        ResourceError: there are more processes than GPUs, or, inside, another process ended.
        Stopped: a signal, before the run that is resumed went on.
    """
    check_config(config)
    keep_freed_memory()
    with joined(config.model.device, sharding=config.train.sharding) as processes:
        folder = destination.path if isinstance(destination, Run) else destination
        run = Run(Path(processes.first(lambda: str(folder))))
        is_resumed = isinstance(destination, Run)
        try:
            yield Start(run, is_resumed, mean_nll, observers, allow_drift, processes)
        except KeyboardInterrupt as error:
            if not is_resumed:
                raise  # there is no run yet
            raise Stopped(
                "stopped before it went on; nothing has changed",
                fix=f"resume with: {run.resume_command}",
                signal_number=signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT,
            ) from error


class Trainer:
    """Takes a trainable model through the loop: stopped or failed it says so in the run, resumed it goes on.

    Making one writes nothing. From then on the weights are equal on all processes, or divided among them.

    Args:
        config: with every setting resolved. plan: of the new rows. device, dtype: what is computed on and in.
        identity: what may not change when the run is resumed. penalty: what is minimised beside the loss.

    Raises:
        SettingsError, ResourceError: training cannot start here, as `Checkpoints.check` says.
    """

    def __init__(
        self,
        start: Start,
        config: RunConfig,
        model: nn.Module,
        plan: StepPlan,
        *,
        device: torch.device,
        dtype: torch.dtype,
        identity: Mapping[str, object],
        penalty: Ewc | None = None,
    ) -> None:
        self.run, self.config, self.model, self.processes = start.run, config, model, start.processes
        self.stop = StopRequest()
        self.checkpoints = Checkpoints(
            self.run.checkpoints_dir,
            identity=identity,
            keep=config.train.save_total_limit,
            allow_drift=start.allow_drift,
            processes=self.processes,
        )
        self.checkpoints.check(model)
        self.processes.start_equal(model)
        self.processes.shard(model)
        self.settings = resolve.loop_settings(
            config,
            plan,
            model,
            autocast=partial(autocast, device, dtype),
            loss_scale=loss_scale(dtype),
            processes=self.processes,
            penalty=penalty,
        )
        self._mean_nll = start.mean_nll
        self._sizes = MicroBatches(self.settings.tokens_per_batch, longest=1)
        self._validation = TaskLosses(self.measure)
        observers = [log_metrics(MetricsLog(self.run.metrics_path)), *start.observers]
        self._observers = [self._validation.told_to(each) for each in observers] if self.processes.is_first else []

    @contextmanager
    def running(self, *, begin: Callable[[], object]) -> Iterator[None]:
        """Inside, nobody else trains the run, signals ask it to stop, and the model computes as fast as is exact.

        Args:
            begin: what the first process writes and tells once nobody else trains it.

        Raises:
            Stopped, SettingsError: as `recorded` does.
        """
        compiled, native = self.config.train.compile == "on", self.config.train.native == "on"
        fast = accelerated(self.model, compiled=compiled, native=native, lanes=self.settings.lanes)
        with listen_for_stop() as self.stop, recorded(self.run, self.stop, self.processes, begin=begin), fast:
            yield

    def measure(self, rows: Sequence[Encoded]) -> Likelihood:
        """The likelihood of rows by the model as it is now.

        Raises:
            PutOff: a signal asks to stop.
        """
        self._sizes.longest = max([self._sizes.longest, *map(len, rows)])
        with self.settings.autocast():
            return measured(
                self._mean_nll,
                self.model,
                rows,
                sizes=self._sizes,
                processes=self.processes,
                put_off=lambda: self.stop.is_asked,
            )

    def fit(self, rows: Sequence[Encoded], *, plan: RowPlan, held_out: Sequence[Encoded]) -> TrainingState:
        """Train to the end, `running` around it. The model then has the best weights where those are to be kept.

        Args:
            plan: which of `rows` each step sees. held_out: what validations are made on; none without any.

        Raises:
            Stopped: a signal asked for it; the run can be resumed. TrainingError, ResourceError: as `loop.fit` does.
        """
        state = fit(
            self.model,
            rows,
            plan=plan,
            settings=self.settings,
            checkpoints=self.checkpoints,
            validate=(lambda: self._validation.mean(held_out)) if held_out else None,
            observers=self._observers,
            stop=self.stop,
        )
        raise_if_stopped(self.run, state, plan.total_steps, self.stop, self.processes)
        if self.config.train.keep_best:
            use_best(self.checkpoints, state, self.model, self._observers)
        return state
