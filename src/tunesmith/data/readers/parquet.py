"""parquet -> Table. Strings are exact, class labels are their names, nestings are laid flat as those of JSON are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tunesmith.data.readers.nested import records_of
from tunesmith.data.readers.source import Source
from tunesmith.data.table import Table, columns_of
from tunesmith.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(source: Source) -> Table:
    """Rows are numbered from 1.

    Raises:
        DataError: the file is not parquet, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(source.content))
        table.validate(full=True)  # bytes that are not UTF-8 would come to light in the middle of a row
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{source.path} is not a readable parquet file", cause=str(error), fix="write or copy it again"
        ) from error
    return table_of(table, str(source.path), "parquet", source.sha256)


def table_of(table: pa.Table, path: str, format_name: str, sha256: str) -> Table:
    """Rows numbered from 1. A label that the `datasets` library keeps as a number is given as its name.

    Raises:
        DataError: a row lists more questions and answers than can belong together, or a value cannot be read.
    """
    labels = _label_names(table)
    columns = [_cells(table, name, path) for name in table.column_names]
    rows = (
        (number, {name: _named(cell, labels.get(name)) for name, cell in zip(table.column_names, row, strict=True)})
        for number, row in enumerate(zip(*columns, strict=True), start=1)
    )
    records, notes = records_of(path, rows)
    names = columns_of(records) or tuple(table.column_names)
    return Table(path, format_name, records, names, findings=tuple(notes), sha256=sha256)


def _cells(table: pa.Table, name: str, path: str) -> list[Any]:
    """Values of a column. Moments that Python cannot hold, of nanoseconds or far from today, as Arrow writes them."""
    import pyarrow as pa

    column = table.column(name)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        pass
    try:
        return list(column.cast(pa.string()).to_pylist())
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: column {name!r} cannot be read", cause=str(error), fix="write it as text, or leave it out"
        ) from error


def _label_names(table: pa.Table) -> dict[str, list[str]]:
    """Names of the labels of each column of class labels, from the metadata that the `datasets` library writes."""
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: one["names"] for name, one in features.items() if one.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):  # written by another program
        return {}


def _named(value: Any, names: list[str] | None) -> Any:
    is_label = names is not None and isinstance(value, int) and 0 <= value < len(names)
    return names[value] if is_label and names is not None else value
