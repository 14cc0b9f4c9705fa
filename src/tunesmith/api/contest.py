"""Several models on the same questions: opened one after the other, asked, and held against the first."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.api.asking import Answered, Asked, ask_model
from tunesmith.api.held_out import held_out_examples, reading_settings, rows_of_file
from tunesmith.api.leaks import find_leaks
from tunesmith.api.models import BASE, check_names, first_run, judge_findings, opening, run_of, unsent_settings
from tunesmith.api.records import file_folder, file_name, tools_of
from tunesmith.config import RunConfig, load_config
from tunesmith.data import prepare_rows
from tunesmith.errors import SettingsError
from tunesmith.evaluate import (
    Answer,
    Case,
    Contest,
    PageTable,
    Rows,
    Selection,
    Tools,
    ask_judge,
    hold,
    judge_lines,
    knowable,
    measure,
    read_cases,
    report_html,
    score_all,
    select,
)
from tunesmith.generate import Endpoint
from tunesmith.runs import Run, atomic_write
from tunesmith.types import Example, Finding, Message, Progress

COMPARISONS = Path("comparisons")
_LABELS_NAMED = 5  # in one sentence


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

    Of plain text, which asks nothing, it is measured how likely each model finds it.

    Args:
        references: the models, two at least.
        questions: a file of cases (YAML, JSON or JSONL). data: a file of rows, as `tunesmith train` reads it. Without
            either: the test rows of the first run among the references.
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
    to_all = Asked(asked.examples, asked.labels, config, opening(overrides), run)
    selection = (
        _selected_of_texts(config, asked, references) if to_all.is_text else _selected(config, asked, references)
    )
    found = {
        reference: ask_model(reference, to_all, folder / "answers", partial(on_progress, reference))
        for reference in references
    }
    contest = _held(to_all, selection, found, tools)
    tested = found[references[-1]].answers
    if asked.cases:
        ask_judge(asked.cases, [answer.text for answer in tested], tools)
    cases = [_checked(case, answer) for case, answer in zip(asked.cases, tested, strict=False)]
    findings = (
        *_strangers(references, run, asked),
        *_other_labels(references, run, asked),
        *(_trained_on(references, config, asked, data) if data is not None else ()),
        *unsent_settings(references, config.generate),
        *judge_findings(tools),
    )
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
    """`compare` of the base and a run on a file of cases, kept in the run under eval/files/<its name>/.

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
        return _Questions(_askable(rows), [], data, labels=labels)
    if run is None:
        raise SettingsError(
            "there are no questions: none of the models is a run with test rows of its own",
            fix="give --questions FILE.yaml or --data FILE",
        )
    rows = _askable(held_out_examples(run, config))
    return _Questions(rows, [], f"test rows of {run.name}", of_run=True, labels=labels)


def _askable(rows: Sequence[Example]) -> list[Example]:
    """The questions among the rows; where there are none, the texts."""
    return [row for row in rows if row.text is None] or list(rows)


def _selected_of_texts(config: RunConfig, asked: _Questions, references: Sequence[str]) -> Selection:
    """The scores of plain text. Bits per byte decide: the models may have different vocabularies.

    Raises:
        SettingsError: told before a model is asked; one is behind an address.
    """
    if servers := [name for name in references if Endpoint.parse(name) is not None]:
        raise SettingsError(
            f"{asked.source} is plain text, and how likely {servers[0]} finds it cannot be asked for",
            fix="name models of this machine, or give questions: --questions FILE.yaml",
        )
    found = select(config.eval, asked.examples, can={"likelihood"})
    return found if config.eval.metrics[0] != "auto" else replace(found, deciding="bits_per_byte")


def _selected(config: RunConfig, asked: _Questions, references: Sequence[str]) -> Selection:
    """The scores.

    Raises:
        SettingsError, DataError: told before a model is asked.
    """
    can = knowable(asked.examples, models=len(references), is_written=not asked.labels)
    return select(config.eval, asked.examples, can=can, is_labels=bool(asked.labels), names=[Path(asked.source).stem])


