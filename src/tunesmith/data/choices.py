"""Multiple choice in columns, or with a list of choices -> the choices in the question, the right one's text to answer.

    Question | A   | B    | Answer        question: Ice is       answer: cold
    Ice is   | hot | cold | B        ->             A. hot
                                                    B. cold

Done where nearly all answers name a choice; what is found is told. Knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

from tunesmith.config import DataConfig
from tunesmith.data.clean import tidy
from tunesmith.data.examples import repeats_header
from tunesmith.data.facts import column_facts
from tunesmith.data.names import CHOICES, RIGHT, name_weight, normalise_name, without_remark
from tunesmith.data.notices import example_place
from tunesmith.data.table import Table, cell_text, counted
from tunesmith.errors import DataError
from tunesmith.types import Finding, Record

_PARTS = {"question", "answer", "context", "system"}
_ASKING = ("question", "prompt", "instruction")
_MOST_NAMED = 0.9  # of the answers, from which on they name choices, and the others are slips
_MOST_CHOICES = 20
_WORDS = "|".join(sorted(CHOICES, key=len, reverse=True))
_COLUMN = re.compile(rf"(?P<word>{_WORDS})? ?(?P<mark>[a-z]|\d{{1,2}})")
_NAMED = re.compile(rf"[\W_]*(?:(?:{_WORDS})[\W_]*)?(?P<mark>[a-z]|\d{{1,2}})(?![^\W_])[\W_]*", re.IGNORECASE)
_BETWEEN = re.compile(r"[,;/&+]")
_EXPLAINED = re.compile(r"\s+[-–—]\s.*", re.DOTALL)  # "Answer 1 - max 75 characters", as in the template of Kahoot


class _Choice(NamedTuple):
    mark: str
    text: str  # empty where a row has fewer choices than others


def with_choices(question: str, choices: Sequence[tuple[str, str]]) -> str:
    r"""A question with its choices, of which each has a mark and a text, below it.

    >>> with_choices("Ice is", [("A", "hot"), ("B", "cold")])
    'Ice is\nA. hot\nB. cold'
    """
    return "\n".join([question, *(f"{mark}. {text}" for mark, text in choices)])


def unfold_choices(table: Table, config: DataConfig) -> Table:
    """The table with the choices in its questions and their texts as answers, or as it is.

    Raises:
        DataError: no column says which of the choices is right.
    """
    if config.shape not in ("auto", "qa") or not set(config.columns) <= _PARTS:
        return table
    columns = _choice_columns([name for name in table.columns if name not in config.columns.values()])
    if not columns:
        return table
    of_row = {id(row): _choices(row, columns) for row in table.records if not repeats_header(row)}
    rows = [row for row in table.records if sum(bool(choice.text) for choice in of_row.get(id(row), ())) > 1]
    free = [name for name in table.columns if name not in columns.values()]
    answer = config.columns.get("answer") or _answer_column(free)
    question = config.columns.get("question") or _question_column(rows, [name for name in free if name != answer])
    if not rows or question is None:
        return table
    if answer is None:
        if _are_choices_only(columns) and any(name_weight(question, part) > 0 for part in _ASKING):
            raise _none_right(table, list(columns.values()), rows)
        return table
    said = [tidy(cell_text(row.cells.get(answer))) for row in rows]
    right = _right(said, [of_row[id(row)] for row in rows])
    unknown = [row for row, text, found in zip(rows, said, right, strict=True) if text and not found]
    if sum(map(bool, right)) < max(1, _MOST_NAMED * sum(map(bool, said))):
        return table
    asked = {
        id(row): with_choices(text, [choice for choice in of_row[id(row)] if choice.text]) if text else ""
        for row in rows
        for text in [tidy(cell_text(row.cells.get(question)))]
    }
    answers = {id(row): found or text for row, text, found in zip(rows, said, right, strict=True)}
    name = answer if name_weight(answer, "answer") > 0 or answer in config.columns.values() else "answer"

    def unfolded(row: Record) -> Record:
        if id(row) not in of_row:
            return row
        kept = {key: cell for key, cell in row.cells.items() if key not in columns.values()}
        kept = {name if key == answer else key: cell for key, cell in kept.items()}
        if id(row) in asked:
            kept |= {question: asked[id(row)], name: answers[id(row)]}
        return replace(row, cells=kept)

    return replace(
        table,
        records=tuple(map(unfolded, table.records)),
        columns=tuple(name if column == answer else column for column in free),
        findings=(*table.findings, *_told(rows, columns, answer, unknown, several_sheets=len(table.sheets) > 1)),
    )


def _choice_columns(names: Sequence[str]) -> dict[str, str]:
    """Mark -> column of the longest row of names such as "A", "B" or "Option 1", "Option 2"; else "" -> the lists."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = _marked(name)
        if match is not None:
            found.setdefault(match["word"] or "", {}).setdefault(match["mark"], name)
    rows: list[dict[str, str]] = []
    for by_mark in found.values():
        for order in (
            ascii_uppercase,
            [str(number) for number in range(1, 100)],
            [str(number) for number in range(99)],
        ):
            end = next((place for place, mark in enumerate(order) if mark.lower() not in by_mark), len(order))
            rows.append({mark: by_mark[mark.lower()] for mark in order[:end]})
    longest = max(rows, key=len, default={})
    if len(longest) > 1:
        return longest
    lists = [name for name in names if normalise_name(name) in CHOICES and not name_weight(name, "answer")]
    return {"": lists[0]} if lists else {}


