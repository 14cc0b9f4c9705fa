"""Texts that are learnt each by itself and may not be meant so: messages of a thread, questions, comments.

Told, never changed. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.data.facts import ColumnFacts, column_facts
from tunesmith.data.guess import QUESTION_SHARE
from tunesmith.data.names import HEADINGS, ORDINARY_WEIGHT, name_weight, normalise_name
from tunesmith.data.table import cell_text
from tunesmith.types import Finding, Record

_TOGETHER = frozenset({"thread", "conversation", "chat", "session", "dialog", "dialogue"})
_MOST_ASKING = 0.7  # of the texts, up to which the others may be their answers
_ABOVE = frozenset({"parent", "reply", "response"})
_TOPIC = frozenset({"topic", "id"})  # of a forum; a topic by its name is a class


def threads(records: Sequence[Record], columns: Sequence[str], text: str) -> list[Finding]:
    """Whether rows belong together by a column, and none says who answers."""
    facts = column_facts(records, columns)
    name = next((fact.name for fact in facts.values() if fact.name != text and _ties(fact, records, facts)), None)
    if name is None:
        return []
    return [
        Finding(
            "warning",
            "loose_rows",
            f'column "{name}" says which rows belong together, but they could not be put together, so each is learnt '
            "by itself",
            fix='write a question and its answer in a row, or add columns "conversation" and "role" (user or '
            "assistant); if each row stands alone: --data.shape text",
        )
    ]


def unanswered(records: Sequence[Record], columns: Sequence[str], text: str) -> list[Finding]:
    """Whether the texts ask, or may answer another column, as "Comment" does "Description"."""
    facts = column_facts(records, columns)
    answered = f'if one does: --data.columns.question "{text}" --data.columns.answer NAME'
    if len(columns) == 1:
        answered = 'if there are answers, write each beside its question, in columns "Question" and "Answer"'
    if name_weight(text, "question") or QUESTION_SHARE <= facts[text].question_share <= _MOST_ASKING:
        return [
            Finding(
                "warning",
                "questions_alone",
                f'no column answers "{text}", so its cells are learnt as plain text',
                fix=f"{answered}; if not: --data.shape text",
            )
        ]
    if name_weight(text, "text") > ORDINARY_WEIGHT:
        return []
    asking = [
        fact
        for name, fact in facts.items()
        if name != text and fact.is_prose and name_weight(name, "question") and normalise_name(name) not in HEADINGS
    ]
    if not asking:
        return []
    name = max(asking, key=lambda fact: fact.median_length).name
    return [
        Finding(
            "warning",
            "answers_alone",
            f'column "{text}" is learnt as plain text; it may answer "{name}"',
            fix=f'if it does: --data.columns.question "{name}" --data.columns.answer "{text}"; '
            "if not: --data.shape text",
        )
    ]


def _ties(fact: ColumnFacts, records: Sequence[Record], facts: Mapping[str, ColumnFacts]) -> bool:
    """Whether its name speaks of threads and its cells come again, or of a parent and they are ids."""
    words = set(normalise_name(fact.name).split())
    if fact.kind != "text" or fact.mean_words > 1:
        return False
    if words & _TOGETHER or words >= _TOPIC:
        return 1 < fact.distinct < fact.filled
    if not words & _ABOVE or fact.distinct < 2:
        return False
    cells = _cells(records, fact.name)
    ids = [other.name for other in facts.values() if other.distinct == other.filled and other.name != fact.name]
    others = (_cells(records, name) for name in ids)
    return "id" in words or any(2 * len(cells & other) > len(cells) for other in others)


def _cells(records: Sequence[Record], name: str) -> set[str]:
    return {cell_text(row.cells.get(name)).strip() for row in records} - {""}
