"""Ratings of made-up answers on disk."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.rating import Item, Session, begin

# No question, answer or page holds these: wherever they appear, a model is named.
NAMES = ("zz-base-zz", "zz-tuned-zz", "zz-third-zz", "zz-fourth-zz")

Begin = Callable[..., Session]


@pytest.fixture
def rating(tmp_path: Path) -> Begin:
    """rating(5, models=3) -> a rating of 5 questions, sides drawn from seed 0; other options are those of begin."""

    def start(questions: int, *, models: int = 2, items: list[Item] | None = None, **options: Any) -> Session:
        asked = items or [
            Item(
                f"Question {n}?", f"Right {n}.", {name: f"Text {NAMES.index(name)} of {n}." for name in NAMES[:models]}
            )
            for n in range(questions)
        ]
        source = tmp_path / "answers.jsonl"
        rows = [{"question": one.question, "reference": one.reference, "answers": one.answers} for one in asked]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return begin(tmp_path / "rating", source, asked, **{"draw": random.Random(0), **options})

    return start