def _marked(name: str) -> re.Match[str] | None:
    """Word and mark of a column of choices; what explains its name, in brackets or behind a dash, does not count."""
    return _COLUMN.fullmatch(normalise_name(_EXPLAINED.sub("", without_remark(name))))


def _are_choices_only(columns: Mapping[str, str]) -> bool:
    """Whether these cannot be answers of their own: "A", "B" and "Option 1" cannot; "Answer 1", years and lists can."""
    match = None if "" in columns else _marked(next(iter(columns.values())))
    if match is None:
        return False
    return name_weight(match["word"], "answer") == 0 if match["word"] else match["mark"] == "a"


def _none_right(table: Table, names: Sequence[str], rows: Sequence[Record]) -> DataError:
    return DataError(
        f'{table.path} has choices in columns "{names[0]}" to "{names[-1]}" ({counted(len(rows), "row")}), '
        "and no column that says which of them is right",
        fix='add a column "Answer" with the letter, the number or the text of the right choice; '
        f'or, if one of them is always the answer, name it: --data.columns.answer "{names[0]}"',
    )


def _choices(row: Record, columns: Mapping[str, str]) -> list[_Choice]:
    if "" in columns:
        listed = row.cells.get(columns[""])
        if not isinstance(listed, list) or len(listed) > _MOST_CHOICES or any(isinstance(one, dict) for one in listed):
            return []
        return [_choice(mark, cell) for mark, cell in zip(ascii_uppercase, listed, strict=False)]
    return [_choice(mark, row.cells.get(column)) for mark, column in columns.items()]


def _choice(mark: str, cell: object) -> _Choice:
    """Its text without the mark, where that is written before it: "A) hot"."""
    text = tidy(cell_text(cell))
    return _Choice(mark, re.sub(rf"^\(?{mark}[.):]\s*(?=\S)", "", text))


def _answer_column(names: Sequence[str]) -> str | None:
    """The column that is the answer by its name; without any, the one that says which choice is right."""
    by_name = max(names, key=lambda name: name_weight(name, "answer"), default="")
    if by_name and name_weight(by_name, "answer") > 0:
        return by_name
    return next((name for name in names if set(normalise_name(name).split()) & RIGHT), None)


