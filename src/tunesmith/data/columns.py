"""What a row is (question/answer, conversation, text ..) and which column is which part: by name, then by content.

Every shape is scored on the same evidence; the best one wins and says why in a sentence. Settings override any part.
Knows nothing of files, cleaning or training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.config import DataConfig
from tunesmith.data.alone import threads, unanswered
from tunesmith.data.examples import repeats_header
from tunesmith.data.facts import ColumnFacts, column_facts
from tunesmith.data.guess import QUESTION_SHARE, guess_parts, side_by_side
from tunesmith.data.left_out import left_out
from tunesmith.data.names import DETAILS, HEADINGS, PARTIAL_WEIGHT, name_weight, normalise_name
from tunesmith.data.table import Table, cell_text, counted
from tunesmith.data.unknown import CHAT_PARTS, chat_column, unknown_columns
from tunesmith.errors import DataError, SettingsError, did_you_mean
from tunesmith.types import Finding, Record


@dataclass(frozen=True, slots=True)
class Shape:
    """Parts that a row of this shape must have and may have; `weight` settles ties between shapes.

    `anchor` is a part that must be recognised by its name: without it, question/answer explains the same columns.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    weight: float = 1.0
    anchor: str | None = None


SHAPES: Mapping[str, Shape] = {
    "messages": Shape(("messages",), ("system", "chosen")),
    "sharegpt": Shape(("conversations",), ("system", "chosen")),
    "instruction": Shape(("instruction", "output"), ("input", "system"), anchor="instruction"),
    "qa": Shape(("question", "answer"), ("context", "system")),
    "prompt": Shape(("prompt", "completion"), ("system",), anchor="prompt"),
    "label": Shape(("text", "label"), weight=0.95),
    "text": Shape(("text",), weight=0.75),
}
FORMS = tuple(name for name in SHAPES if name not in ("label", "text"))  # of which one file may have several
_ANSWERS = ("answer", "output", "completion")
_LEAST_SCORE = 0.25
_SETTLED = 0.9  # weight from which on a name alone is enough for an optional part
_FEWEST_VALUES = 6  # from which on a column like "Topic" where none comes again holds no classes
_BY_NAME = 0.55  # a sheet that fits worse is skipped when another is surer than this


