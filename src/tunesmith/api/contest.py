"""Several models on the same questions: opened one after the other, asked, and held against the first.

A model is named as `tunesmith chat` names it (a run, an adapter's folder, a base), as RUN@STEP for a checkpoint, `base`
for the base of the first run, or by an address: ollama:NAME, http://127.0.0.1:8080/v1#NAME.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tunesmith.api.held_out import Progress, held_out_examples
from tunesmith.api.look import is_base
from tunesmith.api.records import answers_file, file_name, tools_of
from tunesmith.api.session import Session, open_session
from tunesmith.config import RunConfig, load_config
from tunesmith.data import prepare
from tunesmith.errors import DataError, ResourceError, SettingsError
from tunesmith.evaluate import (
    Answer,
    AnswerLog,
    Case,
    Contest,
    Selection,
    Tools,
    answer_all,
    ask_all,
    hold,
    knowable,
    read_cases,
    report_html,
    score_all,
    select,
)
from tunesmith.generate import Endpoint, choose
from tunesmith.runs import Run, atomic_write
from tunesmith.types import Example, Finding, Message

BASE = "base"
COMPARISONS = Path("comparisons")
_CHECKPOINT = re.compile(r"(?P<run>.+)@(?P<step>\d+)")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case of a file and the model under test, which is the last one: the checks that its answer failed."""

    question: str
    answer: str
    failed: tuple[str, ...]


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
    _check_names(references)
    overrides = overrides or {}
    first_run = _first_run(references)
    config = load_config(stored=first_run.config_path if first_run else None, overrides=overrides)
    folder = folder or COMPARISONS / file_name("-vs-".join(references))
    tools = tools_of(config, folder / "answers", partial(on_progress, "the judge"))
    asked = _questions(first_run, config, tools, questions, data)
    answers: dict[str, list[Answer]] = {}
    selection = _selected(config, asked, models=len(references))
    for reference in references:
        tell = partial(on_progress, reference)
        answers[reference] = _answers(_resolved(reference, first_run), asked, config, folder, tell)
    scores = score_all(selection, asked.examples, answers, labels=asked.labels, tools=tools)
    contest = hold(asked.examples, answers, scores=scores, deciding=selection.deciding, seed=config.seed)
    cases = [_checked(case, answer) for case, answer in zip(asked.cases, answers[references[-1]], strict=False)]
    findings = tuple(_strangers(references, first_run, asked))
    result = Compared(folder, contest, findings, tuple(cases), why=selection.why)
    _write(result, asked)
    return result


def _check_names(references: Sequence[str]) -> None:
    if len(references) < 2:
        raise SettingsError("there is nothing to compare with", fix="tunesmith compare base RUN, or name two models")
    twice = [name for name in dict.fromkeys(references) if list(references).count(name) > 1]
    if twice:
        raise SettingsError(f"{twice[0]} is named twice", fix="name each model once")


def _first_run(references: Sequence[str]) -> Run | None:
    for reference in references:
        name = _CHECKPOINT.sub(r"\g<run>", reference)
        if reference != BASE and Endpoint.parse(reference) is None and not is_base(name) and not _is_adapter(name):
            return Run.open(name)
    return None


def _is_adapter(reference: str) -> bool:
    return (Path(reference).expanduser() / "adapter_config.json").exists()


def _resolved(reference: str, first_run: Run | None) -> str:
    if reference != BASE:
        return reference
    if first_run is None:
        raise SettingsError("base is the base of a run, and no run is named", fix="name the base itself, or a run")
    return str(first_run.manifest["model"]["path"])


def _questions(
    first_run: Run | None, config: RunConfig, tools: Tools, questions: str | None, data: str | None
) -> _Questions:
    if questions is not None and data is not None:
        raise SettingsError("--questions and --data are both given", fix="give one of them")
    system = [Message("system", config.prompt.system)] if config.prompt.system else []
    if questions is not None:
        cases = read_cases(questions, tools)
        examples = [
            Example((*system, Message("user", case.question), *_reference(case)), row=number)
            for number, case in enumerate(cases, start=1)
        ]
        return _Questions(examples, cases, questions)
    if data is not None:
        everything = {"data.path": data, "data.split.train": 1.0, "data.split.validation": 0.0, "data.split.test": 0.0}
        prepared = prepare(load_config(overrides={**everything, "prompt.system": config.prompt.system}))
        return _Questions(prepared.train[: config.eval.max_rows], [], data)
    if first_run is None:
        raise SettingsError(
            "there are no questions: none of the models is a run with test rows of its own",
            fix="give --questions FILE.yaml or --data FILE",
        )
    labels = tuple(first_run.manifest.get("data", {}).get("labels", {}))
    rows = [row for row in held_out_examples(first_run, config) if row.text is None]
    if not rows:
        raise DataError(f"{first_run.name} is of plain text: it has no questions", fix="give --questions FILE.yaml")
    return _Questions(rows, [], f"test rows of {first_run.name}", of_run=True, labels=labels)


