"""A file of any known format, or a data set's folder -> Table.

The format of a file goes by content where that is unmistakable, else by the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tunesmith.config import DataConfig
from tunesmith.data.readers.delimited import names_columns, read_csv, read_tsv
from tunesmith.data.readers.jsons import holds_array, holds_lines, read_json, read_jsonl
from tunesmith.data.readers.kinds import BY_ENDING, is_html, recognise, xml_kind
from tunesmith.data.readers.parquet import read_parquet
from tunesmith.data.readers.plain import read_txt
from tunesmith.data.readers.saved import is_saved, read_saved
from tunesmith.data.readers.source import Source, check_file, open_source
from tunesmith.data.readers.workbook import read_ods, read_xls, read_xlsx
from tunesmith.data.table import Table
from tunesmith.errors import DataError, SettingsError, did_you_mean

READERS: Mapping[str, Callable[[Source], Table]] = {
    "xlsx": read_xlsx,
    "xls": read_xls,
    "ods": read_ods,
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
    ".xls": "xls",
    ".ods": "ods",
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
BINARY = ("xlsx", "xls", "ods", "parquet")  # formats that are recognised by their content alone


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
    try:
        format_name = _detect_format(source) if config.format == "auto" else config.format
        return READERS[format_name](source)
    except RecursionError as error:
        raise DataError(f"{place} nests lists and objects too deep to be read", fix="write its rows flat") from error


def check_path(path: Path) -> None:
    """Tell a wrong path without reading rows.

    Raises:
        DataError: there is nothing at `path`, or a folder without a data set.
    """
    if not is_saved(path):
        check_file(path)


def _detect_format(source: Source) -> str:
    """By content where it is unmistakable, else by the name, of which a .gz at the end does not count.

    Raises:
        DataError: nothing here reads it; the message says what it is.
    """
    kind = recognise(source.path, source.content)
    if kind is not None:
        if kind.format is None:
            raise DataError(f"{source.path} is {kind.name}, which cannot be read", fix=kind.fix)
        return kind.format
    suffixes = [suffix.lower() for suffix in source.path.suffixes]
    suffix = next((item for item in reversed(suffixes) if item != ".gz"), "")
    format_name = SUFFIXES.get(suffix)
    if format_name is None or format_name in BINARY:
        raise _misnamed(source, suffix, format_name)
    if format_name == "json" and holds_lines(source.content):
        return "jsonl"
    if format_name == "jsonl" and holds_array(source.content):
        return "json"
    if format_name == "txt" and names_columns(source):
        return "csv"
    return format_name


def _misnamed(source: Source, suffix: str, format_name: str | None) -> DataError:
    """Content that says nothing under a name that says nothing, or the wrong thing."""
    if is_html(source.content):
        fix = "open it in a spreadsheet program and save it as .xlsx; to train on its text set --data.format txt"
        return DataError(f"{source.path} is an HTML page, not a table", fix=fix)
    xml = xml_kind(source.content)
    if xml is not None:
        fix = f"{xml.fix}; to train on its text set --data.format txt"
        return DataError(f"{source.path} is {xml.name}, not a table", fix=fix)
    if suffix in BY_ENDING:
        return DataError(f"{source.path} is {BY_ENDING[suffix].name}, not a table", fix=BY_ENDING[suffix].fix)
    if format_name is not None:
        return DataError(
            f"{source.path} is no {suffix} file, whatever its name says",
            cause="it holds no archive, as a workbook or a parquet file would; it may be text",
            fix="if it is a table in text, set --data.format csv; else save it again from the program that made it",
        )
    nearest = did_you_mean(suffix, SUFFIXES, cutoff=0.7)
    return DataError(
        f"{source.path} is of no known format: its ending is {suffix or 'missing'}{nearest}",
        cause=f"known endings are {', '.join(SUFFIXES)}",
        fix=f"set --data.format to one of {', '.join(READERS)}, or rename it",
    )