def _question_column(rows: Sequence[Record], names: Sequence[str]) -> str | None:
    """The column that asks by its name, else the only one of text."""
    facts = [fact for fact in column_facts(rows, names).values() if fact.kind == "text"]
    for part in _ASKING:
        best = max(facts, key=lambda fact: name_weight(fact.name, part), default=None)
        if best is not None and name_weight(best.name, part) > 0:
            return best.name
    prose = [fact.name for fact in facts if fact.is_prose]
    return prose[0] if len(prose) == 1 else None


def _right(said: Sequence[str], choices: Sequence[Sequence[_Choice]]) -> list[str | None]:
    """The text of the choice that each answer names: by mark or place, or by the text itself if as many do that.

    Texts that are always the same choice are none: "Answer 1" beside "Answer" may be its draft.
    """
    first = _first_number(said, choices)
    by_mark = [_of_mark(text, given, first) for text, given in zip(said, choices, strict=True)]
    by_text = [_of_text(text, given) for text, given in zip(said, choices, strict=True)]
    if sum(map(bool, by_mark)) > sum(map(bool, by_text)):
        return [named or (written and written.text) for named, written in zip(by_mark, by_text, strict=True)]
    is_quiz = len({written.mark for written in by_text if written}) > 1
    return [written.text if written and is_quiz else None for written in by_text]


def _of_text(said: str, choices: Sequence[_Choice]) -> _Choice | None:
    return next((choice for choice in choices if said and choice.text.casefold() == said.casefold()), None)


def _first_number(said: Collection[str], choices: Sequence[Sequence[_Choice]]) -> int | None:
    """What the first choice is called where choices are counted: 0 or 1, None where nothing tells."""
    named = (_NAMED.fullmatch(part) for text in said for part in _BETWEEN.split(text))
    numbers = {int(match["mark"]) for match in named if match and match["mark"].isdigit()}
    marks = {choice.mark for given in choices for choice in given}
    if 0 in numbers or "0" in marks:
        return 0
    return 1 if "1" in marks or max(numbers, default=0) == max(map(len, choices)) else None


def _of_mark(said: str, choices: Sequence[_Choice], first: int | None) -> str | None:
    """Of "B", "(b)", "2", "Option 2", "B. cold"; of several, "A, C", a line for each."""
    found = [_one_of_mark(part, choices, first) for part in (said, *_BETWEEN.split(said))]
    return found[0] or ("\n".join(filter(None, found[1:])) if all(found[1:]) else None)


def _one_of_mark(said: str, choices: Sequence[_Choice], first: int | None) -> str | None:
    match = _NAMED.match(said)
    if match is None:
        return None
    mark, rest = match["mark"].lower(), said[match.end() :]
    if mark.isdigit() and first is None:
        return None
    place = int(mark) - (first or 0) if mark.isdigit() else ascii_lowercase.index(mark)
    text = choices[place].text if 0 <= place < len(choices) else ""
    return text if text and rest.strip().casefold() in ("", text.casefold()) else None


def _told(
    rows: Sequence[Record], columns: Mapping[str, str], answer: str, unknown: Sequence[Record], *, several_sheets: bool
) -> list[Finding]:
    first, *others = columns.values()
    of = f'columns "{first}" to "{others[-1]}"' if others else f'column "{first}"'
    told = [
        Finding(
            "note",
            "flattened",
            f"{counted(len(rows), 'row')} of multiple choice: the choices, in {of}, went into the question, answers "
            f'are the text of the right one, by column "{answer}"',
        )
    ]
    if unknown:
        shown = cell_text(unknown[0].cells.get(answer)).strip()
        told.append(
            Finding(
                "warning",
                "unknown_choices",
                f"{counted(len(unknown), 'answer')} that name{'s' if len(unknown) == 1 else ''} none of the choices, "
                f'such as "{shown}", learnt as written',
                fix="correct them in the source",
                rows=tuple(example_place(row, several_sheets=several_sheets) for row in unknown),
            )
        )
    return told
