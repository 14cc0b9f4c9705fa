"""parquet -> Table. Strings are exact, nested values stay nested."""

from __future__ import annotations

from tunesmith.data.readers.nested import keep_nested
from tunesmith.data.readers.source import Source
from tunesmith.data.table import Table
from tunesmith.errors import DataError
from tunesmith.types import Record


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
    records = tuple(
        Record(number, {name: keep_nested(value) for name, value in row.items()})
        for number, row in enumerate(table.to_pylist(), start=1)
    )
    return Table(str(source.path), "parquet", records, tuple(table.column_names), sha256=source.sha256)
