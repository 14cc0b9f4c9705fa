"""What one can do with Tunesmith, as functions: train, evaluate, pretrain. The CLI parses, calls and prints.

This is where the parts meet: evaluation is handed to training, and model cards are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import train as training
from tunesmith.api.facts import card_facts
from tunesmith.api.forgetting import write_forgetting
from tunesmith.api.held_out import Progress, encoded_for, held_out_examples, measure_session
from tunesmith.api.session import open_session
from tunesmith.config import RunConfig, load_config
from tunesmith.errors import SettingsError
from tunesmith.evaluate import Evaluation, MetricChange, compare_table, mean_nll, predictions, summarise
from tunesmith.export import write_card
from tunesmith.runs import Run, atomic_write, is_writer
from tunesmith.train import Observer, Plan, PretrainResult, TrainResult


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base and tuned model on the same held-out rows. `to_json()` is what `tunesmith eval --json` prints."""

    run: Run
    base: Evaluation
    tuned: Evaluation

    @property
    def changes(self) -> list[MetricChange]:
        """What tuning changed, a line for each metric."""
        return compare_table(self.base, self.tuned)

    def to_json(self) -> dict[str, object]:
        return summarise(self.base, self.tuned)


def train(
    config: RunConfig,
    *,
    resume: str | None = None,
    announce: Callable[[Plan], None] = lambda plan: None,
    observers: Sequence[Observer] = (),
    allow_drift: bool = False,
    on_progress: Progress = lambda who, done, total: None,
) -> TrainResult:
    """Fine-tune, save and write the model card; with a parent, measure what was forgotten and what was learned.

    Args:
        config: from `load_config`; of a run that is resumed, from `run_config`.
        resume: a run to continue, by name or folder; a finished one is returned as it is.
        allow_drift: continue although data, settings or package versions are not those the run was started with.
        on_progress: of the measurement: called with (what is measured, answers done, answers in all).

    Raises:
        SettingsError, DataError, ResourceError, TrainingError, Stopped: see `tunesmith.errors`.
    """
    destination = Run.open(resume) if resume is not None else new_folder(config)
    config = _with_absolute_paths(config if resume is not None else training.continued(config))
    result = training.train(
        config,
        destination=destination,
        mean_nll=mean_nll,
        announce=announce,
        observers=observers,
        allow_drift=allow_drift,
    )
    if is_writer():
        write_forgetting(result.run, result.config, on_progress=on_progress)
        write_card(result.run.model_dir, card_facts(result.run, result.config))
    return result


def pretrain(
    config: RunConfig,
    *,
    resume: str | None = None,
    observers: Sequence[Observer] = (),
    allow_drift: bool = False,
) -> PretrainResult:
    """Train tokenizer and model from scratch on the texts of `config.pretrain`; the other arguments are those of train.

    Raises:
        SettingsError, DataError, TrainingError, Stopped: see `tunesmith.errors`.
    """
    destination = Run.open(resume) if resume is not None else new_folder(config)
    return training.pretrain(
        config, destination=destination, mean_nll=mean_nll, observers=observers, allow_drift=allow_drift
    )


def run_config(reference: str, overrides: Mapping[str, object] | None = None) -> RunConfig:
    """The settings a run was made with, and whatever is overridden now."""
    return load_config(stored=Run.open(reference).config_path, overrides=overrides)


def new_folder(config: RunConfig) -> Path:
    """Where a new run goes: output_dir, or runs/<name>, or runs/<file name> with a number when that exists."""
    if config.output_dir is not None:
        return Path(config.output_dir)
    if config.name is not None:
        return Path("runs") / config.name
    if config.data.path is None:
        raise SettingsError("there is no data file", fix="tunesmith train FILE, or set data.path")
    return Path("runs") / Run.free_name(Path(config.data.path).stem)


def evaluate(
    reference: str,
    *,
    overrides: dict[str, object] | None = None,
    on_progress: Progress = lambda who, done, total: None,
) -> Comparison:
    """Measure base and tuned model on a run's test rows; write its eval/ folder and renew the model card.

    Raises:
        DataError: the data file is gone or has changed since training, or there are no test rows.
    """
    run = Run.open(reference)
    session = open_session(reference, overrides)
    config = session.config
    examples = held_out_examples(run, config)
    encoded = encoded_for(session, examples)
    base = measure_session(session, examples, encoded, base=True, on_progress=on_progress)
    tuned = measure_session(session, examples, encoded, base=False, on_progress=on_progress)
    comparison = Comparison(run, base, tuned)
    lines = [json.dumps(row, ensure_ascii=False) for row in predictions(base, tuned)]
    run.eval_dir.mkdir(exist_ok=True)
    atomic_write(run.eval_dir / "predictions.jsonl", "\n".join(lines) + "\n")
    atomic_write(run.eval_dir / "summary.json", json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n")
    write_card(run.model_dir, card_facts(run, config))
    return comparison


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local files by their full path, so that a run can be measured and loaded from any working directory."""
    for name, path in (
        ("model.path", config.model.path),
        ("data.path", config.data.path),
        ("data.validation_path", config.data.validation_path),
        ("data.test_path", config.data.test_path),
    ):
        if path is not None and Path(path).exists():
            config = config.replaced(name, str(Path(path).absolute()), config.origin(name))
    return config
