"""What one can do with Tunesmith, as functions: train, evaluate, pretrain. The CLI parses, calls and prints.

This is where the parts meet: evaluation is handed to training, and model cards are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tunesmith import train as training
from tunesmith.api.facts import card_facts
from tunesmith.api.forgetting import write_forgetting
from tunesmith.api.held_out import Progress, encoded_for, held_out_examples, measure_session, rows_of_file
from tunesmith.api.leaks import LeakReport, find_leaks, without
from tunesmith.api.pages import run_page
from tunesmith.api.records import answers_file, file_folder, tools_of
from tunesmith.api.session import Session, open_session
from tunesmith.config import RunConfig, load_config
from tunesmith.data import DataReport
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import (
    PREFERENCE,
    AnswerLog,
    Evaluation,
    Item,
    MetricChange,
    SuiteComparison,
    check_names,
    compare_table,
    confusions,
    contest,
    mean_nll,
    measure_suite,
    predictions,
    read_suite,
    summarise,
    with_preference,
)
from tunesmith.export import write_card
from tunesmith.runs import Run, atomic_write, is_writer, plot_confusion
from tunesmith.train import Observer, Plan, PretrainResult, TrainResult
from tunesmith.types import Encoded, Example

_NAMED_FILES = 3  # in the name of a run


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base and tuned model on the same held-out rows. `to_json()` is what `tunesmith eval --json` prints.

    leakage: test rows that the run has trained on. others: base and tuned without them, or, when `is_excluding` says
    that base and tuned are without them, with them; None where there are none, or nothing else. suites: see
    `eval.suites`. folder: of its files. data: the file of the user that was asked, and `asked`, what was read of it;
    None for the run's own test rows.
    """

    run: Run
    base: Evaluation
    tuned: Evaluation
    leakage: LeakReport
    folder: Path
    data: str | None = None
    asked: DataReport | None = None
    others: tuple[Evaluation, Evaluation] | None = None
    is_excluding: bool = False
    suites: tuple[SuiteComparison, ...] = ()

    @property
    def changes(self) -> list[MetricChange]:
        """What tuning changed, a line for each metric."""
        return compare_table(self.base, self.tuned)

    @property
    def other_changes(self) -> list[MetricChange]:
        """The same of `others`; empty when there are none."""
        return compare_table(*self.others) if self.others else []

    def to_json(self) -> dict[str, object]:
        summary: dict[str, object] = summarise(self.base, self.tuned)
        summary["leakage"] = self.leakage.to_json()
        if self.others:
            summary["with_leaked" if self.is_excluding else "without_leaked"] = summarise(*self.others)
        if self.asked:
            summary["data"] = self.asked.to_json()
        if self.suites:
            summary["suites"] = {suite.name: suite.to_json() for suite in self.suites}
        return summary


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
    config = with_absolute_paths(config if resume is not None else training.continued(config))
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
    return training.train_from_scratch(
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
    data: str | None = None,
    overrides: dict[str, object] | None = None,
    on_progress: Progress = lambda who, done, total: None,
) -> Comparison:
    """Measure base and tuned model on a run's test rows; write its eval/ folder and renew the model card.

    Test rows that are also in the training data are reported, and left out of the scores with `eval.exclude_leaked`;
    `eval.suites` are asked of both models besides. What was computed before is not computed again.

    Args:
        data: a file, or a data set's folder, to measure on instead. Its columns are found as those of a training file.
            What comes of it goes to eval/files/<its name>/, and the card stays about the test rows.

    Raises:
        DataError: the data file is gone or has changed since training, there are no test rows, or a task file is wrong.
        SettingsError: a score of `eval.metrics` is unknown or needs what is not there. ResourceError: a judge does not
            answer; what it has said, and all answers, are kept.
    """
    run = Run.open(reference)
    check_names(run_config(reference, overrides).eval.metrics)  # before a model is loaded
    session = open_session(reference, overrides)
    config = session.config
    kept = run.eval_dir / "answers"
    tools = tools_of(config, kept, partial(on_progress, "the judge"))
    suites = [(name, read_suite(name)) for name in config.eval.suites]
    given = None if data is None else rows_of_file(run, config, data)
    examples = held_out_examples(run, config) if given is None else given.test
    folder = run.eval_dir if data is None else file_folder(run, data)
    leakage = find_leaks(run, config, examples, source=data)
    encoded = encoded_for(session, [replace(example, row=index) for index, example in enumerate(examples)])
    base, tuned = (
        measure_session(
            session,
            examples,
            encoded,
            base=is_base,
            log=AnswerLog(answers_file(kept, "base" if is_base else "tuned", config, session)),
            tools=tools,
            on_progress=on_progress,
        )
        for is_base in (True, False)
    )
    if PREFERENCE in config.eval.metrics and tools.judge is not None:
        base, tuned = with_preference(base, tuned, tools.judge)
    comparison = Comparison(run, base, tuned, leakage, folder, data, given.report if given else None)
    lines = [json.dumps(row, ensure_ascii=False) for row in predictions(base, tuned)]  # of all rows
    if leakage.leaks:
        comparison = _with_and_without(comparison, examples, encoded, exclude=config.eval.exclude_leaked)
    found = tuple(_measure_suite(session, name, items, on_progress) for name, items in suites)
    comparison = replace(comparison, suites=found)
    _write(comparison, lines)
    if data is None:
        write_card(run.model_dir, card_facts(run, config))
    return comparison