@dataclass(frozen=True, slots=True)
class Detection:
    """The shape of the rows and the column of each part.

    `score` is 1 when names settle everything, `reason` a sentence for people, `alternatives` the other shapes that
    would fit with their scores. `by_sheet` holds the columns of every sheet that is used (key None: no sheets).
    """

    shape: str
    columns: Mapping[str, str]
    score: float
    reason: str
    alternatives: Mapping[str, float] = field(default_factory=dict)
    by_sheet: Mapping[str | None, Mapping[str, str]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fit:
    """One way to read some columns. `evidence` says for each part why: "by name", "as set", or a clause."""

    shape: str
    columns: Mapping[str, str]
    score: float
    evidence: Mapping[str, str]


def detect_columns(table: Table, config: DataConfig) -> Detection:
    """Choose shape and columns of a table, sheet by sheet.

    Raises:
        SettingsError: `config.columns` has a part that no shape has.
        DataError: a column in `config.columns` is not in the table, or nothing fits.
    """
    _check_settings(table, config)
    groups = _group_by_sheet(table)
    shapes = _allowed_shapes(config)
    fits = {sheet: _fits(rows, _columns_in(table, rows), shapes, config.columns) for sheet, rows in groups.items()}
    found = {sheet: options[0] for sheet, options in fits.items() if options}
    if not found:
        raise _nothing_fits(table, config, shapes)
    main = max(found, key=lambda sheet: (found[sheet].score, len(groups[sheet])))
    best = found[main]
    if _is_guessed(best) and config.shape == "auto" and not config.columns and chat_column(table):
        raise _nothing_fits(table, config, shapes)
    used: dict[str | None, _Fit] = {}
    findings: list[Finding] = []
    for sheet, options in fits.items():
        fit = next((option for option in options if option.shape == best.shape), None)
        if fit is not None and (fit.score >= _BY_NAME or best.score < _BY_NAME):
            used[sheet] = fit
        else:
            findings.append(_skipped(sheet, len(groups[sheet]), best))
    if best.score < _BY_NAME or _answers_nothing(best, column_facts(groups[main], table.columns)):
        findings.append(_uncertain(best))
    is_told = any(finding.code == "exported_chat" for finding in table.findings)
    if config.shape == "auto" and "text" in best.columns and not is_told:
        findings += _alone(best, groups[main], _columns_in(table, groups[main]))
    used_columns = {name for fit in used.values() for name in fit.columns.values()}
    findings += left_out(best.shape, best.columns, table, used=used, used_columns=used_columns)
    rows = [record for sheet in used for record in groups[sheet]]
    return Detection(
        shape=best.shape,
        columns=best.columns,
        score=round(best.score, 3),
        reason=_reason(best, main, used, rows),
        alternatives={fit.shape: round(fit.score, 3) for fit in fits[main][1:]},
        by_sheet={sheet: fit.columns for sheet, fit in used.items()},
        findings=tuple(findings),
    )


def named_shape(records: Sequence[Record], columns: Sequence[str]) -> tuple[str, frozenset[str]] | None:
    """The shape of these rows and the columns that it needs, where names settle it; None for a label or plain text."""
    best = next(iter(_fits(records, columns, SHAPES, {})), None)
    if best is None or best.shape not in FORMS:
        return None
    parts = SHAPES[best.shape].required
    if not all(best.evidence[part].startswith("by name") for part in parts):
        return None
    return best.shape, frozenset(best.columns[part] for part in parts)


def _group_by_sheet(table: Table) -> dict[str | None, list[Record]]:
    groups: dict[str | None, list[Record]] = {}
    for record in table.records:
        groups.setdefault(record.sheet, []).append(record)
    return groups or {None: []}


def _columns_in(table: Table, records: Sequence[Record]) -> tuple[str, ...]:
    """The table's columns that occur in these records; all of them if there are no records."""
    present = {name for record in records for name in record.cells}
    return tuple(name for name in table.columns if name in present) if records else table.columns


def _check_settings(table: Table, config: DataConfig) -> None:
    shapes = {config.shape: SHAPES[config.shape]} if config.shape != "auto" else SHAPES
    parts = list(dict.fromkeys(part for shape in shapes.values() for part in (*shape.required, *shape.optional)))
    for part, column in config.columns.items():
        if part not in parts:
            of = f"shape {config.shape}" if config.shape != "auto" else "any shape"
            raise SettingsError(
                f"data.columns names {part!r}, which is no part of {of}{did_you_mean(part, parts, cutoff=0.5)}",
                fix=f"take one of: {', '.join(parts)}",
            )
        if column not in table.columns:
            raise DataError(
                f"{table.path} has no column {column!r} (data.columns.{part})"
                f"{did_you_mean(column, table.columns, cutoff=0.5)}",
                cause=f"its columns are {', '.join(map(repr, table.columns))}",
                fix=f"set data.columns.{part} to one of them",
            )


def _allowed_shapes(config: DataConfig) -> tuple[str, ...]:
    """The shape that is set, or those that have every part that `config.columns` names."""
    if config.shape != "auto":
        return (config.shape,)
    fitting = tuple(name for name, shape in SHAPES.items() if set(config.columns) <= {*shape.required, *shape.optional})
    if not fitting:
        parts = " and ".join(config.columns)
        raise SettingsError(
            f"no shape has the parts {parts} together",
            fix="; ".join(f"{name}: {', '.join((*shape.required, *shape.optional))}" for name, shape in SHAPES.items()),
        )
    return fitting


def _fits(
    records: Sequence[Record], columns: Sequence[str], shapes: Iterable[str], given: Mapping[str, str]
) -> list[_Fit]:
    """Every shape that these columns allow, best first."""
    if not set(given.values()) <= set(columns):
        return []
    facts = column_facts([record for record in records if not repeats_header(record)], columns)
    shapes = tuple(shapes)
    options = [_fit(name, facts, given, is_only=len(shapes) == 1) for name in shapes]
    return sorted((fit for fit in options if fit is not None and fit.score >= _LEAST_SCORE), key=lambda fit: -fit.score)


def _fit(name: str, facts: Mapping[str, ColumnFacts], given: Mapping[str, str], *, is_only: bool) -> _Fit | None:
    shape = SHAPES[name]
    columns = dict(given)
    evidence = dict.fromkeys(given, "as set")
    scores = dict.fromkeys(given, 1.0)
    for part, column, weight in _by_name(shape.required, facts, columns):
        columns[part], evidence[part], scores[part] = column, "by name", weight
    if _prefer_details(columns, evidence, facts, fixed=given):
        scores["question"] = _SETTLED
    missing = [part for part in shape.required if part not in columns]
    if shape.anchor in missing and not is_only:
        return None
    for part, guess in guess_parts(missing, facts, columns).items():
        columns[part], evidence[part], scores[part] = guess.column, guess.why, guess.strength
    if any(part not in columns for part in shape.required):
        return None
    for part, column, weight in _by_name(shape.optional, facts, columns):
        if weight >= _SETTLED:
            columns[part], evidence[part] = column, "by name"
    order = [part for part in (*shape.required, *shape.optional) if part in columns]
    rows = max((fact.filled for fact in facts.values()), default=0)
    score = shape.weight * sum(scores[part] for part in shape.required) / len(shape.required)
    if "label" in columns and "label" not in given:
        score *= _class_likeness(facts[columns["label"]], rows)
    return _Fit(name, {part: columns[part] for part in order}, score, evidence)


def _prefer_details(
    columns: dict[str, str], evidence: dict[str, str], facts: Mapping[str, ColumnFacts], *, fixed: Mapping[str, str]
) -> bool:
    """Take "Description" for the question instead of "Subject", where the answer has a column by its own name.

    Returns whether it was done: the two side by side are surer than the name of either.
    """
    heading = columns.get("question")
    if heading is None or "question" in fixed or "answer" not in columns:
        return False
    if normalise_name(heading) not in HEADINGS:
        return False
    taken = set(columns.values())
    fuller = [
        fact
        for fact in facts.values()
        if fact.name not in taken
        and fact.is_prose
        and normalise_name(fact.name) in DETAILS
        and fact.median_length > facts[heading].median_length
    ]
    if fuller:
        columns["question"] = max(fuller, key=lambda fact: fact.median_length).name
        evidence["question"] = f'by name, fuller than "{heading}"'
    return bool(fuller)


def _by_name(
    parts: Sequence[str], facts: Mapping[str, ColumnFacts], taken: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    """(part, column, weight), surest first, each part and column once."""
    beside = side_by_side(facts, _SETTLED)
    ranked = sorted(
        ((beside.get((part, name), _weight(part, fact)), part, name) for part in parts for name, fact in facts.items()),
        key=lambda item: -item[0],
    )
    chosen: dict[str, tuple[str, float]] = {}
    used = set(taken.values())
    for weight, part, column in ranked:
        if weight > 0 and part not in taken and part not in chosen and column not in used:
            chosen[part] = (column, weight)
            used.add(column)
    return [(part, column, weight) for part, (column, weight) in chosen.items()]


def _weight(part: str, fact: ColumnFacts) -> float:
    """How surely a column is this part, by its name and the kind of its cells."""
    if part in CHAT_PARTS or part == "chosen":
        kinds = {"turn", "messages", "conversations"} if part == "chosen" else {part}
        return name_weight(fact.name, part) if fact.kind in kinds else 0.0
    if fact.kind == "nested" and part in _ANSWERS:  # learnt as JSON, where that is its name and not a part of it
        weight = name_weight(fact.name, part)
        return weight if weight > PARTIAL_WEIGHT else 0.0
    if fact.kind not in {"text", "empty"} and (part, fact.kind) != ("system", "turn"):
        return 0.0
    if part in {"context", "system", "input"} and fact.kind == "empty":
        return 0.0
    if part == "label" and fact.is_constant and name_weight(fact.name, part) < _SETTLED:
        return 0.0
    return name_weight(fact.name, part) * (0.9 if fact.kind == "empty" else 1.0)


def _class_likeness(fact: ColumnFacts, rows: int) -> float:
    """1 for few values that come again; little for a column called "target" that holds sentences or is mostly empty."""
    if 2 * fact.filled < rows:
        return 0.5
    if fact.distinct == fact.filled >= _FEWEST_VALUES and name_weight(fact.name, "label") < _SETTLED:
        return 0.3
    if fact.is_class or fact.filled < 20:
        return 1.0
    return 0.9 if fact.distinct <= fact.filled / 2 else 0.3


def _reason(best: _Fit, main: str | None, used: Mapping[str | None, _Fit], rows: Sequence[Record]) -> str:
    """'question/answer: columns "Questions" and "Answers" by name; 98 rows, 72 answers with several lines'."""
    sentence = f"{'/'.join(best.columns)}: {_columns_clause(best)}"
    for sheet, fit in used.items():
        if dict(fit.columns) != dict(best.columns):
            sentence += f'; sheet "{sheet}": {_columns_clause(fit)}'
    return f"{sentence}; {_counts_clause(best, used, rows)}"


def _columns_clause(fit: _Fit) -> str:
    parts = list(fit.columns)
    if len({fit.evidence[part] for part in parts}) == 1 and fit.evidence[parts[0]] in {"by name", "as set"}:
        quoted = [f'"{fit.columns[part]}"' for part in parts]
        joined = " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
        return f"column{'s' if len(quoted) > 1 else ''} {joined} {fit.evidence[parts[0]]}"
    return ", ".join(f'{part} in "{fit.columns[part]}" ({fit.evidence[part]})' for part in parts)


def _counts_clause(best: _Fit, used: Mapping[str | None, _Fit], rows: Sequence[Record]) -> str:
    answering = list(SHAPES[best.shape].required)[-1]
    texts = [cell_text(row.cells.get(used[row.sheet].columns[answering], "")).strip() for row in rows]
    counts = counted(len(rows), "row")
    if best.shape == "label":
        return f"{counts}, {len(set(texts) - {''})} labels"
    several = sum("\n" in text for text in texts)
    if several and answering not in (*CHAT_PARTS, "text"):
        return f"{counts}, {counted(several, answering)} with several lines"
    return counts


def _skipped(sheet: str | None, rows: int, best: _Fit) -> Finding:
    parts = " and ".join(SHAPES[best.shape].required)
    return Finding(
        "warning",
        "skipped_sheet",
        f'sheet "{sheet}" ({counted(rows, "row")}) was skipped: it has no columns for {parts}',
        fix="if it holds examples, give it the same headings, or read it alone with data.sheet and data.columns",
    )


def _is_guessed(best: _Fit) -> bool:
    """Whether a part is none by its name, nor a list of turns."""
    return any(part not in CHAT_PARTS and not why.startswith("by name") for part, why in best.evidence.items())


def _answers_nothing(best: _Fit, facts: Mapping[str, ColumnFacts]) -> bool:
    """Whether a text is taken for the answer to one that asks nothing, by its cells and its name; or to one behind it,
    as "act" to "prompt"."""
    answer = next((part for part in _ANSWERS if part in best.columns), None)
    asking = SHAPES[best.shape].required[0]
    if answer is None or best.evidence[answer] in {"by name", "as set"} or best.evidence[asking] == "as set":
        return False
    question, order = best.columns[asking], list(facts)
    is_behind = order.index(best.columns[answer]) < order.index(question)
    return facts[question].question_share < QUESTION_SHARE and (name_weight(question, asking) < _SETTLED or is_behind)


def _alone(best: _Fit, rows: Sequence[Record], columns: Sequence[str]) -> list[Finding]:
    """What to say of texts, and of those that are taken for classified by their cells alone."""
    text, label = best.columns["text"], best.evidence.get("label")
    found = threads(rows, columns, text) if label not in {"by name", "as set"} else []
    return found or (unanswered(rows, columns, text) if label is None and best.score >= _BY_NAME else [])


def _uncertain(best: _Fit) -> Finding:
    settings = " ".join(f'--data.columns.{part} "{column}"' for part, column in best.columns.items())
    return Finding(
        "warning",
        "columns_guessed",
        f"the names of the columns do not all tell what they are; taken by content: {_columns_clause(best)}",
        fix=f"check that; to set it yourself: {settings}",
    )


def _nothing_fits(table: Table, config: DataConfig, shapes: Sequence[str]) -> DataError:
    required = SHAPES[shapes[0] if len(shapes) == 1 else "qa"].required
    wanted = f" as {config.shape}" if config.shape != "auto" else ""
    return unknown_columns(table, required=required, wanted=wanted, shapes=tuple(SHAPES))
