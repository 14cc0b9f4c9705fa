"""Several models on the same questions: opened one after the other, asked, and held against the first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.api.asking import Asked, ask_model
from tunesmith.api.held_out import Progress, held_out_examples, reading_settings, rows_of_file
from tunesmith.api.models import BASE, check_names, first_run, opening, run_of, unsent_settings
from tunesmith.api.records import file_folder, file_name, tools_of
from tunesmith.config import RunConfig, load_config
from tunesmith.data import prepare_rows
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import (
    Answer,
    Case,
    Contest,
    PageTable,
    Selection,
    Tools,
    ask_judge,
    hold,
    judge_lines,
    knowable,
    read_cases,
    report_html,
    score_all,
    select,
)
from tunesmith.runs import Run, atomic_write
from tunesmith.types import Example, Finding, Message

COMPARISONS = Path("comparisons")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case of a file and the model under test, which is the last one. `failed`: those of the checks."""

    question: str
    answer: str
    failed: tuple[str, ...]
    checks: int = 0


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of it. `folder` holds contest.json, rows.jsonl, report.html and the answers.

    cases: of a case file. why: these scores were measured.
    """

    folder: Path
    contest: Contest
    findings: tuple[Finding, ...]
    cases: tuple[CaseResult, ...] = ()
    why: str = ""

    @property
    def failed(self) -> list[CaseResult]:
        """Cases whose answer failed a check."""
        return [case for case in self.cases if case.failed]

    def to_json(self) -> dict[str, Any]:
        """What `tunesmith compare --json` prints and contest.json holds."""
        cases = [{"question": case.question, "answer": case.answer, "failed": list(case.failed)} for case in self.cases]
        return {**self.contest.to_json(), "why": self.why, **({"cases": cases} if cases else {})}


@dataclass(frozen=True, slots=True)
class _Questions:
    """What is asked. cases: of a case file, one for each example, else empty. source: for people.
    of_run: they are the test rows of the first run.
    """

    examples: list[Example]
    cases: list[Case]
    source: str
    of_run: bool = False
    labels: tuple[str, ...] = ()


def compare(
    references: Sequence[str],
    *,
    questions: str | None = None,
    data: str | None = None,
    overrides: dict[str, object] | None = None,
    folder: Path | None = None,
    on_progress: Progress = lambda who, done, total: None,
) -> Compared:
    """Ask several models the same questions and hold the others against the first.

    Args:
        references: the models, two at least.
        questions: a YAML file of cases. data: a file of rows, as `tunesmith train` reads it. Without either: the test
            rows of the first run among the references.
        overrides: settings of the writing, such as {"max_new_tokens": 64}.
        folder: where to write; unset, comparisons/<names>.
        on_progress: called with (model, answers done, answers in all).

    Raises:
        SettingsError: fewer than two models, one named twice, or nothing to ask. DataError: unusable questions.
        ResourceError: a model is not there or does not answer; what was answered before is kept.
    """
    check_names(references)
    overrides = overrides or {}
    run = first_run(references)
    config = load_config(stored=run.config_path if run else None, overrides=overrides)
    folder = folder or COMPARISONS / file_name("-vs-".join(references))
    tools = tools_of(config, folder / "answers", partial(on_progress, "the judge"))
    asked = _questions(run, config, tools, questions, data)
    answers: dict[str, list[Answer]] = {}
    memory: dict[str, int] = {}
    selection = _selected(config, asked, models=len(references))
    to_all = Asked(asked.examples, asked.labels, config, opening(overrides), run)
    for reference in references:
        found = ask_model(reference, to_all, folder / "answers", partial(on_progress, reference))
        answers[reference] = found.answers
        memory |= {reference: found.weight_bytes} if found.weight_bytes else {}
    scores, said = score_all(selection, asked.examples, answers, labels=asked.labels, tools=tools)
    contest = hold(
        asked.examples,
        answers,
        scores=scores,
        deciding=selection.deciding,
        said=said,
        is_labels=bool(asked.labels),
        seed=config.seed,
    )
    contest = replace(contest, memory_bytes=memory)
    if asked.cases:
        ask_judge(asked.cases, [answer.text for answer in answers[references[-1]]], tools)
    cases = [_checked(case, answer) for case, answer in zip(asked.cases, answers[references[-1]], strict=False)]
    findings = (*_strangers(references, run, asked), *unsent_settings(references, config.generate))
    result = Compared(folder, contest, findings, tuple(cases), why=selection.why)
    _write(result, asked)
    return result


def evaluate_cases(
    reference: str,
    questions: str,
    *,
    overrides: dict[str, object] | None = None,
    on_progress: Progress = lambda who, done, total: None,
) -> Compared:
    """`compare` of the base and a run on a YAML file of cases, kept in the run under eval/files/<its name>/.

    Raises:
        SettingsError, DataError, ResourceError: as `compare`.
    """
    run = Run.open(reference)
    return compare(
        [BASE, run.name if reference == "last" else reference],
        questions=questions,
        overrides=overrides,
        folder=file_folder(run, questions),
        on_progress=on_progress,
    )


def _questions(run: Run | None, config: RunConfig, tools: Tools, questions: str | None, data: str | None) -> _Questions:
    if questions is not None and data is not None:
        raise SettingsError("--questions and --data are both given", fix="give one of them")
    system = [Message("system", config.prompt.system)] if config.prompt.system else []
    labels = tuple(run.manifest["data"].get("labels", {})) if run is not None else ()
    if questions is not None:
        cases = read_cases(questions, tools)
        examples = [
            Example((*system, Message("user", case.question), *_reference(case)), row=number)
            for number, case in enumerate(cases, start=1)
        ]
        return _Questions(examples, cases, questions)
    if data is not None:
        if run is not None:
            rows = rows_of_file(run, config, data).test
        else:
            given = reading_settings(config, load_config())
            rows = prepare_rows(config, data, shape="auto", columns={}, given=given).test[: config.eval.max_rows]
        if not any(row.text is None for row in rows):
            raise DataError(f"{data} is plain text: it has no questions", fix="give rows with questions")
        return _Questions([row for row in rows if row.text is None], [], data, labels=labels)
    if run is None:
        raise SettingsError(
            "there are no questions: none of the models is a run with test rows of its own",
            fix="give --questions FILE.yaml or --data FILE",
        )
    rows = [row for row in held_out_examples(run, config) if row.text is None]
    if not rows:
        raise DataError(f"{run.name} is of plain text: it has no questions", fix="give --questions FILE.yaml")
    return _Questions(rows, [], f"test rows of {run.name}", of_run=True, labels=labels)


def _selected(config: RunConfig, asked: _Questions, *, models: int) -> Selection:
    """The scores.

    Raises:
        SettingsError, DataError: told before a model is asked.
    """
    can = knowable(asked.examples, models=models, is_written=not asked.labels)
    return select(config.eval, asked.examples, can=can, is_labels=bool(asked.labels), names=[Path(asked.source).stem])


def _reference(case: Case) -> list[Message]:
    return [Message("assistant", case.answer)] if case.answer is not None else []


def _checked(case: Case, answer: Answer) -> CaseResult:
    failed = tuple(failure for check in case.checks if (failure := check.failure(answer.text)) is not None)
    return CaseResult(case.question, answer.text, failed, len(case.checks))


def _strangers(references: Sequence[str], first: Run | None, asked: _Questions) -> Iterator[Finding]:
    """Runs that may have been trained on what is asked: their own division of the data is another."""
    if first is None or not asked.of_run:
        return
    own = _division(first)
    for run in filter(None, map(run_of, references)):
        if run.path.absolute() != first.path.absolute() and _division(run) != own:
            message = f"{run.name} has other data or another split: it may have been trained on these rows"
            yield Finding("warning", "other_split", message, fix="compare on rows that neither has seen: --data FILE")


def _division(run: Run) -> tuple[object, ...]:
    settings = run.settings
    return run.manifest["data"]["sha256"], settings.get("seed"), json.dumps(settings["data"].get("split"))


def _write(result: Compared, asked: _Questions) -> None:
    contest = result.contest
    rows = [
        {
            **{key: row[key] for key in ("row", "sheet", "question", "reference")},
            "answers": {name: answer["text"] for name, answer in row["answers"].items()},
            "scores": {name: answer.get("score") for name, answer in row["answers"].items()},
            **({"judge": judged} if (judged := judge_lines(row)) else {}),
        }
        for row in contest.rows
    ]
    atomic_write(result.folder / "contest.json", json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    atomic_write(result.folder / "rows.jsonl", "\n".join(lines) + "\n")
    failed = [[case.question, "; ".join(case.failed), case.answer] for case in result.failed]
    note = f"{len(failed)} of {len(result.cases)} questions, of {contest.names[-1]}"
    tables = [PageTable("Failed checks", ["question", "check", "answer"], failed, note=note)] if failed else []
    texts = [("Take care", "\n".join(finding.message for finding in result.findings))] if result.findings else []
    title = " against ".join(reversed(contest.names))
    facts = [("questions", asked.source), ("scores", result.why)]
    page = report_html(contest, title=title, facts=facts, tables=tables, texts=texts)
    atomic_write(result.folder / "report.html", page)
