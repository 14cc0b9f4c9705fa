"""`tunesmith compare`: several models on the same questions, held against the first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from xml.etree import ElementTree

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides, check_asking
from tunesmith.errors import GateFailed, SettingsError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tunesmith.api import Compared

_ROWS_SHOWN = 3
_LONGEST = 400
# what no XML document may hold: control characters and halves of surrogate pairs (XML 1.0, production 2)
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def compare(
    *models: Annotated[
        str,
        Parameter(
            help="Runs, checkpoints (RUN@STEP), bases, base (of the first run), ollama:NAME, http://HOST/v1#NAME."
        ),
    ],
    questions: Annotated[str | None, Parameter(help="YAML file of questions, answers and checks.")] = None,
    data: Annotated[str | None, Parameter(help="File or data set folder of rows to ask, as train reads it.")] = None,
    interactive: Annotated[
        bool, Parameter(help="Type questions and see the answers side by side; in a pipe, a line of JSON each.")
    ] = False,
    out: Annotated[str | None, Parameter(help="Folder of the results; without it, comparisons/<names>.")] = None,
    junit: Annotated[str | None, Parameter(help="Write the checks as JUnit XML to this file.")] = None,
    json: Json = False,
    overrides: Overrides,
) -> int:
    """Ask several models the same questions, and hold the others against the first.

    Without --questions, --data and --interactive: the test rows of the first run.
    Scores come with intervals and a verdict, which may be that there is no
    evidence of a difference. When a check of a question fails on the last model,
    the exit code is 100. Answers are kept: a second call asks only what is new. A
    judge (--eval.judge ollama:NAME) scores answers, and those without a right one
    too.

        tunesmith compare base faq
        tunesmith compare faq faq-2 --data other.csv
        tunesmith compare base faq --questions cases.yaml --junit report.xml
        tunesmith compare faq ollama:faq
        tunesmith compare base faq --interactive
    """
    from tunesmith import api
    from tunesmith.cli.progress import watch_evaluation
    from tunesmith.cli.terminal import tell

    check_asking(overrides)
    if interactive:
        _refuse_with_interactive(questions=questions, data=data, out=out, junit=junit, json=json or None)
        from tunesmith.cli.compare_live import talk

        tell(f"loading {', '.join(models)} ...")
        return talk(api.open_panel(models, {**overrides}))
    _check_junit(junit, questions)
    tell(f"comparing {', '.join(models)} ...")
    with watch_evaluation() as on_progress:
        result = api.compare(
            models,
            questions=questions,
            data=data,
            overrides={**overrides},
            folder=Path(out) if out else None,
            on_progress=on_progress,
        )
    if junit:
        _write_junit(Path(junit), result)
    present(result, json=json)
    return 0


def _refuse_with_interactive(**options: object) -> None:
    """Raises SettingsError: an option that goes with a comparison of kept answers alone."""
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise SettingsError(
            f"--interactive does not go with {', '.join(given)}",
            cause="nothing of it is kept or scored",
            fix="leave one of them out; questions can also come through a pipe: < questions.txt",
        )


def _check_junit(junit: str | None, questions: str | None) -> None:
    """Raises SettingsError: there would be nothing in the report, and a build would take that for passed."""
    if junit is not None and questions is None:
        raise SettingsError(
            "--junit writes how checks of questions went, and no questions are given",
            fix="--questions FILE.yaml, or leave --junit out",
        )


def present(result: Compared, *, json: bool) -> None:
    """Print what came of a comparison.

    Raises:
        GateFailed: the last model failed a check.
    """
    from tunesmith.cli.terminal import show, show_json, tell_findings

    if json:
        show_json(result.to_json())
    else:
        show(*_report(result))
    tell_findings(result.findings)
    if result.failed:
        tested = result.contest.names[-1]
        raise GateFailed(
            f"{len(result.failed)} of {len(result.cases)} questions failed a check on {tested}",
            cause="; ".join(f"{case.question!r}: {', '.join(case.failed)}" for case in result.failed[:3]),
            fix=f"read the answers in {result.folder / 'report.html'}",
        )


def _report(result: Compared) -> list[RenderableType]:
    from tunesmith.cli.scores import comparison_table
    from tunesmith.cli.terminal import facts

    contest = result.contest
    parts: list[RenderableType] = [""]
    for name in contest.names[1:]:
        if name in contest.matches:
            table, sides = contest.matches[name].table(), (contest.names[0], name)
            parts.append(comparison_table(table, rows=contest.row_count, sides=sides, why=result.why))
            what = "questions" if contest.rows else "texts"
            (more, most), *others = contest.counts(name).items()
            parts.append(", ".join([f"{more} on {most} {what}", *(f"{word} on {count}" for word, count in others)]))
        parts += [contest.verdict(name), ""]
    parts += [_side_by_side(result), ""] if contest.rows else []
    names = {"report": "report.html", **({"answers": "rows.jsonl"} if contest.rows else {}), "scores": "contest.json"}
    parts.append(facts([(label, str(result.folder / name)) for label, name in names.items()], title="files"))
    return parts


def _side_by_side(result: Compared) -> RenderableType:
    """The answers to all questions of a case file and how its checks went, or to the first rows of data."""
    from rich.table import Table
    from rich.text import Text

    from tunesmith.cli.scores import answer_columns, turns_before
    from tunesmith.cli.terminal import plain, shorten

    outer = Table.grid(expand=True)
    rows = result.contest.rows if result.cases else result.contest.rows[:_ROWS_SHOWN]
    for place, row in enumerate(rows):
        for line in (*turns_before(row), Text(shorten(row["question"], _LONGEST), style="bold")):
            outer.add_row(line)
        if row["reference"]:
            outer.add_row(Text("expected: ", style="dim").append(shorten(row["reference"], _LONGEST), style="not dim"))
        outer.add_row(
            answer_columns([(name, shorten(row["answers"][name]["text"], _LONGEST)) for name in result.contest.names])
        )
        if place < len(result.cases) and result.cases[place].checks:
            failed, checks = result.cases[place].failed, result.cases[place].checks
            passed = "passed its check" if checks == 1 else f"passed all of its {checks} checks"
            told = f"failed: {'; '.join(failed)}" if failed else passed
            tested = plain(result.contest.names[-1])
            outer.add_row(Text(f"{tested} {plain(told)}", style="red" if failed else "green"))
    return outer


def _write_junit(path: Path, result: Compared) -> None:
    """A test suite of the model under test, a test case for each question."""
    from tunesmith.runs import atomic_write

    tested = result.contest.names[-1]
    suite = ElementTree.Element(
        "testsuite", name=_xml_text(tested), tests=str(len(result.cases)), failures=str(len(result.failed))
    )
    for case in result.cases:
        one = ElementTree.SubElement(suite, "testcase", classname=_xml_text(tested), name=_xml_text(case.question))
        if case.failed:
            failure = ElementTree.SubElement(one, "failure", message=_xml_text("; ".join(case.failed)))
            failure.text = _xml_text(case.answer)
    atomic_write(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("", text)
