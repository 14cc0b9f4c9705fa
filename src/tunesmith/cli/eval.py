"""`tunesmith eval`: the tuned model against its base, on rows that training never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides, check_asking
from tunesmith.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from tunesmith.api import Comparison

_ANSWERS = 3
_ROWS_NAMED = 5


def evaluate(
    run: Annotated[str, Parameter(help="A run, by name or folder (last: the newest).")],
    /,
    *,
    data: Annotated[
        str | None, Parameter(help="Measure on the rows of this file or data set folder instead of the test rows.")
    ] = None,
    questions: Annotated[
        str | None, Parameter(help="Measure on a YAML file of questions, answers and checks instead.")
    ] = None,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Measure a run against its base model on its test rows.

    The scores that suit the data, with the reason, or those of --eval.metrics, of
    both models, all rows and each task, then three answers side by side. Of labels,
    both models choose among the same ones. A judge (--eval.judge ollama:NAME) and
    checks of every answer (--eval.checks.regex PATTERN) are scores too. The run's
    eval folder and its model card keep them.
    Test rows that are also in the training data are named; --eval.exclude_leaked
    leaves them out. --suites general asks both models what they could do before.

        tunesmith eval faq
        tunesmith eval faq --data other.xlsx
        tunesmith eval faq --questions cases.yaml
        tunesmith eval faq --eval.max_rows 50 --suites general
        tunesmith eval faq --eval.metrics auto --eval.metrics semantic_similarity
        tunesmith eval last --json
    """
    from tunesmith.cli.report import next_commands
    from tunesmith.cli.terminal import show, show_json, tell_findings

    check_asking(overrides)
    if questions is not None:
        if data is not None:
            raise SettingsError("--questions and --data are both given", fix="give one of them")
        _on_questions(run, questions, overrides, json=json)
        return
    comparison = compare(run, overrides, data=data)
    tell_findings(comparison.findings)
    if json:
        show_json(comparison.to_json())
        return
    show_comparison(comparison)
    show(_files(comparison), "", next_commands(comparison.run, measured=True))


def compare(run: str, overrides: dict[str, str], *, data: str | None = None) -> Comparison:
    """Measure, with progress on standard error."""
    from tunesmith.cli.progress import watch_evaluation
    from tunesmith.cli.report import check_reference
    from tunesmith.cli.terminal import tell

    check_reference(run)
    from tunesmith import api

    if data is not None:
        api.check_data_file(data)
    tell(f"measuring {run} and its base{f' on {data}' if data else ''} ...")
    with watch_evaluation() as on_progress:
        return api.evaluate(run, data=data, overrides={**overrides}, on_progress=on_progress)


def _on_questions(run: str, questions: str, overrides: dict[str, str], *, json: bool) -> None:
    """What `tunesmith compare base RUN --questions` does, kept in the run.

    Raises:
        GateFailed: the run failed a check.
    """
    from tunesmith.cli.compare import present
    from tunesmith.cli.progress import watch_evaluation
    from tunesmith.cli.report import check_reference
    from tunesmith.cli.terminal import tell

    check_reference(run)
    tell(f"measuring {run} and its base on {questions} ...")
    from tunesmith import api

    with watch_evaluation() as on_progress:
        result = api.evaluate_cases(run, questions, overrides={**overrides}, on_progress=on_progress)
    present(result, json=json)


def _files(comparison: Comparison) -> RenderableType:
    """Where everything is: of the test rows the whole run, of another file what was made of it."""
    from tunesmith.cli.report import files
    from tunesmith.cli.terminal import facts

    if comparison.data is None:
        return files(comparison.run)
    names = (("report", "report.html"), ("answers", "predictions.jsonl"), ("scores", "summary.json"))
    return facts([(label, str(comparison.folder / name)) for label, name in names], title="files")


def _skipped(rows: Sequence[object]) -> str:
    places = ", ".join(map(str, rows[:_ROWS_NAMED])) + (", ..." if len(rows) > _ROWS_NAMED else "")
    what, row = (f"{len(rows)} test rows are", "rows") if len(rows) > 1 else ("1 test row is", "row")
    return f"{what} not among them, without question or answer or too long for the model: {row} {places}"


def show_comparison(comparison: Comparison) -> None:
    """The table, and the first answers (the first, not the best), or the scores of each label."""
    from tunesmith.cli.eval_more import show_leakage, suite_table
    from tunesmith.cli.labels import show_labels
    from tunesmith.cli.scores import answers_side_by_side, comparison_table, tasks_table
    from tunesmith.cli.terminal import hanging, show, tell

    base, tuned = comparison.base, comparison.tuned
    if comparison.asked is not None:
        tell("", hanging(comparison.asked.to_text()))
    show("", comparison_table(comparison.changes, rows=tuned.row_count, why=tuned.why), "")
    if tuned.skipped_rows:
        show(_skipped(tuned.skipped_rows), "")
    if tuned.tasks:
        show(tasks_table(base.tasks, tuned.tasks, comparison.changes, deciding=tuned.deciding), "")
    show_leakage(comparison)
    for suite in comparison.suites:
        show(suite_table(suite), "")
    if tuned.by_label is not None:
        show_labels(comparison)
        return
    pairs = list(zip(base.rows, tuned.rows, strict=True))[:_ANSWERS]
    if pairs:
        show(f"the first {len(pairs)} rows" if len(pairs) > 1 else "the first row", "")
        show(answers_side_by_side(pairs))