def _write(comparison: Comparison, lines: Sequence[str]) -> None:
    """The files of a measurement. lines: of predictions.jsonl, which has all rows."""
    folder, asked = comparison.folder, comparison.asked
    atomic_write(folder / "predictions.jsonl", "\n".join(lines) + "\n")
    atomic_write(folder / "summary.json", json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n")
    confusion = _write_confusions(comparison)
    page = run_page(
        comparison.run,
        contest(comparison.base, comparison.tuned),
        leakage=comparison.leakage,
        suites=comparison.suites,
        data=comparison.data,
        asked=asked.to_json() if asked else None,
        confusion=confusion,
        scores=comparison.tuned.why,
    )
    atomic_write(folder / "report.html", page)


def _write_confusions(comparison: Comparison) -> Path:
    """confusion.json and a picture of the tuned model's, where the answers are labels. Where the picture is."""
    run, report = comparison.run, comparison.tuned.by_label
    picture = (run.visuals_dir if comparison.data is None else comparison.folder) / "confusion.png"
    if report is None:
        return picture
    content = confusions(comparison.base, comparison.tuned)
    atomic_write(comparison.folder / "confusion.json", json.dumps(content, ensure_ascii=False) + "\n")
    scores = f"accuracy {report.accuracy:.1%}  ·  macro F1 {report.macro_f1:.1%}"
    plot_confusion(
        picture,
        report.labels,
        report.confusion,
        title=run.name,
        subtitle=f"tuned model, {comparison.tuned.row_count:,} test rows  ·  {scores}",
    )
    return picture


def _with_and_without(
    comparison: Comparison, examples: Sequence[Example], encoded: Sequence[Encoded], *, exclude: bool
) -> Comparison:
    both = [without(side, examples, encoded, comparison.leakage) for side in (comparison.base, comparison.tuned)]
    base, tuned = both
    if base is None or tuned is None:
        if exclude:
            raise DataError(
                f"all {comparison.tuned.row_count} test rows are also in the training data",
                fix="give other rows with --data FILE, or leave out --eval.exclude_leaked",
            )
        return comparison
    if not exclude:
        return replace(comparison, others=(base, tuned))
    return replace(comparison, base=base, tuned=tuned, others=(comparison.base, comparison.tuned), is_excluding=True)


def _measure_suite(session: Session, name: str, items: Sequence[Item], on_progress: Progress) -> SuiteComparison:
    """Ask base and tuned the items of one suite."""
    scores = []
    for who in ("base", "tuned"):
        with session.engine(base=who == "base") as engine:
            scores.append(
                measure_suite(
                    engine,
                    items,
                    settings=session.config.generate,
                    batch_size=session.config.eval.batch_size,
                    seed=session.config.seed,
                    on_progress=lambda done, total, who=who: on_progress(f"{who}, {name}", done, total),  # type: ignore[misc]
                )
            )
    base, tuned = scores
    return SuiteComparison(Path(name).stem, base, tuned, session.config.seed)


def with_absolute_paths(config: RunConfig) -> RunConfig:
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
