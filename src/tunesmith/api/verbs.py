"""What one can do with Tunesmith, as functions: train, evaluate, pretrain. The CLI parses, calls and prints.

This is where the parts meet: evaluation is handed to training, and model cards are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith import train as training
from tunesmith.api.facts import card_facts
from tunesmith.api.records import log_path
from tunesmith.api.session import Session, open_session
from tunesmith.config import RunConfig, load_config
from tunesmith.data import encode, prepare, spread_over_tasks
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import (
    AnswerLog,
    Evaluation,
    MetricChange,
    compare_table,
    confusions,
    contest,
    mean_nll,
    predictions,
    report_html,
    summarise,
)
from tunesmith.evaluate import evaluate as measure
from tunesmith.export import write_card
from tunesmith.runs import Run, atomic_write, is_writer, plot_confusion
from tunesmith.train import Observer, Plan, PretrainResult, TrainResult
from tunesmith.types import Encoded, Example

_NAMED_FILES = 3  # in the name of a run
Progress = Callable[[str, int, int], None]


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
) -> TrainResult:
    """Fine-tune, save and write the model card.

    Args:
        config: from `load_config`; of a run that is resumed, from `run_config`.
        resume: a run to continue, by name or folder; a finished one is returned as it is.
        allow_drift: continue although data, settings or package versions are not those the run was started with.

    Raises:
        SettingsError, DataError, ResourceError, TrainingError, Stopped: see `tunesmith.errors`.
    """
    destination = Run.open(resume) if resume is not None else new_folder(config)
    config = _with_absolute_paths(config)
    result = training.train(
        config,
        destination=destination,
        mean_nll=mean_nll,
        announce=announce,
        observers=observers,
        allow_drift=allow_drift,
    )
    if is_writer():
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
    if not config.data.has_file:
        raise SettingsError("there is no data file", fix="tunesmith train FILE, or set data.path")
    stems = [Path(path).stem for path in config.data.files]
    more = [f"and-{len(stems) - _NAMED_FILES}-more"] if len(stems) > _NAMED_FILES else []
    return Path("runs") / Run.free_name("-".join([*stems[:_NAMED_FILES], *more]))


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
    encoded, _ = encode(
        examples,
        session.template,
        session.loaded.tokenizer,
        max_length=session.context,
        train_on=config.prompt.train_on,
    )
    base = _measure(run, session, examples, encoded, base=True, on_progress=on_progress)
    tuned = _measure(run, session, examples, encoded, base=False, on_progress=on_progress)
    comparison = Comparison(run, base, tuned)
    lines = [json.dumps(row, ensure_ascii=False) for row in predictions(base, tuned)]
    run.eval_dir.mkdir(exist_ok=True)
    atomic_write(run.eval_dir / "predictions.jsonl", "\n".join(lines) + "\n")
    atomic_write(run.eval_dir / "summary.json", json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n")
    _write_confusions(comparison)
    atomic_write(run.eval_dir / "report.html", _report(comparison))
    write_card(run.model_dir, card_facts(run, config))
    return comparison


def _write_confusions(comparison: Comparison) -> None:
    """eval/confusion.json and a picture of the tuned model's, where the answers are labels."""
    run, report = comparison.run, comparison.tuned.by_label
    if report is None:
        return
    content = confusions(comparison.base, comparison.tuned)
    atomic_write(run.eval_dir / "confusion.json", json.dumps(content, ensure_ascii=False) + "\n")
    scores = f"accuracy {report.accuracy:.1%}  ·  macro F1 {report.macro_f1:.1%}"
    plot_confusion(
        run.visuals_dir / "confusion.png",
        report.labels,
        report.confusion,
        title=run.name,
        subtitle=f"tuned model, {comparison.tuned.row_count:,} test rows  ·  {scores}",
    )


def _report(comparison: Comparison) -> str:
    """eval/report.html: the scores, every answer, the curves, what was done to the data."""
    run = comparison.run
    manifest = run.manifest
    data = manifest["data"]
    pictures = [
        (title, path.read_bytes())
        for title, name in (("training", "training_curves.png"), ("what was chosen for what", "confusion.png"))
        if (path := run.visuals_dir / name).exists()
    ]
    findings = [f"{finding['level']}: {finding['message']}" for finding in data["findings"]]
    return report_html(
        contest(comparison.base, comparison.tuned),
        title=f"{run.name}: tuned against base",
        facts=[
            ("base", manifest["model"]["path"]),
            ("data", ", ".join(Path(file["path"]).name for file in data["files"])),
            ("rows", ", ".join(f"{rows} {side}" for side, rows in data["split"].items())),
            ("training", f"{manifest['training']['step']} steps, {manifest['training']['seconds']:.0f} s"),
        ],
        pictures=pictures,
        texts=[("What was noticed in the data", "\n".join(findings))] if findings else [],
    )


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local files by their full path, so that a run can be measured and loaded from any working directory."""
    for name, path in (
        ("model.path", config.model.path),
        ("data.path", config.data.path),
        ("data.validation_path", config.data.validation_path),
        ("data.test_path", config.data.test_path),
    ):
        if path is not None and Path(path).exists():
            config = config.replaced(name, _absolute(path), config.origin(name))
    if config.data.sets:
        sets = [
            one.model_copy(
                update={name: _absolute(getattr(one, name)) for name in ("path", "validation_path", "test_path")}
            )
            for one in config.data.sets
        ]
        config = config.replaced("data.sets", sets, config.origin("data.sets"))
    return config


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path is not None and Path(path).exists() else path


def held_out_examples(run: Run, config: RunConfig) -> list[Example]:
    """The rows of a run that no training step has seen, at most `eval.max_rows` of them.

    Raises:
        DataError: the file changed since training (its test rows might have been trained on), or none are left.
    """
    prepared = prepare(config)
    trained_on = run.manifest["data"]["sha256"]
    if prepared.report.sha256 != trained_on and config.data.test_path is None:
        raise DataError(
            f"{' or '.join(config.data.files)} has changed since {run.name} was trained",
            cause=f"its SHA-256 was {trained_on[:12]}, is {prepared.report.sha256[:12]}: rows trained on could be "
            "among the test rows",
            fix="restore the file, or give other rows with --data.test_path FILE",
        )
    rows = spread_over_tasks(prepared.test, config.eval.max_rows)
    if not rows:
        raise DataError(
            f"{run.name} has no test rows", fix="train with data.split.test above 0, or give --data.test_path FILE"
        )
    return rows


def _measure(
    run: Run,
    session: Session,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    *,
    base: bool,
    on_progress: Progress,
) -> Evaluation:
    who: Literal["base", "tuned"] = "base" if base else "tuned"
    with session.engine(base=base) as engine:
        return measure(
            engine,
            examples,
            encoded,
            config=session.config,
            log=AnswerLog(log_path(run, session, who)),
            on_progress=lambda done, total: on_progress(who, done, total),
            labels=session.labels,
        )
