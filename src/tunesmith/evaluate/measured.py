"""What a model found of test rows, as plain numbers and texts: all that scores are made of, and it can be kept.

Knows no model and no score. Who has a file of it needs no model, no tokenizer and no torch to score the rows again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.evaluate.answers import Answer
from tunesmith.evaluate.paired import Floats
from tunesmith.generate import Choice
from tunesmith.runs import keep_result, kept_result

_SCHEMA_VERSION = 2  # 1 had a row for each piece of a long text


@dataclass(frozen=True, slots=True)
class Measured:
    """Of some examples, each known by its place among them.

    asked, texts, skipped: examples that were asked, that are plain text, and that are neither.
    scored, tasks: place and task of those whose likelihood was measured; nll: as `likelihood_rows`, (scored, 3).
    answers: to what was asked; choices: instead of them, where the answers are labels.
    seconds: of all of it.
    """

    asked: Sequence[int]
    texts: Sequence[int]
    skipped: Sequence[int]
    scored: Sequence[int]
    tasks: Sequence[str | None]
    nll: Floats
    answers: Sequence[Answer]
    choices: Sequence[Choice]
    seconds: float

    def keep(self, path: Path) -> None:
        """Write it.

        Raises:
            ResourceError: the disk is full, read-only, over quota or closed to us.
        """
        content = {
            **{"asked": self.asked, "texts": self.texts, "skipped": self.skipped},
            **{"scored": self.scored, "tasks": self.tasks, "nll": self.nll.tolist()},
            "answers": [asdict(answer) for answer in self.answers],
            "labels": list(self.choices[0].labels) if self.choices else [],
            "choices": [list(choice.log_likelihoods) for choice in self.choices],
            "seconds": self.seconds,
        }
        keep_result(path, content, version=_SCHEMA_VERSION)

    @staticmethod
    def kept(path: Path) -> Measured | None:
        """What was written; None where nothing was, or nothing that this version reads."""

        def build(content: dict[str, Any]) -> Measured:
            labels = tuple(content.pop("labels"))
            return Measured(
                **{
                    **content,
                    "nll": np.array(content["nll"], dtype=np.float64).reshape(-1, 3),
                    "answers": [Answer(**answer) for answer in content["answers"]],
                    "choices": [Choice(labels, tuple(found)) for found in content["choices"]],
                }
            )

        return kept_result(path, build, version=_SCHEMA_VERSION)
