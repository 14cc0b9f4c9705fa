"""A run's training rows as its exports need them: to weigh columns by, and as examples for a Modelfile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tunesmith.config import RunConfig
from tunesmith.data import encode, prepare
from tunesmith.errors import DataError
from tunesmith.export import Importance, Trained, is_writable, measure_importance
from tunesmith.model import load_adapter, merge
from tunesmith.runs import Run
from tunesmith.types import Example, Progress

_T = TypeVar("_T")
# Means settle long before: llama.cpp's own guides take some 100 000 tokens, or a hundred pieces of 512.
_ROWS = 256


class TrainingRows:
    """The rows that a run was trained on, read when they are asked for."""

    def __init__(self, run: Run, config: RunConfig, trained: Trained) -> None:
        self._run, self._config, self._trained = run, config, trained

    def importance(self, on_progress: Progress) -> Importance:
        """What enters each linear layer of the trained model, over at most 256 rows spread over all.

        The whole model is in memory for this, in float32.

        Raises:
            DataError: the file is gone or has changed since training.
        """
        config = self._config
        rows, _ = encode(
            _spread(self._read(), _ROWS),
            self._trained.template,
            self._trained.tokenizer,
            max_length=config.data.max_length,
            train_on=config.prompt.train_on,
        )
        model = merge(load_adapter(self._run.model_dir, dtype="float32", device=config.model.device).model)
        return measure_importance(
            model, rows, on_progress=lambda done, total: on_progress("weighing columns on training rows", done, total)
        )

    def pairs(self, count: int) -> tuple[tuple[str, str], ...]:
        """`count` questions with their answers, spread over the shorter half of the rows that are one question.

        They stand before every conversation, so each costs context; and a long row was not trained on whole.

        Raises:
            DataError: there are fewer, or the file is gone or has changed since training.
        """
        if not count:
            return ()
        found = [pair for example in self._read() if (pair := self._pair(example)) is not None]
        if len(found) < count:
            raise DataError(
                f"export.messages is {count}, and {self._run.name} has {len(found)} training rows that are one "
                "question and one answer that a Modelfile can hold",
                fix=f"set it to {len(found)} or less",
            )
        shorter = sorted(range(len(found)), key=lambda index: sum(map(len, found[index])))[
            : max(count, len(found) // 2)
        ]
        return tuple(_spread([found[index] for index in sorted(shorter)], count))

    def _pair(self, example: Example) -> tuple[str, str] | None:
        system = self._config.prompt.system
        turns = [one for one in example.messages if not (one.role == "system" and one.content == system)]
        if [one.role for one in turns] != ["user", "assistant"] or turns[0].context:
            return None
        pair = turns[0].content, turns[1].content
        return pair if all(map(is_writable, pair)) else None

    def _read(self) -> list[Example]:
        prepared = prepare(self._config)
        if prepared.report.sha256 != self._run.manifest["data"]["sha256"]:
            raise DataError(
                f"{' or '.join(self._config.data.files)} has changed since {self._run.name} was trained",
                fix="restore the file, or export without --imatrix and --messages",
            )
        return list(prepared.train)


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """`count` of the items at even distances, all of fewer."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
