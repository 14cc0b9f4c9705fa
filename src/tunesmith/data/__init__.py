"""Files -> examples -> token ids -> batches. Importing this part does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.data.columns import Detection, detect_columns
from tunesmith.data.corpus import Corpus, absolute_pattern, blocks, read_corpus
from tunesmith.data.curriculum import Curriculum
from tunesmith.data.encode import EncodeReport, encode, ids_sha256, shorten_prompt
from tunesmith.data.mix import Mixture
from tunesmith.data.order import StepPlan
from tunesmith.data.overlap import Overlap, overlaps
from tunesmith.data.prepare import Prepared, prepare_rows
from tunesmith.data.read import READERS, check_path, read
from tunesmith.data.replay import ReplayBuffer, ReplayPlan, RowPlan
from tunesmith.data.report import DataReport
from tunesmith.data.sets import prepare, spread_over_tasks
from tunesmith.data.table import Table

if TYPE_CHECKING:
    from tunesmith.data.batch import batches, collate, groups, shares

__all__ = [
    "READERS",
    "Corpus",
    "Curriculum",
    "DataReport",
    "Detection",
    "EncodeReport",
    "Mixture",
    "Overlap",
    "Prepared",
    "ReplayBuffer",
    "ReplayPlan",
    "RowPlan",
    "StepPlan",
    "Table",
    "absolute_pattern",
    "batches",
    "blocks",
    "check_path",
    "collate",
    "detect_columns",
    "encode",
    "groups",
    "ids_sha256",
    "overlaps",
    "prepare",
    "prepare_rows",
    "read",
    "read_corpus",
    "shares",
    "shorten_prompt",
    "spread_over_tasks",
]


def __getattr__(name: str) -> Any:
    if name in ("batches", "collate", "groups", "shares"):  # the names that need torch
        from tunesmith.data import batch

        return getattr(batch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
