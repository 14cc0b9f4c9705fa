"""A folder of a data set -> Table: saved by the `datasets` library, or of parquet files as on the hub.

Needs pyarrow alone, runs no code of the data set and asks no network. Which split is meant goes by what it is for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.readers.parquet import table_of
from tunesmith.data.table import Table
from tunesmith.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# data, validation or test (what rows are for) -> names of splits, the first that is there
_WANTED: Mapping[str, tuple[str, ...]] = {
    "data": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "eval", "validation", "valid", "val", "dev"),
}
_STATE = "state.json"  # datasets.Dataset.save_to_disk writes it beside the rows
# As the hub names parquet files: data/train-00000-of-00002.parquet, main/test/0000.parquet, validation.parquet
_SPLIT = re.compile(r"(?:^|/)(?P<split>[A-Za-z]\w*?)(?:-\d+-of-\d+(?:-\w+)?|/\d+)?\.parquet$")


@dataclass(frozen=True, slots=True)
class _Split:
    """The files of one split, in order; `is_arrow`: streams of Arrow, else parquet."""

    name: str
    files: tuple[Path, ...]
    is_arrow: bool


def is_saved(folder: Path) -> bool:
    """Whether a folder holds a data set."""
    return folder.is_dir() and bool(_splits(folder))


def read_saved(folder: Path, side: str) -> Table:
    """The split that fits what the rows are for. Rows are numbered from 1, labels are their names.

    Args:
        side: data (to train on), validation or test.

    Raises:
        DataError: there is no data set, none of several splits fits, or a file is damaged.
    """
    split = _chosen(folder, _splits(folder), side)
    import pyarrow as pa

    digest = hashlib.sha256()
    tables = []
    for file in split.files:
        try:
            content = file.read_bytes()
            digest.update(content)
            tables.append(_table(content, is_arrow=split.is_arrow))
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{file} cannot be read", cause=str(error), fix="save or copy the data set again"
            ) from error
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(
            f"the files of {folder} have different columns",
            cause=str(error),
            fix="save the data set again with the same columns in each file",
        ) from error
    kind = "arrow" if split.is_arrow else "parquet"
    return table_of(table, str(folder), kind, digest.hexdigest())


def _table(content: bytes, *, is_arrow: bool) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferReader(content)
    table = pa.ipc.open_stream(buffer).read_all() if is_arrow else pq.read_table(buffer)
    table.validate(full=True)
    return table


def _chosen(folder: Path, splits: Sequence[_Split], side: str) -> _Split:
    """Raises DataError: there is none, or none that fits."""
    if len(splits) == 1:
        return splits[0]
    by_name = {split.name.lower(): split for split in splits}
    for name in _WANTED[side]:
        if name in by_name:
            return by_name[name]
    if not splits:
        raise DataError(
            f"{folder} holds no data set", fix="name a file, or a folder that the datasets library has saved"
        )
    names = ", ".join(sorted(split.name for split in splits))
    wanted = " or ".join(dict.fromkeys(_WANTED[side]))
    one = splits[0].files[0].parent if splits[0].is_arrow else splits[0].files[0]
    raise DataError(
        f"{folder} has several splits and none is named {wanted}: {names}",
        fix=f"name the one that you mean, such as {one}",
    )


def _splits(folder: Path) -> list[_Split]:
    """Every split of a folder: of datasets.DatasetDict a folder each, of parquet the files of one name.

    Raises:
        DataError: it holds several data sets with splits of the same names, as main/ and socratic/ of gsm8k.
    """
    if (folder / _STATE).is_file():
        return [_saved_split(folder)]
    saved = [_saved_split(path.parent) for path in sorted(folder.glob(f"*/{_STATE}"))]
    if saved:
        return saved
    files: dict[str, list[Path]] = {}
    above: dict[str, dict[str, None]] = {}  # the folders that have a split of this name
    depths = ("*.parquet", "*/*.parquet", "*/*/*.parquet")  # as the hub lays them out; not the whole of a home folder
    for path in sorted(path for depth in depths for path in folder.glob(depth)):
        place = path.relative_to(folder)
        found = _SPLIT.search(place.as_posix())
        split = found["split"] if found else path.stem
        files.setdefault(split, []).append(path)
        above.setdefault(split, {})[place.as_posix()[: found.start()] if found else place.parent.as_posix()] = None
    for split, folders in above.items():
        if len(folders) > 1:
            raise DataError(
                f"{folder} holds several data sets, each with {split}: {', '.join(folders)}",
                fix=f"name the folder of one, such as {folder / max(folders)}",
            )
    return [_Split(name, tuple(paths), is_arrow=False) for name, paths in files.items()]


def _saved_split(folder: Path) -> _Split:
    """Raises DataError: its state.json cannot be read, or its rows are a selection that was never written out."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        files = tuple(folder / one["filename"] for one in state["_data_files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / _STATE} is damaged", cause=str(error), fix="save the data set again") from error
    if state.get("_indices_files"):
        raise DataError(
            f"{folder} keeps a selection of its rows beside them, as an old version of datasets saved it",
            fix="load it and save it again: datasets.load_from_disk(OLD).flatten_indices().save_to_disk(NEW)",
        )
    return _Split(folder.name, files, is_arrow=True)
