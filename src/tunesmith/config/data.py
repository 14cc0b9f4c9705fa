"""The section data of the settings: which rows, how they are read and divided."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from tunesmith.config.datasets import DataSet, Format, Shape, data_set_problems, task_names
from tunesmith.config.section import Section, setting


class SplitConfig(Section):
    """Shares of the rows that go to training, validation and test."""

    train: float = setting(0.8, "Share of rows to train on; what the others leave when one of them is set.", gt=0, le=1)
    validation: float = setting(0.1, "Share of rows that choose the best checkpoint.", ge=0, lt=1)
    test: float = setting(0.1, "Share of rows kept for the final measurement.", ge=0, lt=1)

    def check_together(self) -> None:
        """What is not set of training is the rest, as where another trainer's file sets the share of validation."""
        others = self.validation + self.test
        if "train" not in self.model_fields_set and others < 1:
            vars(self)["train"] = round(1 - others, 6)  # an assignment would say that it was set
        if abs(self.train + others - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, found {self.train + others:g}")


class DataConfig(Section):
    """Which rows, how they are read and divided."""

    path: str | None = setting(
        None,
        "Training file: xlsx, xls, ods, csv, tsv, json, jsonl, parquet, txt; or a data set's folder.",
    )
    sets: list[DataSet] = setting(
        [],
        "Several training files instead of one: path, task (a name), weight, and its own validation_path, test_path, "
        "format, sheet, delimiter, encoding, shape and columns where they differ from the others'.",
    )
    temperature: float = setting(
        1.0,
        "Mixing of data.sets: shares go by weight x rows^(1/temperature); above 1 small files count for more.",
        gt=0,
    )
    validation_path: str | None = setting(None, "Separate validation file; without it rows are split off.")
    test_path: str | None = setting(None, "Separate test file; without it rows are split off.")
    format: Format = setting("auto", "File format; auto goes by name and content.")
    sheet: str | None = setting(None, "Worksheet of a workbook; without it every visible sheet with rows is read.")
    delimiter: str | None = setting(
        None, "Column delimiter of csv and tsv; detected when unset.", min_length=1, max_length=1
    )
    encoding: str | None = setting(None, "Text encoding such as utf-8 or cp1252; detected when unset.")
    shape: Shape = setting("auto", "What a row is; auto scores every shape and says why it chose one.")
    columns: dict[str, str] = setting(
        {}, "Column for each part when detection is wrong, such as {question: Frage, answer: Antwort}."
    )
    split: SplitConfig = Field(default_factory=SplitConfig, description="Shares of the split.")
    drop_duplicates: bool = setting(True, "Drop rows that repeat an earlier row exactly, after whitespace is tidied.")
    max_rows: int | None = setting(
        None, "Use at most this many rows of a file, drawn with the seed.", unit="rows", ge=1
    )
    max_length: int = setting(512, "Longest example; longer ones follow data.truncation.", unit="tokens", ge=8)
    truncation: Literal["prompt", "drop", "answer", "error"] = setting(
        "prompt",
        "Over-long example: prompt shortens the question and keeps the answer whole, drop leaves the row out, "
        "answer cuts its end (the stop token stays), error refuses.",
    )

    @field_validator("sets")
    @classmethod
    def _sets_fit(cls, sets: list[DataSet], info: ValidationInfo) -> list[DataSet]:
        problems = data_set_problems(sets)
        if sets and info.data.get("path") is not None:
            problems.append(
                f"data.path is {info.data['path']}: list that file in data.sets too, or leave out one of them"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return sets

    def check_together(self) -> None:
        given = [name for name in ("validation_path", "test_path") if getattr(self, name) is not None]
        if len(self.sets) > 1 and given:
            names = " and ".join(f"data.{name}" for name in given)
            raise ValueError(f"{names} of several data sets: write it in the entry of data.sets that it belongs to")
        if len(self.sets) < 2 and self.temperature != 1:
            raise ValueError(f"data.temperature = {self.temperature:g} mixes several data sets: list them in data.sets")

    @property
    def has_file(self) -> bool:
        """Whether any training file is named."""
        return self.path is not None or bool(self.sets)

    @property
    def files(self) -> list[str]:
        """The training files."""
        return [self.path] if self.path is not None else [one.path for one in self.sets]

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each task of several data sets; empty for one file."""
        if len(self.sets) < 2:
            return {}
        return {task: one.weight for task, one in zip(task_names(self.sets), self.sets, strict=True)}

    def each(self) -> list[DataConfig]:
        """The settings to read each training file with, as if it were the only one."""
        if not self.sets:
            return [self]
        plain = self.model_copy(update={"sets": [], "temperature": 1.0})
        return [plain.model_copy(update={"path": one.path, **one.own_settings}) for one in self.sets]