def _selected(config: RunConfig, asked: _Questions, *, models: int) -> Selection:
    """The scores.

    Raises:
        SettingsError, DataError: told before a model is asked.
    """
    can = knowable(asked.examples, models=models, is_written=not asked.labels)
    return select(config.eval, asked.examples, can=can, is_labels=bool(asked.labels), names=[Path(asked.source).stem])


def _reference(case: Case) -> list[Message]:
    return [Message("assistant", case.answer)] if case.answer is not None else []


def _answers(
    reference: str, asked: _Questions, config: RunConfig, folder: Path, on_progress: Callable[[int, int], None]
) -> list[Answer]:
    prompts = [example.prompt for example in asked.examples]
    endpoint = Endpoint.parse(reference)
    if endpoint is not None:
        log = AnswerLog(answers_file(folder / "answers", reference, config, None))
        return ask_all(endpoint, prompts, config.generate, seed=config.seed, log=log, on_progress=on_progress)
    with _opened(reference, config) as session, session.engine() as engine:
        if asked.labels:
            choices = choose(engine, prompts, asked.labels, batch_size=config.eval.batch_size, on_progress=on_progress)
            return [Answer(choice.label, ended=True, tokens=0, seconds=0.0) for choice in choices]
        log = AnswerLog(answers_file(folder / "answers", reference, config, session))
        size = config.eval.batch_size
        return answer_all(
            engine, prompts, config.generate, seed=config.seed, batch_size=size, log=log, on_progress=on_progress
        )


@contextmanager
def _opened(reference: str, config: RunConfig) -> Iterator[Session]:
    """A model of this machine, with the weights of a checkpoint where one is named."""
    found = _CHECKPOINT.fullmatch(reference)
    at_step = found is not None and not _is_path(reference)
    session = open_session(found["run"] if found and at_step else reference, {"seed": config.seed})
    if found and at_step:
        _load_step(session, Run.open(found["run"]), int(found["step"]))
    yield session


def _is_path(reference: str) -> bool:
    """Whether a folder has this very name, @ included."""
    return Path(reference).expanduser().exists()


def _load_step(session: Session, run: Run, step: int) -> None:
    file = run.checkpoints_dir / f"step-{step:06d}" / "weights.safetensors"
    if not file.is_file():
        kept = sorted(int(path.name.removeprefix("step-")) for path in run.checkpoints_dir.glob("step-*"))
        raise ResourceError(
            f"{run.name} has no checkpoint of step {step}", fix=f"kept are: {', '.join(map(str, kept)) or 'none'}"
        )
    _, unknown = session.loaded.model.load_state_dict(load_file(file), strict=False)
    if unknown:
        raise ResourceError(
            f"the checkpoint {file.parent} does not fit the saved model of {run.name}",
            cause=f"{unknown[0]} and {len(unknown) - 1} more have another name there",
            fix="its method is saved in another form than it is trained; compare the finished run",
        )


def _checked(case: Case, answer: Answer) -> CaseResult:
    failed = tuple(failure for check in case.checks if (failure := check.failure(answer.text)) is not None)
    return CaseResult(case.question, answer.text, failed)


def _strangers(references: Sequence[str], first_run: Run | None, asked: _Questions) -> Iterator[Finding]:
    """Runs that may have been trained on what is asked: their own division of the data is another."""
    if first_run is None or not asked.of_run:
        return
    own = _division(first_run)
    for reference in references:
        name = _CHECKPOINT.sub(r"\g<run>", reference)
        if reference == BASE or Endpoint.parse(reference) or is_base(name) or _is_adapter(name):
            continue
        run = Run.open(name)
        if run.path.absolute() != first_run.path.absolute() and _division(run) != own:
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
        }
        for row in contest.rows
    ]
    atomic_write(result.folder / "contest.json", json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    atomic_write(result.folder / "rows.jsonl", "\n".join(lines) + "\n")
    failed = [f"{case.question}\n  {'; '.join(case.failed)}\n  answer: {case.answer}" for case in result.failed]
    texts = [("Failed checks", "\n\n".join(failed))] if failed else []
    texts += [("Take care", "\n".join(finding.message for finding in result.findings))] if result.findings else []
    title = " against ".join(reversed(contest.names))
    page = report_html(contest, title=title, facts=[("questions", asked.source), ("scores", result.why)], texts=texts)
    atomic_write(result.folder / "report.html", page)
