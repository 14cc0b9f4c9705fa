"""`tunesmith eval`: the tuned model against its base, on rows that training never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides

if TYPE_CHECKING:
    from tunesmith.api import Comparison

_ANSWERS = 3


def evaluate(
    run: Annotated[str, Parameter(help="A run, by name or folder (last: the newest).")],
    /,
    *,
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
        tunesmith eval faq --eval.max_rows 50
        tunesmith eval faq --tasks general --tasks mine.yaml
        tunesmith eval faq --eval.metrics auto --eval.metrics semantic_similarity
        tunesmith eval last --json
    """
    from tunesmith.cli.report import files, next_commands
    from tunesmith.cli.terminal import show, show_json

    comparison = compare(run, overrides)
    if json:
        show_json(comparison.to_json())
        return
    show_comparison(comparison)
    show(files(comparison.run), "", next_commands(comparison.run, measured=True))


def compare(run: str, overrides: dict[str, str]) -> Comparison:
    """Measure, with progress on standard error."""
    from tunesmith.cli.progress import watch_evaluation
    from tunesmith.cli.report import check_reference
    from tunesmith.cli.terminal import tell

    check_reference(run)
    tell(f"measuring {run} and its base ...")
    from tunesmith import api

    with watch_evaluation() as on_progress:
        return api.evaluate(run, overrides={**overrides}, on_progress=on_progress)


def show_comparison(comparison: Comparison) -> None:
    """The table, and the first answers (the first, not the best), or the scores of each label."""
    from tunesmith.cli.eval_more import show_leakage, suite_table
    from tunesmith.cli.labels import show_labels
    from tunesmith.cli.terminal import answers_side_by_side, comparison_table, show, tasks_table

    base, tuned = comparison.base, comparison.tuned
    show("", comparison_table(comparison.changes, rows=tuned.row_count, why=tuned.why), "")
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
        show(f"the first {len(pairs)} test rows" if len(pairs) > 1 else "the first test row", "")
        show(answers_side_by_side(pairs))
