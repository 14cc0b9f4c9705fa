"""Several data sets, as a user lists them, and what can be wrong with the list.

Rules about numbers are checked here and not by limits of the fields, so that all problems of a list are told together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

Format = Literal["auto", "xlsx", "xls", "ods", "csv", "tsv", "json", "jsonl", "parquet", "txt"]
Shape = Literal["auto", "qa", "instruction", "prompt", "messages", "sharegpt", "text", "label"]

_TASK_NAME = re.compile(r"\w[\w .-]*")
# Settings of the section data that an entry may have for itself; what it leaves out is the section's.
READER_SETTINGS = ("validation_path", "test_path", "format", "sheet", "delimiter", "encoding", "shape", "columns")


class DataSet(BaseModel):
    """One of several training files. Written {path, task, weight, ...}, or as its path alone.

    task: name of what it teaches; without it, the file's name. weight: how often its rows are seen, compared with
    those of a data set of weight 1. The others are those of the section data, for this file alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    path: str
    task: str | None = None
    weight: float = 1.0
    validation_path: str | None = None
    test_path: str | None = None
    format: Format | None = None
    sheet: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    shape: Shape | None = None
    columns: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, written: Any) -> Any:
        return {"path": written} if isinstance(written, str) else written

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        named = {"path": self.path, "task": self.task, "weight": self.weight}
        return {name: value for name, value in {**named, **self.own_settings}.items() if value is not None}

    @property
    def own_settings(self) -> dict[str, Any]:
        """What it says about itself that would else be the section's."""
        given = {name: getattr(self, name) for name in READER_SETTINGS}
        return {name: value for name, value in given.items() if value is not None}


def task_names(sets: Sequence[DataSet]) -> list[str]:
    """The task of each data set: its own, else the name of its file, with a number where that is taken.

    >>> task_names([DataSet(path="a/faq.csv"), DataSet(path="b/faq.csv"), DataSet(path="c.csv", task="maths")])
    ['faq', 'faq-2', 'maths']
    """
    taken = {one.task for one in sets if one.task is not None}
    names = []
    for one in sets:
        name = one.task
        if name is None:
            stem = re.sub(r"[^\w .-]+", "-", Path(one.path).name.split(".")[0]).strip("-. ") or "data"
            name, number = stem, 1
            while name in taken:
                number += 1
                name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def data_set_problems(sets: Sequence[DataSet]) -> list[str]:
    """Everything that is wrong with the list, each with what to write instead."""
    titles = [f"data set {number} ({one.path})" for number, one in enumerate(sets, start=1)]
    problems = []
    for title, one in zip(titles, sets, strict=True):
        if one.weight <= 0:
            problems.append(
                f"{title} has weight {one.weight:g}: a weight is above 0; leave out a file that is not used"
            )
        if one.task is not None and not _TASK_NAME.fullmatch(one.task):
            problems.append(
                f"{title} has the task {one.task!r}: a name begins with a letter or a digit and goes on with letters, "
                "digits, spaces, dots and dashes"
            )
        if one.delimiter is not None and len(one.delimiter) != 1:
            problems.append(f"{title} has the delimiter {one.delimiter!r}: a delimiter is one character")
    for what, values in (("task", [one.task for one in sets]), ("path", [one.path for one in sets])):
        for value in dict.fromkeys(value for value in values if value is not None and values.count(value) > 1):
            places = [title for title, other in zip(titles, values, strict=True) if other == value]
            fix = "give each its own name, or put their rows into one file" if what == "task" else "list it once"
            problems.append(f"{' and '.join(places)} have the same {what} {value!r}: {fix}")
    return problems
