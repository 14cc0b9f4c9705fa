"""`evaluate`: a run against its base, on rows that training never saw. Loads a model only for what is not on disk.

Nothing here imports torch before there is something to compute: a second call reads what the first one found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.api.held_out import ask_session, check_tuned, held_out_examples, rows_of_file
from tunesmith.api.leaks import LeakReport, find_leaks, without
from tunesmith.api.look import check_finished
from tunesmith.api.models import judge_findings
from tunesmith.api.pages import run_page
from tunesmith.api.records import (
    answered_file,
    answers_file,
    asked_with,
    file_folder,
    measured_file,
    tools_of,
)
from tunesmith.config import RunConfig, load_config
from tunesmith.data import DataReport
from tunesmith.errors import DataError
from tunesmith.evaluate import (
    PREFERENCE,
    AnswerLog,
    Bin,
    Evaluation,
    Item,
    Measured,
    MetricChange,
    SuiteAnswers,
    SuiteComparison,
    Tools,
    ask_suite,
    calibrations,
    check_names,
    compare_table,
    confusions,
    contest,
    predictions,
    read_suite,
    score,
    score_suite,
    summarise,
    wilson,
    with_preference,
)
from tunesmith.runs import CalibrationPoint, Run, atomic_write, plot_calibration, plot_confusion, read_json
from tunesmith.types import Example, Finding, Progress

if TYPE_CHECKING:
    from tunesmith.api.session import Session


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base and tuned model on the same held-out rows. `to_json()` is what `tunesmith eval --json` prints.

    leakage: test rows that the run has trained on. others: base and tuned without them, or, when `is_excluding` says
    that base and tuned are without them, with them; None where there are none, or nothing else. suites: see
    `eval.suites`. asked_with: settings of eval and generate. folder: of its files. data: the file of the user that was
    asked, and `asked`, what was read of it; None for the run's own test rows. findings: what a judge was asked without.
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
    asked_with: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

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
        summary["asked_with"] = self.asked_with
        summary["leakage"] = self.leakage.to_json()
        if self.others:
            summary["with_leaked" if self.is_excluding else "without_leaked"] = summarise(*self.others)
        if self.asked:
            summary["data"] = self.asked.to_json()
        if self.suites:
            summary["suites"] = {suite.name: suite.to_json() for suite in self.suites}
        return summary


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
        SettingsError: a score of `eval.metrics` is unknown or needs what is not there, or the run was pre-trained.
        ResourceError: a judge does not answer; what it has said, and all answers, are kept.
    """
    run = Run.open(reference)
    check_finished(run)
    check_tuned(run)
    config = load_config(stored=run.config_path, overrides=overrides)
    check_names(config.eval.metrics)  # before anything is read
    kept = run.eval_dir / "answers"
    tools = tools_of(config, kept, partial(on_progress, "the judge"))
    suites = [(path, title, read_suite(path)) for path, title in _suite_titles(config.eval.suites).items()]
    given = None if data is None else rows_of_file(run, config, data)
    examples = held_out_examples(run, config) if given is None else given.test
    leakage = find_leaks(run, config, examples, source=data)
    model = _Model(run, config, overrides or {}, on_progress)
    base, tuned = (
        score(model.measured(who, examples), examples, config=config, labels=model.labels, tools=tools)
        for who in ("base", "tuned")
    )
    if PREFERENCE in config.eval.metrics and tools.judge is not None:
        base, tuned = with_preference(base, tuned, tools.judge)
    folder = run.eval_dir if data is None else file_folder(run, data)
    report = given.report if given else None
    comparison = Comparison(run, base, tuned, leakage, folder, data, report, asked_with=asked_with(config))
    lines = [json.dumps(row, ensure_ascii=False) for row in predictions(base, tuned)]  # of all rows
    if leakage.leaks:
        comparison = _with_and_without(comparison, examples, exclude=config.eval.exclude_leaked)
    comparison = replace(
        comparison, suites=tuple(model.suite(*one) for one in suites), findings=tuple(judge_findings(tools))
    )
    _write(comparison, lines, tools)
    if data is None:
        _write_card(run, config)
    return comparison


def _suite_titles(suites: Sequence[str]) -> dict[str, str]:
    """By how each of `eval.suites` was given what it is called: its file's stem, or as given where stems are shared."""
    stems = [Path(suite).stem for suite in dict.fromkeys(suites)]
    return {suite: Path(suite).stem if len(set(stems)) == len(stems) else suite for suite in suites}


