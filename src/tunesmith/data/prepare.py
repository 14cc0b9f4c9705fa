"""One training file -> examples on three sides and a report: read, detect, build, clean, split.

Every row that is read is kept or named in the report. Knows nothing of other data sets.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunesmith.config import DataConfig, RunConfig, SplitConfig
from tunesmith.data.choices import unfold_choices
from tunesmith.data.clean import question_key
from tunesmith.data.columns import FORMS, Detection, detect_columns
from tunesmith.data.difficulty import with_difficulties
from tunesmith.data.examples import Columns, Unusable, build_example, ends_without_answer
from tunesmith.data.forms import Form, by_form
from tunesmith.data.gather import gather
from tunesmith.data.labels import alike_labels, count_labels, unseen_labels
from tunesmith.data.left_out import empty_cells
from tunesmith.data.notices import example_place, notices
from tunesmith.data.read import read
from tunesmith.data.report import DataReport, FileReport, measure, rows_text
from tunesmith.data.split import SIDES, Split, split
from tunesmith.data.table import Table, columns_of
from tunesmith.data.transpose import transpose
from tunesmith.errors import DataError
from tunesmith.types import Example, Finding, Message, Place, Record

DUPLICATE = "exact duplicate"
OVER_LIMIT = "beyond data.max_rows"
LABEL_SHAPE = "label"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples to train on, to choose the checkpoint with, to measure with; and what was done to get them."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    report: DataReport


@dataclass(slots=True)
class _Part:
    """One file on its way: `side` is data, validation or test. `dropped` holds the place of every row left out."""

    side: str
    table: Table
    detection: Detection
    rows_read: int
    examples: list[Example]
    dropped: dict[str, list[Place]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def place(self, row: Example | Record) -> Place:
        """How a row of this file is named."""
        return example_place(row, several_sheets=len(self.detection.by_sheet) > 1)

    def drop(self, reason: str, rows: Iterable[Example | Record]) -> None:
        """Account for rows that are left out."""
        places = [self.place(row) for row in rows]
        if places:
            self.dropped.setdefault(reason, []).extend(places)


def prepare_file(config: RunConfig) -> Prepared:
    """Read the training file, and the validation and test files if they are given, into clean, divided examples.

    Rows that repeat an earlier one are dropped; so are rows whose question is also in a test or validation file, which
    stays as it is. Every row of a given validation or test file is on that side; the shares of the others keep their
    ratio.

    Raises:
        DataError: a file cannot be used, or no row of it can be trained on.
        SettingsError: a setting of the data names what does not exist.
    """
    data = _load(config.data, config.data.path, "data", is_free=_is_free(config.data))
    held_out = {
        side: _load(
            _like(config.data, data, path), path, side, like=data.detection.columns, is_free=_is_free(config.data)
        )
        for side, path in (("test", config.data.test_path), ("validation", config.data.validation_path))
        if path is not None
    }
    parts = [data, *held_out.values()]
    for part in parts:
        _clean(part, drop_duplicates=config.data.drop_duplicates)
    _keep_apart(held_out, data)
    _limit(data, config.data.max_rows, config.seed)
    for part in parts:
        _refuse_empty(part)
        part.examples = [_with_system(example, config.prompt.system) for example in part.examples]
    if config.train.curriculum_column is not None:
        data.examples = with_difficulties(data.examples, data.table, config.train.curriculum_column, place=data.place)
    shares = config.data.split
    sides = split(
        data.examples,
        train=shares.train,
        validation=0 if "validation" in held_out else shares.validation,
        test=0 if "test" in held_out else shares.test,
        seed=config.seed,
        continuous=data.table.continuous,
        by_answer=data.detection.shape == LABEL_SHAPE,
    )
    given = {side: part.examples for side, part in held_out.items()}
    sides = Split(sides.train, given.get("validation", sides.validation), given.get("test", sides.test))
    labels = _check_labels(parts, sides) if data.detection.shape == LABEL_SHAPE else {}
    return Prepared(sides.train, sides.validation, sides.test, _report(parts, sides, labels, config))


def prepare_rows(
    config: RunConfig,
    path: str,
    *,
    shape: str,
    columns: Mapping[str, str],
    given: Mapping[str, object] | None = None,
) -> Prepared:
    """Read a file whose rows are all measured on and none trained on: they are on the test side.

    Args:
        config: how they are cleaned, and the system prompt. Its own files, shape and columns are not used.
        shape, columns: of the training file; where a column is missing, the columns are detected.
        given: settings of `data` that are about this file; its columns take the place of those of the training file.

    Raises:
        DataError: the file cannot be used, lacks a column that is given, or no row of it can be measured on.
    """
    own: dict[str, object] = {
        "path": path,
        "sets": [],
        "format": "auto",
        "sheet": None,
        "delimiter": None,
        "encoding": None,
    }
    split = SplitConfig(train=1, validation=0, test=0)
    how = {"shape": shape, "columns": {}, **(given or {})}
    data = config.data.model_copy(update={**own, **how, "split": split})
    is_free = _is_free(config.data) and not data.columns
    part = _load(data, path, "test", like={} if data.columns else columns, is_free=is_free)
    _clean(part, drop_duplicates=data.drop_duplicates)
    _refuse_empty(part)
    part.examples = [_with_system(example, config.prompt.system) for example in part.examples]
    report = _report([part], Split([], [], part.examples), {}, config.model_copy(update={"data": data}))
    return Prepared([], [], part.examples, report)


def _check_labels(parts: Sequence[_Part], sides: Split) -> dict[str, int]:
    """Training rows of each label. Labels that none has are told of the file that they are in.

    Raises:
        DataError: one label, or too many to be labels.
    """
    labels = count_labels(sides.train, parts[0].detection.columns)
    for finding, rows in alike_labels(parts[0].examples):
        parts[0].findings.append(replace(finding, rows=tuple(map(parts[0].place, rows))))
    part_of = {part.side: part for part in parts}
    for finding, rows in unseen_labels(labels, {side: getattr(sides, side) for side in SIDES[1:]}):
        part = part_of.get(finding.code.rpartition("_")[2], parts[0])
        part.findings.append(replace(finding, rows=tuple(map(part.place, rows))))
    return labels


def _like(config: DataConfig, data: _Part, path: str) -> DataConfig:
    """Settings to read a held-out file with, as the training file was."""
    same_format = Path(path).suffix == Path(data.table.path).suffix
    update: dict[str, object] = {
        "shape": data.detection.shape,
        "columns": {},
        "format": config.format if same_format else "auto",
        "sheet": config.sheet if same_format else None,
    }
    return config.model_copy(update=update)


def _is_free(config: DataConfig) -> bool:
    """Whether the user left it to the rows what they are."""
    return config.shape == "auto" and not config.columns


def _load(config: DataConfig, path: str | None, side: str, *, like: Columns | None = None, is_free: bool) -> _Part:
    """Read a file and build an example from each row that has one, by the form of the row where there are several.

    like: the columns of the training file, taken where this one has them all. Those of `config` it must have.
    is_free: shape and columns are not the user's choice.
    """
    table = transpose(read(config, path, side=side), config)
    forms = by_form(table) if is_free else [Form(None, table)]
    parts = []
    for form in forms:
        is_other = config.shape in FORMS and form.shape not in (None, config.shape)
        as_form = config.model_copy(update={"shape": "auto"}) if is_other else config
        parts.append(_build(as_form, form.table, side, like={} if is_other else like))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: Sequence[_Part]) -> _Part:
    """The rows of all forms of a file in their order, under the detection of the most common one."""
    main = parts[0]
    records = sorted((record for part in parts for record in part.table.records), key=lambda record: record.row)
    main.table = replace(main.table, records=tuple(records), columns=columns_of(records))
    for part in parts:
        form, of_columns = "/".join(part.detection.columns), part.detection.findings
        part.findings = [
            replace(finding, message=f"{form}: {finding.message}") if finding in of_columns else finding
            for finding in part.findings
        ]
    for part in parts[1:]:
        main.rows_read += part.rows_read
        main.findings += part.findings
        for reason, rows in part.dropped.items():
            main.dropped.setdefault(reason, []).extend(rows)
    main.examples = sorted((example for part in parts for example in part.examples), key=lambda example: example.row)
    main.detection = replace(main.detection, reason="; ".join(part.detection.reason for part in parts))
    return main


def _build(config: DataConfig, table: Table, side: str, *, like: Columns | None) -> _Part:
    """Find the columns of a table and build an example from each row that has one."""
    if like and set(like.values()) <= set(table.columns):
        config = config.model_copy(update={"columns": dict(like)})
    table = unfold_choices(gather(table, config), config)
    detection = detect_columns(table, config)
    part = _Part(side, table, detection, 0, [], findings=[*table.findings, *detection.findings])
    records = [record for record in table.records if record.sheet in detection.by_sheet]
    part.rows_read = len(records) + sum(map(len, table.unreadable.values()))
    for reason, rows in table.unreadable.items():
        part.drop(reason, (Record(row, {}) for row in rows))
    unanswered: list[Place] = []
    for record in records:
        columns = detection.by_sheet[record.sheet]
        example = build_example(record, detection.shape, columns)
        if isinstance(example, Unusable):
            part.drop(example.reason, [record])
            continue
        part.examples.append(example)
        if detection.shape in {"messages", "sharegpt"} and ends_without_answer(record, columns):
            unanswered.append(part.place(record))
    part.findings += empty_cells(detection.shape, detection.columns, table, part.dropped, rows=part.rows_read)
    if unanswered:
        part.findings.append(
            Finding(
                "note",
                "unanswered_turns",
                f"{len(unanswered)} conversations go on after the last answer; those turns were left out",
                rows=tuple(unanswered),
            )
        )
    return part


def _clean(part: _Part, *, drop_duplicates: bool) -> None:
    if drop_duplicates and part.detection.shape != "text":
        first: dict[tuple[Message, ...], Example] = {}
        for example in part.examples:
            first.setdefault(example.messages, example)
        kept = list(first.values())
        repeated = {id(example) for example in part.examples} - {id(example) for example in kept}
        part.drop(DUPLICATE, (example for example in part.examples if id(example) in repeated))
        part.examples = kept
    part.findings += notices(part.examples, several_sheets=len(part.detection.by_sheet) > 1)


def _keep_apart(held_out: dict[str, _Part], data: _Part) -> None:
    """Drop what is in the test file from the others, and what is in the validation file from the training file."""
    if not held_out:
        return
    guarded: dict[str, str] = {}
    for side, part in [*held_out.items(), ("data", data)]:
        keys = [question_key(example) for example in part.examples]
        if not part.table.continuous:
            for other in dict.fromkeys(guarded.values()):
                shared = [
                    example for key, example in zip(keys, part.examples, strict=True) if guarded.get(key) == other
                ]
                part.drop(f"question is in the {other} file", shared)
            part.examples = [example for key, example in zip(keys, part.examples, strict=True) if key not in guarded]
        guarded.update((key, side) for key in keys if key not in guarded)


def _limit(part: _Part, max_rows: int | None, seed: int) -> None:
    """Keep a sample drawn with the seed, in the order of the source; of one document, a stretch."""
    if max_rows is None or len(part.examples) <= max_rows:
        return
    rng = random.Random(seed)
    if part.table.continuous:
        start = rng.randrange(len(part.examples) - max_rows + 1)
        chosen = set(range(start, start + max_rows))
    else:
        chosen = set(rng.sample(range(len(part.examples)), max_rows))
    part.drop(OVER_LIMIT, (example for index, example in enumerate(part.examples) if index not in chosen))
    part.examples = [example for index, example in enumerate(part.examples) if index in chosen]


def _with_system(example: Example, system: str | None) -> Example:
    if not system or example.text is not None or example.system is not None:
        return example
    return replace(example, messages=(Message("system", system), *example.messages))


def _refuse_empty(part: _Part) -> None:
    """Raises DataError: no row is left."""
    if part.examples:
        return
    message = f"{part.table.path} has no row to {'train on' if part.side == 'data' else f'use for {part.side}'}"
    if not part.dropped:
        raise DataError(message, cause="there is no row below the header", fix="write the examples below it")
    reasons = "; ".join(f"{len(rows)} {reason} ({rows_text(rows)})" for reason, rows in part.dropped.items())
    settings = ", ".join(f"{name} = {column!r}" for name, column in part.detection.columns.items())
    # what may have emptied the cells, such as formulas without values
    warned = [finding for finding in part.table.findings if finding.level == "warning" and finding.fix]
    raise DataError(
        message,
        cause="; ".join([f"{part.rows_read} rows read: {reasons}", *(finding.message for finding in warned)]),
        fix="; ".join(
            [
                *(str(finding.fix) for finding in warned),
                f"fill in the missing cells, or choose other columns with data.columns (now {settings})",
            ]
        ),
    )


def _report(parts: Sequence[_Part], sides: Split, labels: dict[str, int], config: RunConfig) -> DataReport:
    main = parts[0]
    findings = [
        replace(finding, rows=tuple(_place(parts, part, row) for row in finding.rows))
        for part in parts
        for finding in part.findings
    ]
    findings += _empty_sides(sides, main.examples, config)
    dropped: dict[str, list[Place]] = {}
    for part in parts:
        for reason, rows in part.dropped.items():
            dropped.setdefault(reason, []).extend(_place(parts, part, row) for row in rows)
    kept = [(example, _place(parts, part, part.place(example))) for part in parts for example in part.examples]
    by_sheet = main.detection.by_sheet
    return DataReport(
        shape=main.detection.shape,
        columns=main.detection.columns,
        score=main.detection.score,
        reason=main.detection.reason,
        rows_read=sum(part.rows_read for part in parts),
        rows_kept=len(kept),
        dropped={reason: tuple(rows) for reason, rows in dropped.items()},
        split={side: len(getattr(sides, side)) for side in SIDES},
        files=tuple(map(_file_report, parts)),
        lengths=measure(kept),
        sheets=tuple(sheet for sheet in by_sheet if sheet is not None),
        columns_by_sheet={sheet: columns for sheet, columns in by_sheet.items() if sheet is not None},
        alternatives=main.detection.alternatives,
        findings=tuple(findings),
        labels=labels,
    )


def _file_report(part: _Part) -> FileReport:
    return FileReport(
        path=part.table.path,
        sha256=part.table.sha256,
        format=part.table.format,
        side=part.side,
        rows_read=part.rows_read,
        rows_kept=len(part.examples),
        sheets=tuple(sheet for sheet in part.detection.by_sheet if sheet is not None),
        encoding=part.table.encoding,
        delimiter=part.table.delimiter,
    )


def _place(parts: Sequence[_Part], part: _Part, name: Place) -> Place:
    """A row as its file names it, with the file in front where there are several."""
    if len(parts) == 1:
        return name
    file_names = [Path(other.table.path).name for other in parts]
    file_name = Path(part.table.path).name
    return f"{file_name if file_names.count(file_name) == 1 else part.table.path}:{name}"


def _empty_sides(sides: Split, examples: Sequence[Example], config: RunConfig) -> Iterable[Finding]:
    shares = config.data.split
    wanted = [side for side, share in (("validation", shares.validation), ("test", shares.test)) if share > 0]
    empty = [side for side in wanted if not getattr(sides, side)]
    asked = len({question_key(example) for example in examples}) if empty else 0
    for side in empty:
        if asked < len(SIDES) <= len(examples):
            message = (
                f"no row is kept for {side}: all {len(examples)} rows ask {'the same' if asked == 1 else 'one of two'}"
                f" question{'' if asked == 1 else 's'}, and rows that ask the same stay on one side"
            )
            fix = f"if another column tells them apart, set data.columns.question; or name a file: data.{side}_path"
        else:
            message, fix = f"there are too few rows to keep one for {side}", "add rows"
        yield Finding("warning", f"no_{side}", message, fix=fix)
