"""Tables whose columns nobody can tell: the error that says what they hold, and what to do.

Knows no shapes but their names.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.clean import is_blank
from tunesmith.data.facts import cell_kind, column_facts
from tunesmith.data.names import ORDINARY_WEIGHT, name_weight
from tunesmith.data.table import Table, cell_text, shortened
from tunesmith.errors import DataError

CHAT_PARTS = ("messages", "conversations")
_MOST_LISTED = 12  # columns in one sentence
_LONGEST_SHOWN = 80  # characters of a cell


def unknown_columns(table: Table, *, required: Sequence[str], wanted: str, shapes: Sequence[str]) -> DataError:
    """
    Args:
        required: parts that a row has to have. wanted: what the rows are to be, in words, or nothing.
        shapes: what rows can be.
    """
    message = f"cannot tell which columns of {table.path} to train on{wanted}"
    nested = chat_column(table)
    if nested is not None:
        return DataError(
            message,
            cause=f"column {nested!r} holds {_first_of(table, nested)}, not lists of turns",
            fix='write a conversation as a list of {"role": "user", "content": ".."} and {"role": "assistant", ..}',
        )
    cause, fix = "", "name them: " + " ".join(f"--data.columns.{part} NAME" for part in required)
    if any(finding.code == "no_header" for finding in table.findings) and "column1" in table.records[0].cells:
        first = _listed(list(map(cell_text, table.records[0].cells.values())))
        cause = f"no row looks like a header: the first one, {first}, was read as data; "
        fix = f"write a row of headings above, such as Question and Answer, and one answer a row; or {fix}"
    return DataError(
        message,
        cause=f"{cause}its columns are {_listed(table.columns)}; neither their names nor their cells say which is the "
        + " and which the ".join(required),
        fix=f"{fix} (data.shape is one of {', '.join(shapes)})",
    )


def chat_column(table: Table) -> str | None:
    """A column that is called as chats are, and holds something else than lists of turns."""
    facts = column_facts(table.records, table.columns).values()
    nested = [fact.name for fact in facts if fact.kind == "nested"]
    return next(
        (name for name in nested if any(name_weight(name, part) > ORDINARY_WEIGHT for part in CHAT_PARTS)), None
    )


def _first_of(table: Table, column: str) -> str:
    """The first cell of a column that holds something else than turns, cut short."""
    filled = [cell for record in table.records if not is_blank([cell := record.cells.get(column)])]
    first = min(filled, key=lambda cell: cell_kind(cell) in CHAT_PARTS, default="")
    return shortened(cell_text(first), _LONGEST_SHOWN)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST_LISTED} more" if len(texts) > _MOST_LISTED else ""
    return (", ".join(repr(shortened(text, _LONGEST_SHOWN)) for text in texts[:_MOST_LISTED]) or "none") + more