class _Model:
    """The run's model and its base, loaded when there is something to ask them that is not on disk."""

    def __init__(self, run: Run, config: RunConfig, overrides: dict[str, object], on_progress: Progress) -> None:
        self.labels: dict[str, int] = run.manifest["data"].get("labels", {})
        self._run, self._config, self._overrides, self._on_progress = run, config, overrides, on_progress
        self._session: Session | None = None

    def measured(self, who: str, examples: Sequence[Example]) -> Measured:
        """What the base or the tuned model makes of the examples."""
        folder = self._run.eval_dir / "answers"
        path = measured_file(folder, who, self._run, self._config, examples)
        if found := Measured.kept(path):
            return found
        session = self._opened()
        found = ask_session(
            session,
            examples,
            base=who == "base",
            log=AnswerLog(answers_file(folder, who, self._config, session)),
            on_progress=self._on_progress,
        )
        found.keep(path)
        return found

    def suite(self, path: str, title: str, items: Sequence[Item]) -> SuiteComparison:
        """What both make of the items of one suite."""
        base, tuned = (score_suite(items, self._to_suite(who, path, items)) for who in ("base", "tuned"))
        return SuiteComparison(title, base, tuned, self._config.seed)

    def _to_suite(self, who: str, name: str, items: Sequence[Item]) -> SuiteAnswers:
        config = self._config
        asked = [[item.question, item.answer, item.wrong] for item in items]
        path = answered_file(
            self._run.eval_dir / "answers",
            f"{who}-{Path(name).stem}",
            self._run,
            config,
            asked=[config.generate.model_dump(), config.seed, asked],
        )
        if found := SuiteAnswers.kept(path):
            return found
        with self._opened().engine(base=who == "base") as engine:
            found = ask_suite(
                engine,
                items,
                settings=config.generate,
                batch_size=config.eval.batch_size,
                seed=config.seed,
                on_progress=partial(self._on_progress, f"{who}, {name}"),
            )
        found.keep(path)
        return found

    def _opened(self) -> Session:
        if self._session is None:
            from tunesmith.api.session import open_session

            self._session = open_session(str(self._run.path), self._overrides)
        return self._session


def _write(comparison: Comparison, lines: Sequence[str], tools: Tools) -> None:
    """The files of a measurement.

    lines: of predictions.jsonl, which has all rows. tools: with the judge, whose words are on the page.
    """
    folder, asked = comparison.folder, comparison.asked
    atomic_write(folder / "predictions.jsonl", "\n".join(lines) + "\n")
    summary = folder / "summary.json"
    content = json.loads(json.dumps(comparison.to_json()))
    is_new = _without_seconds(content) != _without_seconds(read_json(summary))
    pictures = _write_pictures(comparison, is_new=is_new)
    page = run_page(
        comparison.run,
        contest(comparison.base, comparison.tuned, tools),
        leakage=comparison.leakage,
        suites=comparison.suites,
        data=comparison.data,
        asked=asked.to_json() if asked else None,
        pictures=pictures,
        scores=comparison.tuned.why,
    )
    atomic_write(folder / "report.html", page)
    if is_new:  # last: what it says is new, everything else is
        atomic_write(summary, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _without_seconds(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same of the same answers; seconds are also among the scores without leaked rows."""
    return {
        name: _without_seconds(value) if isinstance(value, dict) else value
        for name, value in summary.items()
        if name != "seconds"
    }


def _write_card(run: Run, config: RunConfig) -> None:
    """The model card, where it is older than the scores that it tells."""
    card = run.model_dir / "README.md"
    if card.is_file() and card.stat().st_mtime_ns >= (run.eval_dir / "summary.json").stat().st_mtime_ns:
        return
    from tunesmith.api.facts import card_facts
    from tunesmith.export import write_card

    write_card(run.model_dir, card_facts(run, config))


def _write_pictures(comparison: Comparison, *, is_new: bool) -> list[tuple[str, Path]]:
    """Titles and pictures of labels: what was chosen for what, and how far the probabilities can be trusted.

    confusion.json is written too. Of the same scores and counts, pictures that are there are those that would be drawn.
    """
    run, report, rows = comparison.run, comparison.tuned.by_label, comparison.tuned.row_count
    if report is None:
        return []
    counts = comparison.folder / "confusion.json"
    content = json.loads(json.dumps(confusions(comparison.base, comparison.tuned)))
    folder = run.visuals_dir if comparison.data is None else comparison.folder
    confusion, calibration = folder / "confusion.png", folder / "calibration.png"
    # Labels that take each other's rows in a ring have the same scores as before.
    if is_new or content != read_json(counts) or not confusion.is_file():
        scores = f"accuracy {report.accuracy:.1%}  ·  macro F1 {report.macro_f1:.1%}"
        plot_confusion(
            confusion,
            report.labels,
            report.confusion,
            title=run.name,
            subtitle=f"tuned model, {rows:,} test rows  ·  {scores}",
        )
        atomic_write(counts, json.dumps(content, ensure_ascii=False) + "\n")  # last: then the picture is of them
    found = [("What was chosen for what", confusion)]
    of_models = calibrations(comparison.base, comparison.tuned)
    if not of_models:
        calibration.unlink(missing_ok=True)  # of an earlier call, about which summary.json says nothing now
        return found
    if is_new or not calibration.is_file():
        plot_calibration(
            calibration,
            {f"{who}, error {side.error:.1%}": [_point(one) for one in side.bins] for who, side in of_models.items()},
            title=run.name,
            subtitle=f"is a label right as often as the model is sure of it?  ·  {rows:,} test rows",
        )
    return [*found, ("How far the probabilities can be trusted", calibration)]


def _point(one: Bin) -> CalibrationPoint:
    found = wilson(one.right, one.rows)
    return CalibrationPoint(one.low, one.probability, found.value, found.low, found.high, one.rows)


def _with_and_without(comparison: Comparison, examples: Sequence[Example], *, exclude: bool) -> Comparison:
    both = [without(side, examples, comparison.leakage) for side in (comparison.base, comparison.tuned)]
    base, tuned = both
    if base is None or tuned is None:
        if exclude:
            raise DataError(
                f"every test row that was measured ({comparison.tuned.row_count}) is also in the training data",
                fix="give other rows with --data FILE, or leave out --eval.exclude_leaked",
            )
        return comparison
    if not exclude:
        return replace(comparison, others=(base, tuned))
    return replace(comparison, base=base, tuned=tuned, others=(comparison.base, comparison.tuned), is_excluding=True)
