"""A file of any known format, or a data set's folder -> Table. The format goes by name, JSON's two forms by content."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from tunesmith.config import DataConfig
from tunesmith.data.readers.delimited import read_csv, read_tsv
from tunesmith.data.readers.jsons import holds_array, holds_lines, read_json, read_jsonl
from tunesmith.data.readers.parquet import read_parquet
from tunesmith.data.readers.plain import read_txt
from tunesmith.data.readers.saved import is_saved, read_saved
from tunesmith.data.readers.source import Source, check_file, open_source
from tunesmith.data.readers.workbook import read_xlsx
from tunesmith.data.table import Table
from tunesmith.errors import DataError, SettingsError

READERS: Mapping[str, Callable[[Source], Table]] = {
    "xlsx": read_xlsx,
    "csv": read_csv,
    "tsv": read_tsv,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "txt": read_txt,
}

SUFFIXES: Mapping[str, str] = {
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
}


def read(config: DataConfig, path: str | Path | None = None, *, side: str = "data") -> Table:
    """Read `path`, or `config.path`, in `config.format`. A packed file, such as .csv.gz, is unpacked on the way.

    The folder of a data set (saved by the `datasets` library, or of parquet files) is read as well.

    Args:
        side: what the rows are for: data (to train on), validation or test. Of a folder it chooses the split.

    Raises:
        SettingsError: there is no path.
        DataError: the file is not there, not what it should be, or damaged.
    """
    if path is None and config.path is None:
        raise SettingsError("no data file is named", fix="give a file: tunesmith train FILE, or set data.path")
    place = Path(path if path is not None else config.path or "")
    if is_saved(place):
        return read_saved(place, side)
    source = open_source(
        place,
        sheet=config.sheet,
        delimiter=config.delimiter,
        encoding=config.encoding,
    )
    format_name = _detect_format(source) if config.format == "auto" else config.format
    return READERS[format_name](source)


def check_path(path: Path) -> None:
    """Tell a wrong path without reading rows.

    Raises:
        DataError: there is nothing at `path`, or a folder without a data set.
    """
    if not is_saved(path):
        check_file(path)


def _detect_format(source: Source) -> str:
    suffixes = [suffix.lower() for suffix in source.path.suffixes]
    suffix = next((item for item in reversed(suffixes) if item != ".gz"), "")
    if suffix not in SUFFIXES:
        close = difflib.get_close_matches(suffix, list(SUFFIXES), n=1, cutoff=0.7)
        nearest = f", did you mean {close[0]}?" if close else ""
        old = " (old .xls workbooks: save as .xlsx)" if suffix == ".xls" else ""
        raise DataError(
            f"{source.path} is of no known format: its ending is {suffix or 'missing'}{nearest}",
            cause=f"known endings are {', '.join(SUFFIXES)}{old}",
            fix=f"rename it, or set data.format to one of {', '.join(READERS)}",
        )
    format_name = SUFFIXES[suffix]
    if format_name == "json" and holds_lines(source.content):
        return "jsonl"
    if format_name == "jsonl" and holds_array(source.content):
        return "json"
    return format_name