def _held(asked: Asked, selection: Selection, found: Mapping[str, Answered], tools: Tools) -> Contest:
    """The models held against the first, by their answers, or by how likely they find the texts."""
    answers = {name: one.answers for name, one in found.items()}
    how: dict[str, Any] = {"deciding": selection.deciding, "seed": asked.config.seed}
    if asked.is_text:
        scores = {name: measure(selection.names, Rows(nll=np.array(one.nll))) for name, one in found.items()}
        contest = hold([], answers, scores=scores, **how)
    else:
        scores, said = score_all(selection, asked.examples, answers, labels=asked.labels, tools=tools)
        contest = hold(asked.examples, answers, scores=scores, said=said, is_labels=bool(asked.labels), **how)
    return replace(contest, memory_bytes={name: one.weight_bytes for name, one in found.items() if one.weight_bytes})


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


def _other_labels(references: Sequence[str], first: Run | None, asked: _Questions) -> Iterator[Finding]:
    """Runs that were trained to choose among other labels than those of the first run, which all are given here."""
    if first is None or not asked.labels:
        return
    given = set(asked.labels)
    for run in filter(None, map(run_of, references)):
        own = set(run.manifest["data"].get("labels", {}))
        if own and own != given:
            parts = [(f"{first.name} alone", given - own), (f"{run.name} alone", own - given)]
            which = "; ".join(f"of {who} {_shown(labels)}" for who, labels in parts if labels)
            message = f"{run.name} chooses among the labels of {first.name} here, and was trained on others: {which}"
            yield Finding("warning", "other_labels", message, fix="compare runs that were trained on the same labels")


def _shown(labels: Collection[str]) -> str:
    names = [f'"{label}"' for label in sorted(labels)]
    more = f" and {len(names) - _LABELS_NAMED} more" if len(names) > _LABELS_NAMED else ""
    return ", ".join(names[:_LABELS_NAMED]) + more


def _trained_on(references: Sequence[str], config: RunConfig, asked: _Questions, data: str) -> Iterator[Finding]:
    """Runs that have seen rows of the file: their answers to these prove nothing."""
    runs = {run.path.absolute(): run for run in map(run_of, references) if run is not None}
    for run in runs.values():
        report = find_leaks(run, config, asked.examples, source=data)
        if report.unchecked:
            message = f"whether {run.name} was trained on these rows is not known: {report.unchecked}"
            yield Finding("warning", "not_checked", message, fix="compare on rows that it cannot have seen")
        elif report.leaks:
            message = f"{run.name} was trained or chosen on {len(report.leaks)} of these {len(asked.examples)} rows, "
            message += "the same or nearly"
            yield Finding("warning", "trained_on", message, fix=f"tunesmith eval {run.name} --data {data} names them")


def _division(run: Run) -> tuple[object, ...]:
    settings = run.settings
    return run.manifest["data"]["sha256"], settings.get("seed"), json.dumps(settings["data"].get("split"))


def _write(result: Compared, asked: _Questions) -> None:
    contest = result.contest
    rows = [
        {
            **{key: row[key] for key in ("row", "sheet", "question", "conversation", "reference") if key in row},
            "answers": {name: answer["text"] for name, answer in row["answers"].items()},
            "scores": {name: answer.get("score") for name, answer in row["answers"].items()},
            **({"judge": judged} if (judged := judge_lines(row)) else {}),
        }
        for row in contest.rows
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    atomic_write(result.folder / "rows.jsonl", "".join(f"{line}\n" for line in lines))
    failed = [[case.question, "; ".join(case.failed), case.answer] for case in result.failed]
    note = f"{len(failed)} of {len(result.cases)} questions, of {contest.names[-1]}"
    tables = [PageTable("Failed checks", ["question", "check", "answer"], failed, note=note)] if failed else []
    texts = [("Take care", "\n".join(finding.message for finding in result.findings))] if result.findings else []
    title = " against ".join(reversed(contest.names))
    facts = [("questions", asked.source), ("scores", result.why)]
    page = report_html(contest, title=title, facts=facts, tables=tables, texts=texts)
    atomic_write(result.folder / "report.html", page)
    # last: what it says is new, everything else is
    atomic_write(result.folder / "contest.json", json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
